"""The rules of docs/join.md, one by one, over the joiner, the oracle of the tests and the plain join of the audit."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from rillet.audit.comparison import AuditReport, audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    decode,
    dump_spec,
    encode,
    parse_spec,
)
from rillet.schemas.spec import LabelMode
from tests.joiner.support import LATENESS_MS, SPEC, Arrival, action, feature, key_of, stream, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import Row, kept, oracle, rows_due, rows_of, usable

ROOT = Path(__file__).resolve().parents[2]
EMIT = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "emit"'))
MODES = ("positives_first", "aligned", "immediate")
ALIGNED, IMMEDIATE = with_labels(SPEC, "aligned"), with_labels(SPEC, "immediate")
CONFIG = JoinerConfig(slice_ms=1_000, action_wait_ms=30_000, late_retention_ms=60_000, max_ahead_ms=1_000)
#: ends of SPEC's two windows for a request shown at 5,000 ms, with its slice
WATCH_CLOSED_MS, LIKE_CLOSED_MS = 15_999, 65_999


@dataclass(frozen=True)
class Outcome:
    """What a scenario gave, the same in all three."""

    rows: list[Row]
    blocks: list[ExampleBlock]
    counts: dict[str, int]
    dead_letters: int
    report: AuditReport

    def pairs(self, label: int) -> list[tuple[object, object]]:
        """(impression index, task) of the rows with a label."""
        return [(int(str(row[1])) - 100, row[2]) for row in self.rows if row[3] == label]

    def kinds(self, task: str) -> list[tuple[int, LabelKind]]:
        """(impression index, kind) of the rows of a task in the order in which they were sent."""
        return sent(self.blocks, task)


def sent(blocks: list[ExampleBlock], task: str) -> list[tuple[int, LabelKind]]:
    """(impression index, kind) of the rows of a task in the order in which they were sent."""
    column = [task.name for task in SPEC.tasks].index(task)
    return [
        (int(impression_id) - 100, LabelKind(kind))
        for block in blocks
        for impression_id, kind, mask in zip(
            block.impression_ids, block.label_kind, block.mask.reshape(len(block), -1), strict=True
        )
        if mask[column]
    ]


def sampled(impressions: int, request: int = 1) -> list[int]:
    """Indices of the impressions that the sample of the watch task keeps."""
    return [index for index in range(impressions) if kept(7, "watch", f"r{request}", index + 100, 0.5)]


def shown(request: int, time_ms: int, impressions: int = 3, spec: FeatureSpec = SPEC) -> FeatureEvent:
    return replace(feature(request, time_ms, impressions), spec_hash=spec.hash)


def join(
    tmp_path: Path,
    arrivals: Sequence[Arrival | FeatureEvent | ActionEvent | int],
    spec: FeatureSpec = SPEC,
    config: JoinerConfig = CONFIG,
    late: Iterable[ActionEvent] = (),
    crash: bool = False,
) -> Outcome:
    """Runs a scenario through all three and compares them.

    :param arrivals: records, and watermarks as integers for the joiner; the end of input follows.
    :param late: the actions of the scenario that are late, which only the joiner finds out itself.
    :param crash: restart the joiner from its state before every record.
    """
    steps = [a if isinstance(a, Arrival | int) else Arrival.of(a) for a in arrivals]
    records = [step for step in steps if isinstance(step, Arrival)]
    engine, plain = Engine(spec, config, tmp_path / "joiner"), PlainJoin(spec, max_ahead_ms=config.max_ahead_ms)
    refused, counts = 0, dict.fromkeys(engine.joiner.counters.as_dict(), 0)

    def count() -> None:
        for name, value in engine.joiner.counters.as_dict().items():
            counts[name] += value

    for step in steps:
        if isinstance(step, int):
            engine.watermark(step)
            plain.add_record(b"", None, timestamp_ms=step)  # what moved the watermark
            continue
        if crash:
            count()
            engine.restore(engine.checkpoint())
        plain.add_record(step.data, step.key, step.ingest_ms)
        try:
            engine.record(0, step.data, step.ingest_ms, step.key or b"")
        except RecordError:
            refused += 1
    engine.watermark(END_OF_TIME_MS)
    count()
    rows = rows_of(spec, engine.blocks)
    features, actions = usable(spec, records, config.max_ahead_ms)
    assert rows == oracle(spec, features, actions, late=list(late))
    expected = plain.result()
    report = audit_examples(expected, engine.blocks, plain.actions, allowed_late=counts["late_actions"])
    assert report.ok, report.lines()
    assert report.expected == len(rows)
    if not late:
        assert rows == rows_due(expected)
        assert (report.late_dropped, report.late_positive) == (0, 0)
    assert refused == expected.unusable - sum(isinstance(step, int) for step in steps)
    for name, value in expected.counts.items():
        # To the plain join a second late action is a duplicate of the first.
        assert counts[name] == value or (late and name == "duplicate_actions"), name
    engine.joiner.close()
    return Outcome(rows, engine.blocks, counts, refused, report)


def test_every_rule_has_a_test_that_names_it() -> None:
    rules = set(re.findall(r"^(\d+)\. \*\*", (ROOT / "docs/join.md").read_text("utf-8"), re.MULTILINE))
    functions = [name for name, _ in inspect.getmembers(sys.modules[__name__], inspect.isfunction)]
    assert len(rules) == 18
    assert rules == {found[1] for name in functions if (found := re.match(r"test_rule_(\d+)_", name))}


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
def test_rule_13_a_task_that_emits_sends_a_late_positive_beside_the_sampled_negative(
    tmp_path: Path, mode: LabelMode, crash: bool
) -> None:
    spec = with_labels(EMIT, mode)
    acts = [action(1, index, "watch", 14_000) for index in range(12)]
    events = [shown(1, 5_000, 12, spec), WATCH_CLOSED_MS, *acts, *acts]
    outcome = join(tmp_path, events, spec, late=acts, crash=crash)
    assert outcome.pairs(1) == [(index, "watch") for index in range(12)]
    negatives = [index for index, task in outcome.pairs(0) if task == "watch"]
    assert negatives == sampled(12)
    kinds = [kind for block in outcome.blocks for kind in block.label_kind.tolist()]
    # A provisional negative is corrected by whatever action comes.
    late = 0 if mode == "immediate" else 12
    assert kinds.count(LabelKind.LATE_POSITIVE) == outcome.report.late_positive == late
    assert kinds.count(LabelKind.CORRECTION) == 12 - late
    assert outcome.counts["duplicate_actions"] == 12


def test_rule_13_nothing_is_emitted_once_the_request_is_forgotten(tmp_path: Path) -> None:
    engine = Engine(EMIT, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=EMIT)))
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


@pytest.mark.parametrize(("setting", "negatives"), [("emit", True), ("discard", False)])
@pytest.mark.parametrize("mode", MODES)
def test_rule_15_the_end_of_input_sends_or_discards_the_negatives_of_open_windows_and_no_positive(
    tmp_path: Path, setting: str, negatives: bool, mode: LabelMode
) -> None:
    spec = with_labels(SPEC, mode)
    engine = Engine(spec, replace(CONFIG, negatives_at_end=setting), tmp_path)
    for event in (shown(1, 5_000, 8, spec), action(1, 0, "watch", 6_000), action(2, 0, "watch", 6_000)):
        engine.record(0, encode(event))
    if mode == "immediate":
        assert len(engine.blocks) == 2
        engine.watermark(END_OF_TIME_MS)
        assert len(engine.blocks) == 2
        assert engine.joiner.counters.discarded_at_end == 0
        return
    engine.watermark(END_OF_TIME_MS)
    rows = rows_of(spec, engine.blocks)
    assert [row[:4] for row in rows if row[3] == 1] == [("r1", 100, "watch", 1)]
    assert any(row[3] == 0 for row in rows) is negatives
    assert engine.joiner.counters.discarded_at_end == (0 if negatives else 15)
    assert engine.joiner.counters.orphan_actions == 1


@pytest.mark.parametrize("mode", MODES)
def test_rule_15_what_a_drain_closed_stays_closed(tmp_path: Path, mode: LabelMode) -> None:
    spec = with_labels(SPEC, mode)
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.watermark(END_OF_TIME_MS)
    engine.restore(engine.checkpoint())
    del engine.blocks[:]
    with pytest.raises(RecordError, match="a drain has closed"):
        engine.record(0, encode(shown(2, 5_100, spec=spec)))
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.watermark(END_OF_TIME_MS)
    assert engine.blocks == []
    assert engine.joiner.counters.orphan_actions == 1


@pytest.mark.simulation
@pytest.mark.parametrize("modes", [*((mode, mode) for mode in MODES), ("aligned", "immediate")])
@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
def test_rule_16_restarts_change_no_row(tmp_path: Path, modes: tuple[LabelMode, LabelMode], memory_bytes: int) -> None:
    spec, config = with_labels(SPEC, *modes), replace(CONFIG, memory_bytes=memory_bytes)
    events = [
        action(1, 0, "watch", 9_000),
        action(1, 0, "watch", 6_000),
        action(1, 1, "like", 12_000),
        action(1, 1, "like", 6_000),
        shown(1, 5_000, spec=spec),
        shown(1, 6_000, spec=spec),
        action(1, 2, "watch", 9_000),
        action(1, 2, "watch", 6_000),
    ]
    crashed, untroubled = (join(tmp_path / str(crash), events, spec, config, crash=crash) for crash in (True, False))
    assert list(map(encode, crashed.blocks)) == list(map(encode, untroubled.blocks))


def test_rule_17_an_action_counts_as_late_only_after_a_record_past_its_window() -> None:
    for newest_ms, may_be_late in ((15_000 + 2_999, False), (15_000 + 3_000, True)):
        plain = PlainJoin(SPEC, lateness_ms=3_000)
        plain.add_feature(shown(1, 5_000))
        plain.add_record(b"junk", None, timestamp_ms=newest_ms)
        plain.add_record(encode(action(1, 0, "watch", 6_000)), b"r1", timestamp_ms=6_000)
        plain.add_record(b"junk", None, timestamp_ms=10**9)
        assert plain.result().may_be_late[0].tolist() == [may_be_late, False]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [0, 2])
def test_rule_17_a_joiner_that_ignores_actions_fails_although_the_topic_goes_on(
    tmp_path: Path, keep: int, mode: LabelMode
) -> None:
    spec = with_labels(SPEC, mode)
    engine, plain = Engine(spec, CONFIG, tmp_path), PlainJoin(spec, lateness_ms=LATENESS_MS)
    _, _, arrivals = stream(3, requests=80, spec=spec)
    counted = 0
    for bucket, time_ms, data in [*arrivals, (0, 10_000_000, encode(shown(9_999, 10_000_000, spec=spec)))]:
        plain.add_record(data, key_of(data), timestamp_ms=time_ms, partition=bucket)
        counted += isinstance(decode(data), ActionEvent)
        if isinstance(decode(data), FeatureEvent) or (keep and counted % keep == 0):
            engine.record(bucket, data)
    engine.watermark(END_OF_TIME_MS)
    report = audit_examples(plain.result(), engine.blocks, plain.actions)
    assert not report.ok
    assert report.mislabelled + report.lost > 20


@pytest.mark.parametrize("mode", MODES)
def test_rule_17_a_faultless_late_run_passes_and_a_mislabelled_one_does_not(tmp_path: Path, mode: LabelMode) -> None:
    late = action(1, 1, "watch", 14_000)
    for spec in (with_labels(SPEC, mode), with_labels(EMIT, mode)):
        events = [shown(1, 5_000, 12, spec), action(1, 0, "watch", 6_000), WATCH_CLOSED_MS, late]
        outcome = join(tmp_path / spec.tasks[0].late, events, spec, late=[late])
        plain = PlainJoin(spec, lateness_ms=WATCH_CLOSED_MS)  # a lateness with which it cannot have been late
        for event in events:
            if not isinstance(event, int):
                arrival = Arrival.of(event)
                plain.add_record(arrival.data, arrival.key)
        # A late correction is like any other; everything else that follows from lateness needs a reason on the topics.
        same = mode == "immediate" and spec.tasks[0].late == "emit"
        assert audit_examples(plain.result(), outcome.blocks).ok is same


def test_rule_18_the_rows_of_an_id_that_was_used_again_are_reported_as_duplicated(tmp_path: Path) -> None:
    engine, plain = Engine(SPEC, CONFIG, tmp_path), PlainJoin(SPEC)
    for event in (shown(1, 5_000), shown(1, 70_000)):
        plain.add_feature(event)
        engine.record(0, encode(event))
        engine.watermark(LIKE_CLOSED_MS)
    engine.watermark(END_OF_TIME_MS)
    report = audit_examples(plain.result(), engine.blocks)
    assert not report.ok
    assert report.duplicated == report.expected > 0


@pytest.mark.parametrize("mode", ["positives_first", "aligned"])
def test_rule_18_a_discarded_negative_is_reported_as_lost(tmp_path: Path, mode: LabelMode) -> None:
    spec = with_labels(SPEC, mode)
    engine = Engine(spec, replace(CONFIG, negatives_at_end="discard"), tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.watermark(END_OF_TIME_MS)
    plain = PlainJoin(spec)
    plain.add_feature(shown(1, 5_000, spec=spec))
    report = audit_examples(plain.result(), engine.blocks)
    assert report.lost == report.expected > 0
