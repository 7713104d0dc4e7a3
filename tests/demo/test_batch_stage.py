"""The demo's batch stage: which commands it runs, and what it says where they fail."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rillet.demo.batch_stage import join_recording, start_trainer
from rillet.demo.errors import DemoError


class Stack:
    """Commands that are scripts of Python, and processes that are only noted."""

    def __init__(self, folder: Path, script: str = "") -> None:
        self.config = SimpleNamespace(data_dir=folder)
        self.started: list[tuple[str, list[str]]] = []
        self._script = script

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-c", self._script, name]

    def process(self, name: str) -> Any:
        return SimpleNamespace(start=lambda command, environment: self.started.append((name, command[3:])))


RECORDING: Any = SimpleNamespace(directory=Path("var/recordings/monday"))


def test_the_first_requests_are_joined_into_files_and_the_log_is_kept(tmp_path: Path) -> None:
    stack: Any = Stack(tmp_path, "import sys; print(sys.argv[1:])")
    join_recording(stack, RECORDING, 500, tmp_path / "files")
    log = (tmp_path / "services" / "join-recording.log").read_text()
    expected = ["join", "--recording", "var/recordings/monday", "--requests", "500", "--to", str(tmp_path / "files")]
    assert log == f"{expected}\n"


def test_a_join_that_fails_or_takes_too_long_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing: Any = Stack(tmp_path, "import sys; sys.exit('no such recording')")
    with pytest.raises(DemoError, match=r"rillet join --recording failed, see .*join-recording\.log: .* status 1"):
        join_recording(failing, RECORDING, 500, tmp_path / "files")
    assert (tmp_path / "services" / "join-recording.log").read_text() == "no such recording\n"
    monkeypatch.setattr("rillet.demo.batch_stage._JOIN_TIMEOUT_S", 0.05)
    slow: Any = Stack(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(DemoError, match="timed out after"):
        join_recording(slow, RECORDING, 500, tmp_path / "files")


def test_the_trainer_learns_from_the_files_first_where_there_are_some(tmp_path: Path) -> None:
    stack: Any = Stack(tmp_path)
    start_trainer(stack, tmp_path / "files")
    start_trainer(stack, None)
    with_files = ["train", "--batch-from", str(tmp_path / "files"), "--then-online"]
    assert stack.started == [("train", with_files), ("train", ["train"])]
