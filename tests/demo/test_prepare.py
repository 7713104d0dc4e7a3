"""The demo deletes only what a demo has written, and is interrupted once and for all."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from rillet.demo.errors import DemoError
from rillet.demo.prepare import fresh_folder, interruptible, open_recording, uninterrupted
from rillet.recordings.synthetic import generate_synthetic

QUIET = Console(quiet=True)


def test_a_folder_of_an_earlier_demo_is_emptied_and_any_other_is_left_alone(tmp_path: Path) -> None:
    folder = fresh_folder(tmp_path / "run")
    (folder / "old").touch()
    assert not (fresh_folder(folder) / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(DemoError, match="no demo has written"):
        fresh_folder(mine)
    assert (mine / "thesis.tex").exists()


def test_a_given_recording_is_used_as_it_is(tmp_path: Path) -> None:
    generate_synthetic(tmp_path / "mine", requests=3)
    assert open_recording(tmp_path / "mine", "movielens", 100, tmp_path / "run", QUIET).info.requests == 3
    assert not (tmp_path / "run").exists()


def test_without_one_as_many_requests_are_made_as_asked_for(tmp_path: Path) -> None:
    recording = open_recording(None, "synthetic", 5, tmp_path, QUIET)
    assert recording.info.requests == 25  # four times as many are for the batch stage
    assert recording.directory.is_relative_to(tmp_path)


def test_sigterm_interrupts_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_does_not_break_off_the_cleaning_up() -> None:
    cleaned = False
    with interruptible(), uninterrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        cleaned = True
    assert cleaned
