"""The rules of docs/join.md on what counts and how it is labelled (1 to 9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rillet.schemas import LabelKind, dump_spec, encode, parse_spec
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass
from rillet.schemas.spec import LabelMode
from tests.joiner.scenarios import (
    CONFIG,
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
from tests.joiner.support import SPEC, Arrival, action, with_labels
from tests.simulation.joiner_engine import Engine


def test_rule_1_every_pair_of_an_impression_and_a_task_is_labelled_on_its_own(tmp_path: Path) -> None:
    outcome = join(tmp_path, [shown(1, 5_000), action(1, 0, "watch", 6_000), action(1, 2, "like", 6_000)])
    assert outcome.pairs(1) == [(0, "watch"), (2, "like")]
    assert len({(row[1], row[2]) for row in outcome.rows}) == len(outcome.rows)


def test_rule_2_the_interleaving_of_topics_and_requests_changes_no_row(tmp_path: Path) -> None:
    features = [shown(1, 5_000), shown(2, 5_500)]
    actions = [action(1, 0, "watch", 6_000), action(2, 0, "watch", 6_500), action(1, 0, "watch", 5_500)]
    orders = (
        [*features, *actions],
        [*actions, *features],
        [features[1], actions[0], actions[1], features[0], actions[2]],
    )
    rows = [join(tmp_path / str(i), order).rows for i, order in enumerate(orders)]
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize(
    "bad",
    [
        Arrival(b"junk", b"r2"),
        Arrival(b"", b"r2"),
        Arrival.of(shown(2, 5_000), key=b"user-7"),
        Arrival(encode(shown(2, 5_000)), None),
        Arrival.of(shown(2, 5_000), ingest_ms=-5),
        Arrival.of(shown(2, 5_000), ingest_ms=10**15),
        Arrival.of(replace(shown(2, 5_000), spec_hash=1)),
        Arrival.of(replace(shown(2, 5_000), dense=np.array([1, np.nan, 2], np.float32))),
        Arrival.of(replace(shown(2, 5_000), event_time_ms=-1)),
        Arrival.of(shown(2, 5_000), ingest_ms=3_999),
        Arrival.of(action(1, 1, "like", 6_000), key=b"r2"),
        Arrival.of(action(1, 1, "like", 6_000), ingest_ms=4_999),
    ],
)
def test_rule_3_a_record_that_cannot_be_used_makes_no_row_and_changes_none(tmp_path: Path, bad: Arrival) -> None:
    good = [shown(1, 5_000), action(1, 0, "watch", 6_000)]
    outcome = join(tmp_path / "with", [good[0], bad, good[1]])
    assert outcome.dead_letters == 1
    assert outcome.rows == join(tmp_path / "without", good).rows


def test_rule_3_a_time_within_what_clocks_may_be_ahead_is_used(tmp_path: Path) -> None:
    assert join(tmp_path, [Arrival.of(shown(2, 5_000), ingest_ms=4_000)]).dead_letters == 0


def test_rule_4_of_two_feature_events_the_first_to_arrive_counts(tmp_path: Path) -> None:
    outcome = join(tmp_path, [shown(1, 9_000, impressions=2), shown(1, 5_000, impressions=3)])
    assert {row[1] for row in outcome.rows} == {100, 101}
    assert {int(t) for block in outcome.blocks for t in block.feature_time_ms} == {9_000}
    assert outcome.counts["duplicate_features"] == 1


@pytest.mark.parametrize(
    ("again_ms", "joined"),
    [
        (9_000, False),  # while it is remembered
        (70_000, True),  # forgotten: the id stands for a new request
    ],
)
def test_rule_4_an_id_is_remembered_until_its_slice_is_forgotten(tmp_path: Path, again_ms: int, joined: bool) -> None:
    engine = Engine(SPEC, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000)))
    engine.watermark(LIKE_CLOSED_MS if joined else LIKE_CLOSED_MS - 1)
    engine.record(0, encode(shown(1, again_ms)))
    counters = engine.joiner.counters
    assert (counters.features, counters.duplicate_features) == ((2, 0) if joined else (1, 1))


def test_rule_5_actions_that_nobody_asks_for_or_on_nothing_shown_are_counted(tmp_path: Path) -> None:
    actions = [action(1, 0, "scroll", 6_000), action(1, 77, "like", 6_000)]
    outcome = join(tmp_path, [actions[1], shown(1, 5_000), *actions])
    assert outcome.pairs(1) == []
    assert (outcome.counts["unknown_actions"], outcome.counts["unknown_impressions"]) == (1, 2)


@pytest.mark.parametrize(
    ("time_ms", "watch", "like", "counted"),
    [
        (-1, False, False, {"early_actions": 2}),
        (0, True, True, {}),
        (4_999, True, True, {}),
        (5_000, True, True, {}),
        (14_999, True, True, {}),
        (15_000, False, True, {"outside_window": 1}),
        (64_999, False, True, {"outside_window": 1}),
        (65_000, False, False, {"outside_window": 2}),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_rule_6_an_action_counts_from_early_ms_before_to_the_end_of_the_window(
    tmp_path: Path, time_ms: int, watch: bool, like: bool, counted: dict[str, int], waits: bool
) -> None:
    # Both tasks ask for the same action here; the request is shown one day in, at 5,000 ms after it.
    spec = parse_spec(dump_spec(SPEC).replace('action = "like"', 'action = "watch"'))
    day = 86_400_000
    events = [shown(1, day + 5_000, spec=spec), action(1, 0, "watch", day + time_ms)]
    outcome = join(tmp_path, events[::-1] if waits else events, spec)
    assert outcome.pairs(1) == [(0, name) for name, due in (("like", like), ("watch", watch)) if due]
    assert {
        name: outcome.counts[name] for name in ("early_actions", "outside_window") if outcome.counts[name]
    } == counted


def test_rule_6_the_tolerance_is_the_task_s(tmp_path: Path) -> None:
    spec = parse_spec(dump_spec(SPEC).replace("early_ms = 5000", "early_ms = 0", 1))
    actions = [action(1, 0, "watch", 4_999), action(1, 1, "watch", 5_000), action(1, 2, "like", 1_000)]
    outcome = join(tmp_path, [shown(1, 5_000, spec=spec), *actions], spec)
    assert outcome.pairs(1) == [(1, "watch"), (2, "like")]
    assert outcome.counts["early_actions"] == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_rule_7_of_two_actions_on_a_pair_the_first_to_arrive_counts(
    tmp_path: Path, waits: bool, crash: bool, mode: LabelMode
) -> None:
    # Two seconds apart, so that they lie in different slices while they wait.
    spec = with_labels(SPEC, mode)
    acted = [Arrival.of(action(1, 0, "watch", time_ms), ingest_ms=time_ms + 1) for time_ms in (8_000, 6_000)]
    request = Arrival.of(shown(1, 5_000, spec=spec))
    outcome = join(tmp_path, [*acted, request] if waits else [request, *acted], spec, crash=crash)
    kind = LabelKind.CORRECTION if mode == "immediate" else LabelKind.POSITIVE
    assert [row for row in outcome.rows if row[3] == 1] == [("r1", 100, "watch", 1, 0.5, 8_000, kind)]
    assert {int(t) for block in outcome.blocks for t in block.action_ingest_ms} == {-1, 8_001}
    assert outcome.counts["duplicate_actions"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_rule_7_a_positive_goes_out_with_its_action_or_with_the_window(tmp_path: Path, mode: LabelMode) -> None:
    spec = with_labels(SPEC, mode)
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    del engine.blocks[:]
    engine.record(0, encode(action(1, 2, "like", 6_000)))
    with_action = sent(engine.blocks, "like")
    del engine.blocks[:]
    engine.watermark(LIKE_CLOSED_MS)
    with_window = [kind for index, kind in sent(engine.blocks, "like") if index == 2]
    if mode == "aligned":
        assert (with_action, with_window) == ([], [LabelKind.POSITIVE])
    else:
        kind = LabelKind.CORRECTION if mode == "immediate" else LabelKind.POSITIVE
        assert (with_action, with_window) == ([(2, kind)], [])


def test_rule_7_a_correction_does_not_depend_on_the_sample(tmp_path: Path) -> None:
    actions = [action(1, index, "watch", 6_000) for index in range(12)]
    outcome = join(tmp_path, [shown(1, 5_000, 12, IMMEDIATE), *actions], IMMEDIATE)
    provisional = [index for index, kind in outcome.kinds("watch") if kind is LabelKind.PROVISIONAL]
    assert provisional == sampled(12)
    assert 0 < len(provisional) < 12
    assert outcome.pairs(1) == [(index, "watch") for index in range(12)]
    assert (outcome.counts["corrections"], outcome.counts["positives"]) == (12, 0)


def test_rule_7_an_invalid_action_does_not_take_the_place_of_a_valid_one(tmp_path: Path) -> None:
    events = [shown(1, 5_000), action(1, 0, "watch", 15_000), action(1, 0, "watch", 6_000)]
    assert join(tmp_path, events).pairs(1) == [(0, "watch")]


def test_rule_8_a_pair_without_a_valid_action_gives_one_negative(tmp_path: Path) -> None:
    outcome = join(tmp_path, [shown(1, 5_000), action(1, 0, "like", 6_000)])
    assert [pair for pair in outcome.pairs(0) if pair[1] == "like"] == [(1, "like"), (2, "like")]
    negatives = [block for block in outcome.blocks if block.label_kind[0] == LabelKind.NEGATIVE]
    assert all((b.action_time_ms == -1).all() and (b.action_ingest_ms == -1).all() for b in negatives)


@pytest.mark.parametrize("waits", [False, True])
def test_rule_8_provisional_negatives_go_out_with_the_request_in_one_block_before_its_corrections(
    tmp_path: Path, waits: bool
) -> None:
    request, acted = shown(1, 5_000, 12, IMMEDIATE), action(1, 0, "like", 6_000)
    events = [acted, request] if waits else [request, acted]
    outcome = join(tmp_path, events, IMMEDIATE)
    assert outcome.kinds("like") == [*((i, LabelKind.PROVISIONAL) for i in range(12)), (0, LabelKind.CORRECTION)]
    provisional = [block for block in outcome.blocks if block.label_kind[0] == LabelKind.PROVISIONAL]
    assert len(provisional) == 1
    assert all((block.action_time_ms == -1).all() and (block.action_ingest_ms == -1).all() for block in provisional)
    assert outcome.counts["provisional_negatives"] == sum(len(block) for block in provisional)
    assert outcome.counts["negatives"] == 0


def test_rule_8_a_request_of_many_impressions_goes_out_in_blocks_of_block_rows(tmp_path: Path) -> None:
    outcome = join(tmp_path, [shown(1, 5_000, 9, IMMEDIATE)], IMMEDIATE, replace(CONFIG, block_rows=4))
    pairs = len(sampled(9)) + 9
    assert [len(block) for block in outcome.blocks] == [min(4, pairs - at) for at in range(0, pairs, 4)]
    assert outcome.kinds("like") == [(index, LabelKind.PROVISIONAL) for index in range(9)]


@pytest.mark.parametrize("mode", MODES)
def test_rule_9_the_hash_decides_on_a_negative_and_every_row_has_its_rate(tmp_path: Path, mode: LabelMode) -> None:
    spec = with_labels(SPEC, mode)
    outcome = join(tmp_path, [shown(1, 5_000, 30, spec), action(1, 0, "watch", 6_000)], spec)
    due = [index for index in sampled(30) if index > 0 or mode == "immediate"]
    assert [index for index, task in outcome.pairs(0) if task == "watch"] == due
    assert 5 < len(due) < 25
    assert {(row[2], row[4]) for row in outcome.rows} == {("watch", 0.5), ("like", 1.0)}


USERS = RateBySlot("user", (RateClass((2,), 0.9),))
FILMS = RateBySlot("film", (RateClass(tuple(range(1, 500)), 0.9),))
BY_SCORE = RateByScore(mean_score=0.5, floor=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("rule", "rates"),
    [({"rate_by_slot": USERS}, 1), ({"rate_by_slot": FILMS}, 2), ({"rate_by_score": BY_SCORE}, 10)],
    ids=["context", "item", "score"],
)
def test_rule_9_another_rate_by_slot_or_score_is_on_positives_too(
    tmp_path: Path, mode: LabelMode, rule: dict[str, RateBySlot | RateByScore], rates: int
) -> None:
    labelled = with_labels(SPEC, mode)
    spec = replace(labelled, tasks=(replace(labelled.tasks[0], **rule), labelled.tasks[1]))
    acted = [action(1, index, "watch", 6_000) for index in range(0, 30, 3)]
    outcome = join(tmp_path, [shown(1, 5_000, 30, spec), *acted], spec)
    of_pairs = {row[1]: row[4] for row in outcome.rows if row[2] == "watch"}
    assert len(of_pairs) >= 10
    assert len(set(of_pairs.values())) >= rates
    assert {row[4] for row in outcome.rows if row[2] == "like"} == {1.0}


@pytest.mark.parametrize("mode", MODES)
def test_rule_9_a_late_row_is_sent_where_the_sample_by_score_leaves_its_negative_out(
    tmp_path: Path, mode: LabelMode
) -> None:
    labelled = with_labels(EMIT_UNSAMPLED, mode)
    spec = replace(labelled, tasks=(replace(labelled.tasks[0], rate_by_score=BY_SCORE), labelled.tasks[1]))
    late = [action(1, index, "watch", 6_000) for index in range(12)]
    outcome = join(tmp_path, [shown(1, 5_000, 12, spec), WATCH_CLOSED_MS, *late], spec, late=late)
    labels = [index for label in (0, 1) for index, task in outcome.pairs(label) if task == "watch"]
    assert sorted(labels) == list(range(12))
    assert outcome.counts["late_actions"] in range(1, 12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", [False, True])
def test_rule_5_what_was_not_exposed_gives_no_row(tmp_path: Path, mode: LabelMode, crash: bool) -> None:
    spec = with_labels(SPEC, mode)
    request = replace(shown(1, 5_000, 6, spec), exposed=np.array([1, 0, 1, 0, 0, 1], np.uint8))
    acts = [action(1, 1, "like", 6_000), action(1, 2, "like", 6_000)]
    outcome = join(tmp_path, [request, *acts], spec, crash=crash)
    assert {row[1] for row in outcome.rows if row[2] == "like"} == {100, 102, 105}
    assert outcome.pairs(1) == [(2, "like")]
    assert (outcome.counts["unknown_impressions"], outcome.counts["unexposed_impressions"]) == (1, 3)


def test_rule_5_a_request_of_which_nothing_was_exposed_is_remembered_and_gives_nothing(tmp_path: Path) -> None:
    hidden = replace(shown(1, 5_000), exposed=np.zeros(3, np.uint8))
    outcome = join(tmp_path, [hidden, shown(1, 5_000), action(1, 0, "like", 6_000)])
    assert (outcome.rows, outcome.dead_letters, outcome.counts["duplicate_features"]) == ([], 0, 1)
