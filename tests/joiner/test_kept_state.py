"""Kept state is gone on with under the settings that it was kept under."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import JoinerConfig, JoinerError, JoinerRun, JoinerRuns, Kept, KeptSettings, check_kept
from rillet.schemas import dump_spec, parse_spec
from tests.joiner.support import SPEC

NOW = KeptSettings.of(SPEC, JoinerConfig())
WIDER = parse_spec(dump_spec(SPEC).replace("max_values = 3", "max_values = 4"))


def ended(folder: Path, kept: Kept, *, drained: bool = False) -> JoinerRun:
    """A run that has left a savepoint."""
    run = JoinerRuns(folder).begin(kept.dump())
    end = run.savepoint_dir(drained=drained) / "savepoint"
    end.mkdir(parents=True)
    (end / "_metadata").touch()
    return run


def test_a_first_start_and_one_with_the_same_settings_go_on(tmp_path: Path) -> None:
    check_kept(None, Kept(NOW))
    check_kept(ended(tmp_path, Kept(NOW)), Kept(KeptSettings.of(SPEC, JoinerConfig(memory_bytes=1, block_rows=7))))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (KeptSettings.of(WIDER, JoinerConfig()), f"feature spec test {SPEC.hash:#x}, now test {WIDER.hash:#x}"),
        (KeptSettings.of(SPEC, JoinerConfig(buckets=32)), "(buckets 1024, now 32)"),
        (replace(NOW, slice_ms=7, action_wait_ms=8), "slice_ms 37500, now 7, action_wait_ms 600000, now 8"),
    ],
)
def test_open_windows_are_closed_under_their_own_settings_before_others_hold(
    tmp_path: Path, now: KeptSettings, named: str
) -> None:
    with pytest.raises(JoinerError) as refused:
        check_kept(ended(tmp_path, Kept(NOW)), Kept(now))
    assert named in str(refused.value)
    check_kept(ended(tmp_path, Kept(NOW), drained=True), Kept(now))
    assert now.digest != NOW.digest


def test_offsets_of_other_topics_are_not_gone_on_with(tmp_path: Path) -> None:
    kept = Kept(NOW, {"features": ("shown", "id1"), "actions": ("acts", "")})
    run = ended(tmp_path, kept)
    check_kept(run, kept)
    check_kept(run, Kept(NOW))  # not asked for yet
    check_kept(run, Kept(NOW, {"features": ("shown", ""), "actions": ("acts", "id2")}))  # a broker that gives no ids
    with pytest.raises(JoinerError, match=r"\(features of topic shown, now seen\).*--until-latest --drain"):
        check_kept(run, Kept(NOW, {"features": ("seen", "id1"), "actions": ("acts", "")}))
    anew = Kept(NOW, {"features": ("shown", "id3"), "actions": ("acts", "")})
    with pytest.raises(JoinerError, match=r"topic shown is not the one .*has id id3, that one had id1.*reset --joiner"):
        check_kept(run, anew)
    check_kept(ended(tmp_path, kept, drained=True), anew)


@pytest.mark.parametrize("note", ["{}", "", "[]", '{"settings": {}, "topics": []}'])
def test_a_damaged_note_is_named(tmp_path: Path, note: str) -> None:
    run = ended(tmp_path, Kept(NOW))
    run.note.write_text(note)
    with pytest.raises(JoinerError, match=r"kept\.json cannot be read"):
        check_kept(run, Kept(NOW))
