"""Requests of several feature specs in one joiner: each is joined to its end under the spec that it came under."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, JoinerError
from rillet.schemas import FeatureEvent, LabelKind, RecordError, Slot, SpecMismatchError, SpecRegistry, Task, encode
from rillet.schemas.conversion import SpecConversion
from tests.joiner.specs import SpecEngine
from tests.joiner.support import SPEC, action, feature
from tests.simulation.joiner_oracle import rows_of

SHOP = Slot("shop", 20, "id")
#: a slot and a task more, and a longer window
NEW = replace(
    SPEC,
    item=(*SPEC.item, SHOP),
    tasks=(*(replace(task, window_ms=2 * task.window_ms) for task in SPEC.tasks), Task("share", "share", 5_000)),
)
CONFIG = JoinerConfig(buckets=1, slice_ms=1_000, action_wait_ms=30_000)
OLD_FIRST, NEW_FIRST = SpecRegistry(SPEC, [NEW]), SpecRegistry(NEW, [SPEC])


@pytest.fixture
def engine(tmp_path: Path) -> SpecEngine:
    return SpecEngine(OLD_FIRST, CONFIG, tmp_path)


def new_feature(request: int, time_ms: int, shop: int = 3) -> FeatureEvent:
    """An event that fills the new slot."""
    event = SpecConversion(SPEC, NEW).feature(feature(request, time_ms))
    missing = event.item_fids >> 48 == SHOP.slot
    return replace(event, item_fids=np.where(missing, SHOP.slot << 48 | shop, event.item_fids))


def test_rows_have_the_features_of_whichever_spec_they_came_under(engine: SpecEngine) -> None:
    engine.restart(NEW_FIRST)
    sent = {"r1": feature(1, 5_000), "r2": new_feature(2, 5_000)}
    for event in sent.values():
        engine.record(0, encode(event))
    engine.watermark(END_OF_TIME_MS)
    for block in engine.blocks:
        NEW.check_block(block)
        fids, lengths = block.row_fids()
        per_row = np.split(fids, np.cumsum(lengths.reshape(len(block), -1).sum(axis=1))[:-1])  # type: ignore[union-attr]
        for row, request, impression in zip(per_row, block.request_index, block.impression_ids, strict=True):
            event = sent[block.request_ids[request]]
            shop = 3 if event.spec_hash == NEW.hash else (1 << 48) - 1
            assert row[-1] == SHOP.slot << 48 | shop
            assert row[0] in event.context_fids
            assert impression != 100 or event.item_fids[0] in row
    assert {request for block in engine.blocks for request in block.request_ids} == {"r1", "r2"}


def test_a_record_of_an_unknown_spec_is_refused_with_the_remedy(engine: SpecEngine) -> None:
    with pytest.raises(SpecMismatchError, match="also_accepts"):
        engine.record(0, encode(replace(feature(1, 5_000), spec_hash=5)))
    with pytest.raises(RecordError, match="dense: 0 numbers"):
        engine.record(0, encode(replace(new_feature(1, 5_000), dense=np.empty(0, np.float32))))


def test_a_request_of_the_old_spec_keeps_its_windows(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(2, 5_000)))
    # Past the window of the old spec, within that of the new one.
    for request in (1, 2):
        engine.record(0, encode(action(request, 0, "watch", 17_000)))
    assert engine.joiner.counters.outside_window == 1
    assert [row[:4] for row in rows_of(NEW, engine.blocks) if row[3] == 1] == [("r2", 100, "watch", 1)]
    engine.watermark(65_999)
    # The old request's second window has closed, that of the new one has not.
    closed = {row[0] for row in rows_of(NEW, engine.blocks) if row[2:4] == ("like", 0)}
    assert closed == {"r1"}


def test_an_action_that_only_the_new_spec_asks_for_is_counted_where_its_request_is_of_the_old_one(
    engine: SpecEngine,
) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(2, 5_000)))
    before = len(engine.blocks)
    engine.record(0, encode(action(1, 0, "share", 6_000)))
    assert len(engine.blocks) == before
    engine.record(0, encode(action(2, 0, "share", 6_000)))
    assert len(engine.blocks) == before + 1
    counters = engine.joiner.counters
    assert (counters.actions, counters.earlier_requests, counters.unknown_actions) == (2, 1, 0)


def test_a_feature_event_that_comes_again_is_a_duplicate_under_any_spec(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(new_feature(1, 5_000)))
    assert engine.joiner.counters.duplicate_features == 2
    assert engine.joiner.counters.features == 0


def test_an_action_that_waits_meets_its_request_under_the_new_spec(engine: SpecEngine) -> None:
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.record(0, encode(action(1, 1, "watch", 6_500)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(action(1, 0, "watch", 6_100)))
    assert engine.joiner.waiting_actions == 3
    engine.restart(NEW_FIRST)
    engine.record(0, encode(new_feature(1, 5_000)))
    assert engine.joiner.waiting_actions == 0
    # The first to arrive counts.
    positive = [row for row in rows_of(NEW, engine.blocks) if row[3] == 1]
    assert [(row[1], row[5]) for row in positive] == [(100, 6_000), (101, 6_500)]


def test_an_action_that_waits_is_for_no_task_any_more_once_its_task_is_gone(engine: SpecEngine) -> None:
    without = replace(SPEC, tasks=SPEC.tasks[1:])
    engine.restart(SpecRegistry(SPEC, [without]))
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.record(0, encode(action(1, 0, "like", 6_500)))
    engine.restart(SpecRegistry(without, [SPEC]))
    engine.record(0, encode(feature(1, 5_000)))
    assert [row[2] for row in rows_of(without, engine.blocks)] == ["like"]
    assert engine.joiner.counters.unknown_actions == 1
    engine.watermark(200_000)
    assert engine.empty


def test_an_action_that_waits_for_nothing_is_an_orphan_once(engine: SpecEngine) -> None:
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(2, 5_000)))
    engine.watermark(200_000)
    assert engine.joiner.counters.orphan_actions == 1
    assert engine.empty


def test_what_was_forgotten_under_the_old_spec_is_not_joined_again(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(feature(2, 600_000)))
    engine.watermark(590_000)
    engine.restart(NEW_FIRST)
    for _ in range(2):
        with pytest.raises(RecordError, match="later than every label window of an earlier"):
            engine.record(0, encode(feature(1, 5_000)))
        engine.restart(NEW_FIRST)
    # Also once the old spec has nothing left.
    engine.watermark(670_000)
    engine.restart(SpecRegistry(NEW))
    with pytest.raises(RecordError, match="later than every label window"):
        engine.record(0, encode(new_feature(2, 600_000)))


def test_open_requests_of_a_spec_that_is_not_named_stop_the_joiner(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    saved = engine.checkpoint()
    engine.restore(saved, SpecRegistry(NEW))
    with pytest.raises(JoinerError, match=rf"feature spec {SPEC.hash:#x}, .* also_accepts"):
        engine.record(0, encode(new_feature(2, 5_000)))
    engine.restore(saved, NEW_FIRST)
    engine.record(0, encode(new_feature(2, 5_000)))
    # Once its windows have closed the old spec may go.
    engine.watermark(80_000)
    engine.restart(SpecRegistry(NEW))
    engine.record(0, encode(new_feature(3, 80_000)))


def test_a_drained_state_needs_no_old_spec(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.record(0, encode(action(9, 0, "watch", 6_000)))
    engine.watermark(END_OF_TIME_MS)
    engine.restart(SpecRegistry(NEW))
    engine.record(0, encode(new_feature(2, 80_000)))
    assert engine.joiner.open_requests == 1


def test_a_drained_request_is_remembered_by_a_joiner_that_knows_its_spec(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(END_OF_TIME_MS)
    rows = len(engine.blocks)
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(1, 5_000)))
    assert engine.joiner.counters.duplicate_features == 1
    # What came after the drain is not drained: it needs its spec.
    engine.record(0, encode(new_feature(2, 6_000)))
    engine.restart(OLD_FIRST)
    engine.record(0, encode(feature(3, 6_000)))
    assert {request for block in engine.blocks[rows:] for request in block.request_ids} == {"r2"}
    engine.restart(SpecRegistry(SPEC))
    with pytest.raises(JoinerError, match=f"{NEW.hash:#x}"):
        engine.record(0, encode(feature(4, 6_000)))


def test_sums_and_times_are_of_all_specs(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(2, 40_000)))
    joiner, states = engine.joiner, engine.states[0]
    assert joiner.open_requests == 2
    # The watch window of the old request: ten seconds past the end of its slice.
    assert joiner.next_due_ms(0, states) == joiner.next_close_ms(0) == 15_999
    assert joiner.newest_ms(0, states) == 40_000


def test_the_joiners_of_all_specs_hold_no_more_in_memory_than_one(tmp_path: Path) -> None:
    config = replace(CONFIG, memory_bytes=40_000, disk_tier=False)
    engine = SpecEngine(OLD_FIRST, config, tmp_path)
    for number in range(60):
        engine.record(0, encode(feature(number, 5_000)))
    engine.restart(NEW_FIRST)
    for number in range(60):
        engine.record(0, encode(action(number, 0, "watch", 6_000)))
        engine.record(0, encode(new_feature(100 + number, 5_000)))
    held = [joiner.store.used_bytes for joiner in engine.joiner._all()]
    assert min(held) > 0
    assert sum(held) <= 40_000


def test_an_action_that_waits_for_a_task_that_was_removed_makes_no_row_and_counts_again_once_it_is_back(
    engine: SpecEngine,
) -> None:
    removed = replace(SPEC, tasks=SPEC.tasks[:1])
    engine.record(0, encode(action(1, 0, "like", 6_000)))
    engine.record(0, encode(action(2, 0, "like", 6_000)))
    engine.restart(SpecRegistry(removed, [SPEC]))
    engine.record(0, encode(feature(1, 5_000)))
    assert not engine.blocks
    assert engine.joiner.counters.unknown_actions == 1
    engine.restart(SpecRegistry(SPEC, [removed]))
    engine.record(0, encode(feature(2, 5_000)))
    assert [row[:4] for row in rows_of(SPEC, engine.blocks)] == [("r2", 100, "like", 1)]


def test_what_was_forgotten_before_the_spec_changed_is_not_joined_again(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(200_000)
    engine.restart(NEW_FIRST)
    with pytest.raises(RecordError, match="later than every label window of an earlier"):
        engine.record(0, encode(feature(1, 5_000)))


def test_a_request_that_is_remembered_is_a_duplicate_whatever_the_old_spec_has_forgotten(engine: SpecEngine) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.restart(NEW_FIRST)
    engine.record(0, encode(feature(2, 4_500)))
    engine.watermark(66_000)
    engine.record(0, encode(feature(2, 4_500)))
    assert engine.joiner.counters.duplicate_features == 1


def test_windows_of_the_old_spec_close_on_time_where_an_action_waited_that_was_due_before(engine: SpecEngine) -> None:
    engine.record(0, encode(action(1, 0, "like", 5_000)))
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(16_000)
    # The next turn of the bucket was to be that in which the action would have been given up.
    engine.restart(NEW_FIRST)
    engine.touch(0)
    engine.watermark(36_000)
    engine.watermark(66_000)
    rows = rows_of(NEW, [NEW_FIRST.block(block) for block in engine.blocks])
    assert [row[1] for row in rows if row[2:4] == ("like", 0)] == [101, 102]


def test_an_action_that_has_moved_to_another_spec_is_known_there_though_the_record_that_moved_it_was_refused(
    engine: SpecEngine,
) -> None:
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(200_000)
    engine.record(0, encode(action(2, 0, "watch", 201_000)))
    engine.restart(NEW_FIRST)
    with pytest.raises(RecordError, match="later than every label window of an earlier"):
        engine.record(0, encode(feature(2, 5_000)))
    engine.restart(OLD_FIRST)
    engine.record(0, encode(feature(2, 200_500)))
    assert [row[:4] for row in rows_of(SPEC, engine.blocks) if row[3] == 1] == [("r2", 100, "watch", 1)]


def test_a_spec_of_which_nothing_waits_any_more_may_go_though_the_record_that_took_the_last_was_refused(
    engine: SpecEngine,
) -> None:
    without = replace(SPEC, tasks=SPEC.tasks[1:])
    engine.restart(SpecRegistry(SPEC, [without]))
    engine.record(0, encode(feature(1, 5_000)))
    engine.watermark(200_000)
    engine.record(0, encode(action(2, 0, "watch", 201_000)))
    engine.restart(SpecRegistry(without, [SPEC]))
    with pytest.raises(RecordError, match="later than every label window of an earlier"):
        engine.record(0, encode(feature(2, 5_000)))
    engine.restart(SpecRegistry(without))
    engine.touch(0)
    assert engine.joiner.open_requests == 0


def test_a_negative_that_was_left_out_while_its_task_was_gone_is_not_taken_back_once_the_task_is_there_again(
    tmp_path: Path,
) -> None:
    watch, like = SPEC.tasks
    spec = replace(SPEC, tasks=(replace(watch, negative_rate=1.0, late="correct"), like))
    without = replace(spec, tasks=(like,))
    with_it, gone = SpecRegistry(spec, [without]), SpecRegistry(without, [spec])
    engine = SpecEngine(with_it, replace(CONFIG, slice_ms=0), tmp_path)
    engine.record(0, encode(replace(feature(1, 5_000), spec_hash=spec.hash)))
    engine.restart(gone)
    engine.touch(0)
    engine.watermark(1_000_000)
    engine.restart(with_it)
    engine.record(0, encode(replace(feature(2, 1_000_000), spec_hash=spec.hash)))
    engine.watermark(2_000_000)
    for request, time_ms in ((1, 6_000), (2, 1_001_000)):
        engine.record(0, encode(action(request, 0, "watch", time_ms)))
    rows = [row for block in engine.blocks if block.spec_hash == spec.hash for row in rows_of(spec, [block])]
    kinds = {str(row[0]): LabelKind(int(str(row[6]))) for row in rows if row[2] == "watch" and row[3] == 1}
    assert kinds == {"r1": LabelKind.POSITIVE, "r2": LabelKind.LATE_POSITIVE}
