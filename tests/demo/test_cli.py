"""`rillet demo` hands its options on, and its exit status is the demo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.demo import run
from rillet.demo.cli import demo


@pytest.mark.parametrize("status", [0, 1, 130])
def test_options_arrive_and_the_status_is_the_demos(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def run_demo(**options: Any) -> int:
        given.update(options)
        return status

    monkeypatch.setattr(run, "run_demo", run_demo)
    arguments = ["--requests", "7", "--recording", str(tmp_path), "--dataset", "synthetic", "--out", "o"]
    assert CliRunner().invoke(demo, arguments).exit_code == status
    assert given == {"requests": 7, "recording": tmp_path, "dataset": "synthetic", "out": Path("o")}


def test_no_request_at_all_is_refused() -> None:
    result = CliRunner().invoke(demo, ["--requests", "0"])
    assert result.exit_code == 2
    assert "--requests" in result.output


def test_a_folder_that_cannot_be_made_is_refused_in_one_line_before_anything_starts() -> None:
    result = CliRunner().invoke(main, ["demo", "--requests", "5", "--out", "/proc/demo"])
    assert result.exit_code == 2
    assert result.stderr == (
        "rillet demo: /proc/demo/run: cannot be written (No such file or directory): choose another --out\n"
    )
