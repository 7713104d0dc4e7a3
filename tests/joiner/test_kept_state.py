"""Kept state is gone on with under the settings that it was kept under."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import (
    JoinerConfig,
    JoinerError,
    JoinerRun,
    JoinerRuns,
    Kept,
    KeptSettings,
    Remedies,
    check_kept,
    kept_state,
)
from rillet.joiner.kept_state import STATE_FORMAT
from rillet.schemas import SpecRegistry
from tests.joiner.snapshots import complete
from tests.joiner.support import SPEC

NOW = KeptSettings.of(SPEC, JoinerConfig())
OURS = SpecRegistry(SPEC)
LONGER = replace(SPEC, tasks=tuple(replace(task, window_ms=2 * task.window_ms) for task in SPEC.tasks))


def ended(folder: Path, kept: Kept, *, drained: bool = False) -> JoinerRun:
    """A run that has left a savepoint."""
    run = JoinerRuns(folder).begin(kept.dump())
    end = run.savepoint_dir(drained=drained) / "savepoint"
    complete(end)
    return run


def test_a_first_start_and_one_with_the_same_settings_go_on(tmp_path: Path) -> None:
    check_kept(None, Kept(NOW), OURS)
    settings = KeptSettings.of(SPEC, JoinerConfig(memory_bytes=1, block_rows=7))
    check_kept(ended(tmp_path, Kept(NOW)), Kept(settings), OURS)
    assert settings.operator_digest == NOW.operator_digest


def test_windows_of_a_known_spec_are_gone_on_with_under_another(tmp_path: Path) -> None:
    now = KeptSettings.of(LONGER, JoinerConfig())
    run = ended(tmp_path, Kept(NOW))
    check_kept(run, Kept(now), SpecRegistry(LONGER, [SPEC]))
    assert now.operator_digest == NOW.operator_digest
    assert now.digest != NOW.digest
    with pytest.raises(
        JoinerError, match=rf"feature spec test {SPEC.hash:#x}, .* also_accepts .*--until-latest --drain"
    ):
        check_kept(run, Kept(now), SpecRegistry(LONGER))
    check_kept(ended(tmp_path, Kept(NOW), drained=True), Kept(now), SpecRegistry(LONGER))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (KeptSettings.of(SPEC, JoinerConfig(buckets=32)), "(buckets 128, now 32)"),
        (replace(NOW, slice_ms=7, action_wait_ms=8), "slice_ms 0, now 7, action_wait_ms 600000, now 8"),
    ],
)
def test_open_windows_are_closed_under_their_own_settings_before_others_hold(
    tmp_path: Path, now: KeptSettings, named: str
) -> None:
    with pytest.raises(JoinerError) as refused:
        check_kept(ended(tmp_path, Kept(NOW)), Kept(now), OURS)
    assert named in str(refused.value)
    check_kept(ended(tmp_path, Kept(NOW), drained=True), Kept(now), OURS)
    assert now.digest != NOW.digest
    assert now.operator_digest != NOW.operator_digest


def test_offsets_of_other_topics_are_not_gone_on_with(tmp_path: Path) -> None:
    kept = Kept(NOW, {"features": ("shown", "id1"), "actions": ("acts", "")})
    run = ended(tmp_path, kept)
    check_kept(run, kept, OURS)
    check_kept(run, Kept(NOW), OURS)  # not asked for yet
    check_kept(
        run, Kept(NOW, {"features": ("shown", ""), "actions": ("acts", "id2")}), OURS
    )  # a broker that gives no ids
    with pytest.raises(JoinerError, match=r"\(features of topic shown, now seen\).*--until-latest --drain"):
        check_kept(run, Kept(NOW, {"features": ("seen", "id1"), "actions": ("acts", "")}), OURS)
    anew = Kept(NOW, {"features": ("shown", "id3"), "actions": ("acts", "")})
    with pytest.raises(JoinerError, match=r"topic shown is not the one .*has id id3, that one had id1.*reset --joiner"):
        check_kept(run, anew, OURS)
    check_kept(ended(tmp_path, kept, drained=True), anew, OURS)


@pytest.mark.parametrize("state_format", [None, STATE_FORMAT + 1])
def test_state_of_another_format_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_format: int | None
) -> None:
    monkeypatch.setattr(kept_state, "STATE_FORMAT", 7)
    note = json.loads(Kept(NOW).dump())
    note["settings"] = {"something": "else", "state_format": state_format}
    if state_format is None:  # as in notes of the first format
        note["settings"].pop("state_format")
    run = ended(tmp_path, Kept(NOW))
    run.note.write_text(json.dumps(note))
    expected = (
        rf"is of format {state_format or 1}, and this version of rillet reads format 7 alone.*--until-latest --drain"
    )
    with pytest.raises(JoinerError, match=expected):
        check_kept(run, Kept(NOW), OURS)
    drained = ended(tmp_path, Kept(NOW), drained=True)
    drained.note.write_text(json.dumps(note))
    check_kept(drained, Kept(NOW), OURS)  # nothing of it is needed but the offsets
    assert replace(NOW, state_format=7).digest != NOW.digest, "on a cluster it is another operator"


def test_where_a_first_start_begins_is_not_said_to_one_that_goes_on(tmp_path: Path) -> None:
    check_kept(None, Kept(NOW), OURS, first_start=True)
    for drained in (False, True):
        with pytest.raises(JoinerError, match=r"--from .* leave out --from\. Or `rillet reset --joiner`"):
            check_kept(ended(tmp_path, Kept(NOW), drained=drained), Kept(NOW), OURS, first_start=True)


def test_a_backfill_is_finished_with_the_range_that_it_was_begun_with(tmp_path: Path) -> None:
    run = ended(tmp_path, Kept(NOW, requests=(1_000, 2_000)))
    check_kept(run, Kept(NOW, requests=(1_000, 2_000)), OURS)
    with pytest.raises(JoinerError, match=r"state of a backfill from \(1000, 2000\) .*, not yet done"):
        check_kept(run, Kept(NOW, requests=(1_000, 3_000)), OURS)


@pytest.mark.parametrize(
    "remedies", [Remedies.of_backfill(Path("data/backfills/again")), Remedies.of_cluster(Path("/data/runs"))]
)
def test_a_backfill_and_a_job_on_a_cluster_are_not_sent_to_the_state_of_rillet_join(
    tmp_path: Path, remedies: Remedies
) -> None:
    """Who followed that would forget the windows of a joiner that runs well."""
    kept = Kept(NOW, {"features": ("shown", "id1")}, (1_000, 2_000))
    run = ended(tmp_path, kept)
    for now, specs in (
        (replace(kept, settings=replace(NOW, buckets=7)), OURS),
        (replace(kept, topics={"features": ("shown", "id2")}), OURS),
        (kept, SpecRegistry(LONGER)),
    ):
        with pytest.raises(JoinerError) as refused:
            check_kept(run, now, specs, remedies)
        assert remedies.forget in str(refused.value)
        assert "rillet reset" not in str(refused.value)
        assert "rillet join" not in str(refused.value)
    run.note.write_text("{}")
    with pytest.raises(JoinerError, match=rf"kept\.json cannot be read .*: {re.escape(remedies.forget)}"):
        check_kept(run, kept, OURS, remedies)


@pytest.mark.parametrize("note", ["{}", "", "[]", f'{{"settings": {{"state_format": {STATE_FORMAT}}}, "topics": []}}'])
def test_a_damaged_note_is_named(tmp_path: Path, note: str) -> None:
    run = ended(tmp_path, Kept(NOW))
    run.note.write_text(note)
    with pytest.raises(JoinerError, match=r"kept\.json cannot be read"):
        check_kept(run, Kept(NOW), OURS)


def test_state_of_another_execution_mode_is_that_of_another_operator() -> None:
    thread, process = (KeptSettings.of(SPEC, JoinerConfig(), mode) for mode in ("thread", "process"))
    assert thread.operator_digest != process.operator_digest
    assert thread.differences(process) == "execution_mode thread, now process"
    assert (thread.differences(KeptSettings.of(SPEC, JoinerConfig())), thread.digest) == ("", process.digest)
