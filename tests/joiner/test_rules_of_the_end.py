"""The rules of docs/join.md on the end of input, restarts and what the audit can tell (15 to 19)."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.audit.comparison import audit_eras, audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS
from rillet.schemas import ActionEvent, FeatureEvent, LabelKind, SpecRegistry, decode, encode
from rillet.schemas.spec import LabelMode
from tests.joiner.scenarios import CONFIG, CORRECT, LIKE_CLOSED_MS, MODES, WATCH_CLOSED_MS, join, sampled, shown
from tests.joiner.specs import CHANGES, SpecEngine
from tests.joiner.support import LATENESS_MS, SPEC, Arrival, action, key_of, stream, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import oracle, rows_of

ROOT = Path(__file__).resolve().parents[2]


def test_every_rule_has_a_test_that_names_it() -> None:
    rules = re.findall(r"^(\d+)\. \*\*", (ROOT / "docs/join.md").read_text("utf-8"), re.MULTILINE)
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_rules_of_*.py"))
    assert len(rules) == 19
    assert set(rules) == set(re.findall(r"^def test_rule_(\d+)_", tests, re.MULTILINE))


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


def test_rule_15_a_negative_that_a_drain_discarded_is_not_taken_back(tmp_path: Path) -> None:
    spec = with_labels(CORRECT, "positives_first")
    engine = Engine(spec, replace(CONFIG, negatives_at_end="discard"), tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.watermark(END_OF_TIME_MS)
    for task in ("watch", "like"):
        for index in range(3):
            engine.record(0, encode(action(1, index, task, 6_000)))
    assert {row[6] for row in rows_of(spec, engine.blocks)} == {LabelKind.POSITIVE}


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("now", ["emit", "discard"])
@pytest.mark.parametrize("then", ["emit", "discard"])
def test_rule_15_only_a_negative_that_was_sent_is_taken_back_after_a_drain_whatever_the_setting_is_now(
    tmp_path: Path, then: str, now: str, closed: bool
) -> None:
    spec = with_labels(CORRECT, "positives_first")
    engine = Engine(spec, replace(CONFIG, negatives_at_end=then), tmp_path)
    engine.record(0, encode(shown(1, 5_000, 12, spec)))
    if closed:
        engine.watermark(WATCH_CLOSED_MS)
    engine.watermark(END_OF_TIME_MS)
    engine.restore(engine.checkpoint(), config=replace(CONFIG, negatives_at_end=now))
    for index in range(12):
        engine.record(0, encode(action(1, index, "watch", 6_000)))
    kinds: dict[int, list[LabelKind]] = defaultdict(list)
    for row in rows_of(spec, engine.blocks):
        if row[2] == "watch":
            kinds[int(str(row[1]))].append(LabelKind(int(str(row[6]))))
    sent = sampled(12) if closed or then == "emit" else []
    taken_back, alone = [LabelKind.NEGATIVE, LabelKind.LATE_POSITIVE], [LabelKind.POSITIVE]
    assert kinds == {100 + index: taken_back if index in sent else alone for index in range(12)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("late", ["drop", "correct"])
def test_rule_15_what_a_drain_closed_stays_closed_and_what_comes_after_it_is_joined(
    tmp_path: Path, mode: LabelMode, late: str
) -> None:
    spec, kept = with_labels(CORRECT if late == "correct" else SPEC, mode), sampled(12)[0]
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, 12, spec)))
    engine.watermark(END_OF_TIME_MS)
    engine.restore(engine.checkpoint())
    before = rows_of(spec, engine.blocks)
    for event in (
        shown(1, 5_000, 12, spec),  # known
        shown(2, 5_100, 12, spec),  # of a slice that was drained
        action(1, kept, "watch", 6_000),  # late, but under immediate, where a drain closes nothing
        action(2, 0, "watch", 6_000),
    ):
        engine.record(0, encode(event))
    counters = engine.joiner.counters
    assert (counters.duplicate_features, counters.features, counters.late_actions, counters.late_positives) == (
        *(1, 1),
        *((0, 0) if mode == "immediate" else (1, 0) if late == "drop" else (0, 1)),
    )
    engine.watermark(END_OF_TIME_MS)
    features, acts = (
        [shown(n, 4_900 + 100 * n, 12, spec) for n in (1, 2)],
        [action(1, kept, "watch", 6_000), action(2, 0, "watch", 6_000)],
    )
    assert rows_of(spec, engine.blocks) == oracle(spec, features, acts, late=[] if mode == "immediate" else acts[:1])
    engine.watermark(END_OF_TIME_MS)
    assert len(rows_of(spec, engine.blocks)) > len(before)


@pytest.mark.parametrize("mode", MODES)
def test_rule_15_an_event_from_the_future_before_a_drain_blinds_nothing_after_it(
    tmp_path: Path, mode: LabelMode
) -> None:
    spec = with_labels(SPEC, mode)
    engine = Engine(spec, replace(CONFIG, max_ahead_ms=10_000_000), tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.record(0, encode(shown(2, 3_600_000, spec=spec)), ingest_ms=5_000)
    engine.watermark(END_OF_TIME_MS)
    engine.restore(engine.checkpoint())
    later = [shown(10 + n, 6_000 + 1_000 * n, spec=spec) for n in range(48)]
    for event in later:
        engine.record(0, encode(event))
    engine.watermark(70_000)
    engine.watermark(END_OF_TIME_MS)
    assert rows_of(spec, engine.blocks) == oracle(
        spec, [shown(1, 5_000, spec=spec), shown(2, 3_600_000, spec=spec), *later], []
    )


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
    late = action(1, next(index for index in sampled(12) if index != 0), "watch", 14_000)
    for spec in (with_labels(SPEC, mode), with_labels(CORRECT, mode)):
        events = [shown(1, 5_000, 12, spec), action(1, 0, "watch", 6_000), WATCH_CLOSED_MS, late]
        outcome = join(tmp_path / spec.tasks[0].late, events, spec, late=[late])
        plain = PlainJoin(spec, lateness_ms=WATCH_CLOSED_MS)  # a lateness with which it cannot have been late
        for event in events:
            if not isinstance(event, int):
                arrival = Arrival.of(event)
                plain.add_record(arrival.data, arrival.key)
        # A late correction is like any other; everything else that follows from lateness needs a reason on the topics.
        same = mode == "immediate" and spec.tasks[0].late == "correct"
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


@pytest.mark.parametrize("mode", MODES)
def test_rule_19_requests_are_audited_under_the_spec_that_was_the_joiners_when_they_came(
    tmp_path: Path, mode: LabelMode
) -> None:
    """A window that was made longer: 20 s after the page is too late for the first requests, and not for the last."""
    specs = with_labels(SPEC, mode), with_labels(CHANGES["a longer window"], mode)
    engine = SpecEngine(SpecRegistry(specs[0], [specs[1]]), CONFIG, tmp_path)
    events = [shown(request, 5_000, 8, specs[0]) for request in range(6)]
    events += [action(request, 0, "watch", 25_000) for request in range(6)]  # type: ignore[misc]
    joins = [PlainJoin(spec, also_accepts=specs) for spec in specs]
    for at, event in enumerate(events):
        if at == 3:
            engine.restart(SpecRegistry(specs[1], [specs[0]]))
        engine.record(0, encode(event))
        for plain in joins:
            assert plain.add_record(encode(event), event.request_id.encode())
    engine.watermark(END_OF_TIME_MS)
    engine.joiner.close()
    joined = [plain.result() for plain in joins]
    report = audit_eras(joined, lambda: [(0, block) for block in engine.blocks])
    assert report.ok, report.lines()
    assert list(report.requests_by_spec.values()) == [3, 3]
    assert report.positive == 3
    for block in engine.blocks:
        rest = [(0, other) for other in engine.blocks if other is not block]
        assert not audit_eras(joined, lambda rest=rest: rest).ok  # type: ignore[misc]
