"""Flink's log lies in the folder that it is given, and has an end."""

from __future__ import annotations

from pathlib import Path

from rillet.operators.flink_log import flink_log, log_environment


def test_the_settings_name_the_file_and_a_bound(tmp_path: Path) -> None:
    environment = log_environment(tmp_path / "log")
    assert environment["FLINK_LOG_DIR"] == str(tmp_path / "log")
    lines = Path(environment["LOG4J_PROPERTIES"]).read_text().splitlines()
    settings = {name: value for name, _, value in (line.partition(" = ") for line in lines)}
    assert settings["appender.file.fileName"] == str(flink_log(tmp_path / "log"))
    assert settings["appender.file.layout.pattern"] == "%d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n"
    assert int(settings["appender.file.policies.size.size"]) * int(settings["appender.file.strategy.max"]) == 50 << 20


def test_logs_that_earlier_starts_have_left_are_removed(tmp_path: Path) -> None:
    for name in ("tmp_op_1_db_LOG", "tmp_op_1_db_LOG.old.1", "flink.log", "flink.log.1"):
        (tmp_path / name).touch()
    log_environment(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flink.log", "flink.log.1", "log4j.properties"]
