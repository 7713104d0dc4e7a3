"""Kept state is gone on with under the settings that it was kept under."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import JoinerConfig, JoinerError, KeptSettings, check_kept, newest_snapshot, note_kept
from rillet.schemas import dump_spec, parse_spec
from tests.joiner.support import SPEC

NOW = KeptSettings.of(SPEC, JoinerConfig())
WIDER = parse_spec(dump_spec(SPEC).replace("max_values = 3", "max_values = 4"))


def test_a_first_start_and_one_with_the_same_settings_go_on(tmp_path: Path) -> None:
    check_kept(tmp_path, NOW)
    note_kept(tmp_path, NOW, job="a", drained=False)
    check_kept(tmp_path, KeptSettings.of(SPEC, JoinerConfig(memory_bytes=1, block_rows=7)))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (KeptSettings.of(WIDER, JoinerConfig()), f"feature spec test {SPEC.hash:#x}, now test {WIDER.hash:#x}"),
        (KeptSettings.of(SPEC, JoinerConfig(buckets=32)), "(buckets 16, now 32)"),
        (replace(NOW, slice_ms=7, action_wait_ms=8), "slice_ms 37500, now 7, action_wait_ms 600000, now 8"),
    ],
)
def test_open_windows_are_closed_under_their_own_settings_before_others_hold(
    tmp_path: Path, now: KeptSettings, named: str
) -> None:
    note_kept(tmp_path, NOW, job="a", drained=False)
    with pytest.raises(JoinerError) as refused:
        check_kept(tmp_path, now)
    assert named in str(refused.value)
    note_kept(tmp_path, NOW, job="a", drained=True)
    check_kept(tmp_path, now)
    assert now.digest != NOW.digest


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("{}")
    with pytest.raises(JoinerError, match=r"kept\.json cannot be read"):
        check_kept(tmp_path, NOW)


def keep(path: Path, at_s: float) -> str:
    """A snapshot of a time; its URI."""
    path.mkdir(parents=True)
    (path / "_metadata").touch()
    os.utime(path / "_metadata", (at_s, at_s))
    return path.as_uri()


def test_the_noted_job_is_gone_on_with_whatever_the_clocks_say(tmp_path: Path) -> None:
    assert newest_snapshot(tmp_path) is None
    keep(tmp_path / "checkpoints/first/chk-7", 8_000)
    stopped = keep(tmp_path / "savepoints/first/savepoint-1", 9_000)
    assert newest_snapshot(tmp_path) == stopped
    note_kept(tmp_path, NOW, job="first", drained=False)
    started = keep(tmp_path / "checkpoints/second/chk-9", 10_000)
    assert newest_snapshot(tmp_path) == stopped
    note_kept(tmp_path, NOW, job="second", drained=False)
    assert newest_snapshot(tmp_path) == started
    later = keep(tmp_path / "checkpoints/second/chk-10", 1_000)  # the clock was set back
    assert newest_snapshot(tmp_path) == later
    note_kept(tmp_path, NOW, job="lost", drained=False)
    assert newest_snapshot(tmp_path) == started
