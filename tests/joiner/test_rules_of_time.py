"""The rules of docs/join.md on waiting, windows and lateness (10 to 14)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.schemas import LABEL_OF_KIND, LabelKind, RecordError, encode
from rillet.schemas.spec import LabelMode, LatePolicy
from tests.joiner.scenarios import (
    ALIGNED,
    CONFIG,
    CORRECT,
    EMIT_UNSAMPLED,
    IMMEDIATE,
    LIKE_CLOSED_MS,
    MODES,
    WATCH_CLOSED_MS,
    join,
    sampled,
    sent,
    shown,
)
from tests.joiner.support import SPEC, action, feature, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import rows_of


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", [False, True])
def test_rule_10_an_action_that_waited_counts_and_is_never_late(tmp_path: Path, mode: LabelMode, crash: bool) -> None:
    # Its window has closed when the feature event comes; the action came before that.
    spec = with_labels(SPEC, mode)
    events = [action(1, 0, "watch", 6_000), WATCH_CLOSED_MS, shown(1, 5_000, spec=spec)]
    outcome = join(tmp_path, events, spec, crash=crash)
    assert outcome.pairs(1) == [(0, "watch")]
    assert outcome.counts["late_actions"] == 0


def test_rule_10_an_action_without_its_request_is_an_orphan(tmp_path: Path) -> None:
    outcome = join(tmp_path, [shown(1, 5_000), action(2, 0, "watch", 6_000)])
    assert outcome.pairs(1) == []
    assert outcome.counts["orphan_actions"] == 1


@pytest.mark.parametrize("waits_until_ms", [15_999, 16_000])
def test_rule_10_waiting_counts_from_the_event_time_of_the_action(tmp_path: Path, waits_until_ms: int) -> None:
    engine = Engine(SPEC, replace(CONFIG, action_wait_ms=10_000), tmp_path)
    engine.record(0, encode(action(9, 0, "watch", 4_000)))  # its orphaning moves the time of the bucket
    engine.watermark(14_999)
    engine.record(0, encode(action(1, 0, "watch", 5_000)))
    engine.watermark(waits_until_ms - 1)
    engine.record(0, encode(shown(1, 5_000)))
    assert engine.joiner.counters.positives == (waits_until_ms == 15_999)


@pytest.mark.parametrize("same_bucket", [True, False])
def test_rule_11_and_14_closed_and_forgotten_are_of_the_bucket(tmp_path: Path, same_bucket: bool) -> None:
    engine = Engine(SPEC, CONFIG, tmp_path)
    engine.record(0 if same_bucket else 1, encode(shown(1, 5_000)))
    engine.watermark(10_000_000)
    if same_bucket:
        with pytest.raises(RecordError, match="later than every label window"):
            engine.record(0, encode(shown(2, 4_000)))
        return
    engine.record(0, encode(shown(2, 4_000)))
    engine.record(0, encode(action(2, 0, "watch", 5_000)))
    assert (engine.joiner.counters.positives, engine.joiner.counters.late_actions) == (1, 0)
    engine.watermark(10_000_001)
    assert any(row[0] == "r2" and row[3] == 0 for row in rows_of(SPEC, engine.blocks))


def test_rule_11_a_window_closes_once_the_watermark_has_passed_its_slice(tmp_path: Path) -> None:
    engine = Engine(SPEC, CONFIG, tmp_path)
    engine.record(0, encode(feature(1, 5_000, impressions=12)))
    engine.watermark(WATCH_CLOSED_MS - 1)
    assert engine.blocks == []
    engine.watermark(WATCH_CLOSED_MS)
    assert {row[2] for row in rows_of(SPEC, engine.blocks)} == {"watch"}
    engine.watermark(LIKE_CLOSED_MS - 1)
    assert {row[2] for row in rows_of(SPEC, engine.blocks)} == {"watch"}
    engine.watermark(LIKE_CLOSED_MS)
    assert {row[2] for row in rows_of(SPEC, engine.blocks)} == {"watch", "like"}


@pytest.mark.parametrize("crash", [False, True])
def test_rule_11_an_aligned_request_sends_all_its_rows_when_its_window_closes(tmp_path: Path, crash: bool) -> None:
    engine = Engine(ALIGNED, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, 12, ALIGNED)), ingest_ms=5_001)
    for index in (7, 2):
        engine.record(0, encode(action(1, index, "watch", 6_000 + index)), ingest_ms=6_100 + index)
    engine.record(0, encode(action(1, 3, "like", 6_000)))
    if crash:
        engine.restore(engine.checkpoint())
    engine.watermark(WATCH_CLOSED_MS - 1)
    assert engine.blocks == []
    engine.watermark(WATCH_CLOSED_MS)
    (block,) = engine.blocks
    due = sorted({*sampled(12), 2, 7})
    assert sent([block], "watch") == [
        (index, LabelKind.POSITIVE if index in (2, 7) else LabelKind.NEGATIVE) for index in due
    ]
    times = {index: (6_000 + index, 6_100 + index) for index in (2, 7)}
    found = zip(block.action_time_ms.tolist(), block.action_ingest_ms.tolist(), strict=True)
    assert list(found) == [times.get(index, (-1, -1)) for index in due]
    if crash:
        engine.restore(engine.checkpoint())
    engine.watermark(LIKE_CLOSED_MS)
    assert len(engine.blocks) == 2  # the other task's; nothing of the first once more


def test_rule_11_nothing_goes_out_at_the_close_of_an_immediate_window(tmp_path: Path) -> None:
    engine = Engine(IMMEDIATE, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, 12, IMMEDIATE)))
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    del engine.blocks[:]
    engine.watermark(LIKE_CLOSED_MS)
    assert engine.blocks == []


@pytest.mark.parametrize("mode", MODES)
def test_rule_12_a_task_that_drops_ignores_a_late_action(tmp_path: Path, mode: LabelMode) -> None:
    spec = with_labels(SPEC, mode)
    acts = [action(1, index, "watch", 14_000) for index in range(12)]
    outcome = join(tmp_path, [shown(1, 5_000, 12, spec), acts[0], WATCH_CLOSED_MS, *acts], spec, late=acts[1:])
    assert outcome.pairs(1) == [(0, "watch")]
    # The pair that was positive before has a duplicate, not a late action.
    assert (outcome.counts["late_actions"], outcome.counts["duplicate_actions"]) == (11, 1)
    assert outcome.report.late_dropped == 11


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", [False, True])
def test_rule_13_a_task_that_corrects_takes_back_the_negatives_that_were_sent(
    tmp_path: Path, mode: LabelMode, crash: bool
) -> None:
    spec = with_labels(CORRECT, mode)
    acts = [action(1, index, "watch", 14_000) for index in range(12)]
    events = [shown(1, 5_000, 12, spec), WATCH_CLOSED_MS, *acts, *acts]
    outcome = join(tmp_path, events, spec, late=acts, crash=crash)
    assert outcome.pairs(1) == [(index, "watch") for index in range(12)]
    negatives = [index for index, task in outcome.pairs(0) if task == "watch"]
    assert negatives == sampled(12)
    positive = {index: kind for index, kind in outcome.kinds("watch") if LABEL_OF_KIND[kind]}
    if mode == "immediate":
        # A provisional negative is corrected by whatever action comes.
        assert set(positive.values()) == {LabelKind.CORRECTION}
    else:
        # Where the sample left the negative out there is nothing to take back.
        assert [index for index, kind in positive.items() if kind is LabelKind.LATE_POSITIVE] == negatives
        assert sum(kind is LabelKind.POSITIVE for kind in positive.values()) == 12 - len(negatives)
        assert outcome.report.late_positive == outcome.counts["late_positives"] == len(negatives)
    assert outcome.counts["duplicate_actions"] == 12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", [False, True])
def test_rule_13_a_task_that_emits_unsampled_sends_only_late_positives_without_a_negative(
    tmp_path: Path, mode: LabelMode, crash: bool
) -> None:
    spec = with_labels(EMIT_UNSAMPLED, mode)
    acts = [action(1, index, "watch", 14_000) for index in range(12)]
    outcome = join(tmp_path, [shown(1, 5_000, 12, spec), WATCH_CLOSED_MS, *acts], spec, late=acts, crash=crash)
    left_out = [index for index in range(12) if index not in sampled(12)]
    assert outcome.pairs(1) == [(index, "watch") for index in left_out]
    assert [index for index, task in outcome.pairs(0) if task == "watch"] == sampled(12)
    kind = LabelKind.CORRECTION if mode == "immediate" else LabelKind.POSITIVE
    assert {row[6] for row in outcome.rows if row[3] == 1} == {kind}
    assert outcome.counts["late_actions"] == outcome.report.late_dropped == len(sampled(12))


@pytest.mark.parametrize("late", ["drop", "emit_unsampled"])
def test_rule_13_a_late_action_on_a_pair_with_a_negative_gives_nothing_unless_emitted(
    tmp_path: Path, late: LatePolicy
) -> None:
    # The sample of the like task keeps every negative.
    spec = replace(SPEC, tasks=tuple(replace(task, late=late) for task in SPEC.tasks))
    act = action(1, 0, "like", 60_000)
    outcome = join(tmp_path, [shown(1, 5_000, spec=spec), LIKE_CLOSED_MS - 1, act], spec)
    assert outcome.pairs(1) == [(0, "like")]
    engine = Engine(spec, replace(CONFIG, late_retention_ms=60_000), tmp_path / "late")
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.watermark(LIKE_CLOSED_MS)
    del engine.blocks[:]
    engine.record(0, encode(act))
    assert engine.blocks == []


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("wait_ms", [0, 2_000])
def test_rule_13_a_negative_that_goes_out_after_a_short_wait_is_taken_back_within_the_window(
    tmp_path: Path, wait_ms: int, crash: bool
) -> None:
    watch, like = CORRECT.tasks
    spec = replace(CORRECT, tasks=(replace(watch, negative_after_ms=wait_ms), like))
    on_time, late = action(1, 0, "watch", 5_100), [action(1, index, "watch", 14_999) for index in range(1, 12)]
    events = [shown(1, 5_000, 12, spec), on_time, 5_999 + wait_ms, *late, action(1, 1, "watch", 15_000)]
    outcome = join(tmp_path, events, spec, late=late, crash=crash)
    kinds = outcome.kinds("watch")
    negatives = [index for index, kind in kinds if kind is LabelKind.NEGATIVE]
    assert negatives == [index for index in sampled(12) if index != 0]
    assert [index for index, kind in kinds if kind is LabelKind.LATE_POSITIVE] == negatives
    assert [index for index, kind in kinds if kind is LabelKind.POSITIVE] == [
        index for index in range(12) if index not in negatives
    ]
    # The window is as long as ever, and what comes after it is no positive.
    assert outcome.counts["outside_window"] == 1
    assert outcome.counts["late_actions"] == 0


def test_rule_11_a_negative_goes_out_when_the_watermark_has_passed_its_short_wait(tmp_path: Path) -> None:
    watch, like = CORRECT.tasks
    spec = replace(CORRECT, tasks=(replace(watch, negative_after_ms=2_000), like))
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, 12, spec)))
    engine.watermark(7_998)
    assert engine.blocks == []
    engine.watermark(7_999)
    assert {row[2] for row in rows_of(spec, engine.blocks)} == {"watch"}
    del engine.blocks[:]
    engine.watermark(LIKE_CLOSED_MS)
    assert {row[2] for row in rows_of(spec, engine.blocks)} == {"like"}


def test_rule_13_nothing_is_emitted_once_the_request_is_forgotten(tmp_path: Path) -> None:
    engine = Engine(CORRECT, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=CORRECT)))
    engine.watermark(LIKE_CLOSED_MS + 60_000)
    del engine.blocks[:]
    engine.record(0, encode(action(1, 0, "watch", 14_000)))
    assert engine.blocks == []
    assert engine.joiner.counters.orphan_actions == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", [False, True])
def test_rule_14_a_late_feature_event_is_joined_with_what_waited_for_it(
    tmp_path: Path, mode: LabelMode, crash: bool
) -> None:
    spec = with_labels(SPEC, mode)
    events = [action(1, 0, "watch", 6_000), WATCH_CLOSED_MS, shown(1, 5_000, 12, spec)]
    outcome = join(tmp_path, [*events, action(1, 2, "like", 6_000)], spec, crash=crash)
    assert outcome.pairs(1) == [(0, "watch"), (2, "like")]
    assert [index for index, task in outcome.pairs(0) if task == "watch"]


def test_rule_14_what_a_late_feature_event_gives_goes_out_at_once_under_aligned(tmp_path: Path) -> None:
    engine = Engine(ALIGNED, CONFIG, tmp_path)
    engine.record(0, encode(shown(9, 5_000, spec=ALIGNED)))  # its window moves the time of the bucket
    for name in ("watch", "like"):
        engine.record(0, encode(action(1, 4, name, 6_000)))
    engine.watermark(WATCH_CLOSED_MS)
    del engine.blocks[:]
    engine.record(0, encode(shown(1, 5_000, 12, ALIGNED)))
    due = sorted({*sampled(12), 4})
    assert sent(engine.blocks, "watch") == [
        (index, LabelKind.POSITIVE if index == 4 else LabelKind.NEGATIVE) for index in due
    ]
    assert sent(engine.blocks, "like") == []  # its window is open
    del engine.blocks[:]
    engine.watermark(LIKE_CLOSED_MS)
    assert (4, LabelKind.POSITIVE) in sent(engine.blocks, "like")
    assert sent(engine.blocks, "watch") == []


def test_rule_14_a_feature_event_later_than_everything_is_refused(tmp_path: Path) -> None:
    engine = Engine(SPEC, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000)))
    engine.watermark(LIKE_CLOSED_MS)
    with pytest.raises(RecordError, match="later than every label window"):
        engine.record(0, encode(shown(1, 5_000)))
