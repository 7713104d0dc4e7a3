"""How the services log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.jobs.log_format import JsonFormatter, log_to_stderr

SERVICES = ("join", "train", "serve", "dump")


def _record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("rillet.x", logging.WARNING, "x.py", 1, message, arguments, info)


def test_a_json_line_has_time_level_logger_and_message_and_no_line_break() -> None:
    record = _record("two\nlines of %s", "films")
    record.created = 1_700_000_000.25
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "WARNING",
        "logger": "rillet.x",
        "message": "two\nlines of films",
    }


def test_a_json_line_has_the_traceback_of_a_bug() -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        line = json.loads(JsonFormatter().format(_record("failed", error=error)))
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: by zero")


def _without_handlers(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root logger as it is in a new process; called in the test, since pytest adds its own for that."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    return logging.root


def test_less_important_lines_are_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = _without_handlers(monkeypatch)
    log_to_stderr("warning", "text")
    root.info("progress")
    root.warning("trouble")
    assert capsys.readouterr().err.rstrip().endswith("root WARNING trouble")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_ends_with_2_and_its_error_as_a_line_of_the_format_that_was_asked_for(
    tmp_path: Path, service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _without_handlers(monkeypatch)
    arguments = [service, "--config", str(tmp_path / "none.toml"), "--log-format", "json"]
    with pytest.raises(SystemExit) as ended:
        main.main(arguments, standalone_mode=True)
    assert ended.value.code == 2
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "ERROR"
    assert "none.toml: No such file" in line["message"]


@pytest.mark.parametrize("service", SERVICES)
def test_format_and_level_are_options_and_variables_of_every_service(service: str) -> None:
    help_text = CliRunner().invoke(main, [service, "--help"]).output
    assert "RILLET_LOG_LEVEL" in help_text
    assert "RILLET_LOG_FORMAT" in help_text
    refused = CliRunner().invoke(main, [service], env={"RILLET_LOG_FORMAT": "xml"})
    assert refused.exit_code == 2
    assert "'xml' is not one of 'text', 'json'" in refused.stderr
