"""Rule 7 of docs/join.md where a task has several actions, or asks for more than one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import gathered
from rillet.joiner.closing import STEP_REQUESTS
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import ActionEvent, FeatureSpec, LabelKind, encode
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.spec import LabelMode, LatePolicy
from tests.joiner.scenarios import CONFIG, MODES, WATCH_CLOSED_MS, join, shown
from tests.joiner.support import SPEC, Arrival, action, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import rows_of


def asking(rule: AtLeast | None, mode: LabelMode = "positives_first", late: LatePolicy = "drop") -> FeatureSpec:
    """The task watch asks for watch and tap, by a rule."""
    first, *others = SPEC.tasks
    watch = replace(first, action=("tap", "watch"), at_least=rule, late=late)
    return with_labels(replace(SPEC, tasks=(watch, *others)), mode)


def acted(name: str, time_ms: int, value: float | None = None, action_id: str | None = None) -> Arrival:
    event = replace(action(1, 0, name, time_ms), value=value, action_id=action_id)
    return Arrival.of(event, ingest_ms=time_ms + 1)


@pytest.mark.parametrize("mode", MODES)
def test_rule_7_each_of_several_actions_makes_a_pair_positive(tmp_path: Path, mode: LabelMode) -> None:
    spec = asking(None, mode)
    events = [action(1, 0, "tap", 6_000), action(1, 0, "watch", 7_000), action(1, 1, "watch", 6_000)]
    outcome = join(tmp_path, [shown(1, 5_000, spec=spec), *events], spec)
    assert outcome.pairs(1) == [(0, "watch"), (1, "watch")]
    assert outcome.counts["duplicate_actions"] == 1
    # Of both names the first to arrive counts.
    assert [row[5] for row in outcome.rows if row[3] == 1] == [6_000, 6_000]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize(
    ("rule", "turns_at_ms"),
    [
        (AtLeast("count", 2), 6_500),
        (AtLeast("count", 3), 7_000),
        (AtLeast("count", 4), 7_500),
        (AtLeast("count", 5), None),
        (AtLeast("sum", 2.5), 6_500),
        (AtLeast("sum", 2.75), 7_500),
        (AtLeast("value", 1.5), 6_500),
        (AtLeast("value", 2.5), None),
    ],
)
def test_rule_7_the_action_with_which_the_rule_is_first_true_makes_the_pair_positive(
    tmp_path: Path,
    rule: AtLeast,
    turns_at_ms: int | None,
    mode: LabelMode,
    waits: bool,
    crash: bool,
) -> None:
    spec = asking(rule, mode)
    actions = [
        acted("tap", 6_000, 1.0),
        acted("tap", 6_000, 1.0),  # the same once more
        acted("watch", 6_500, 1.5),
        acted("watch", 7_000),
        acted("watch", 7_500, 0.25),
    ]
    request = Arrival.of(shown(1, 5_000, spec=spec))
    outcome = join(tmp_path, [*actions, request] if waits else [request, *actions], spec, crash=crash)
    assert [row[5] for row in outcome.rows if row[3] == 1] == ([] if turns_at_ms is None else [turns_at_ms])
    ingest = {int(t) for block in outcome.blocks for t in block.action_ingest_ms}
    assert ingest - {-1} == (set() if turns_at_ms is None else {turns_at_ms + 1})


def test_rule_7_what_a_rule_has_taken_is_counted(tmp_path: Path) -> None:
    spec = asking(AtLeast("count", 3))
    times = (6_000, 6_000, 6_500, 7_000, 7_500)
    outcome = join(tmp_path, [shown(1, 5_000, spec=spec), *(acted("watch", time_ms) for time_ms in times)], spec)
    assert (outcome.counts["positives"], outcome.counts["incomplete_actions"]) == (1, 2)
    assert outcome.counts["duplicate_actions"] == 2  # the one that came twice, and the one on a positive


@pytest.mark.parametrize(("second", "positive"), [("b", True), ("a", False)])
def test_rule_7_actions_with_an_id_are_told_apart_by_it(tmp_path: Path, second: str, positive: bool) -> None:
    spec = asking(AtLeast("count", 2))
    # The same time and value, or others: it is the id that counts.
    events = [acted("watch", 6_000, 1.0, "a"), acted("watch", 6_000 if positive else 6_100, 1.0, second)]
    assert join(tmp_path, [shown(1, 5_000, spec=spec), *events], spec).pairs(1) == ([(0, "watch")] if positive else [])


def test_rule_7_an_empty_id_tells_nothing_and_zero_has_one_sign(tmp_path: Path) -> None:
    spec = asking(AtLeast("count", 2))
    events = [acted("watch", 6_000, 0.0, ""), acted("watch", 6_000, -0.0, None), acted("watch", 6_500, 0.0, "")]
    outcome = join(tmp_path, [shown(1, 5_000, spec=spec), *events], spec)
    assert [row[5] for row in outcome.rows if row[3] == 1] == [6_500]


def test_rule_7_each_pair_and_each_task_gathers_on_its_own(tmp_path: Path) -> None:
    watch, like = asking(AtLeast("count", 2)).tasks
    spec = replace(SPEC, tasks=(watch, replace(like, action=("tap", "like"), at_least=AtLeast("count", 3))))
    acted_on = [(0, "tap"), (1, "tap"), (1, "watch")]
    events = [action(1, index, name, 6_000 + at) for at, (index, name) in enumerate(acted_on)]
    events += [action(1, 0, "like", 7_000), action(1, 0, "like", 7_001), action(1, 2, "watch", 7_002)]
    assert join(tmp_path, [shown(1, 5_000, spec=spec), *events], spec).pairs(1) == [(0, "like"), (1, "watch")]


@pytest.mark.parametrize(("late", "positive"), [("drop", False), ("correct", True)])
@pytest.mark.parametrize("crash", [False, True])
def test_rule_12_and_13_the_action_that_makes_a_rule_true_is_late_or_not(
    tmp_path: Path, late: LatePolicy, positive: bool, crash: bool
) -> None:
    spec = asking(AtLeast("count", 3), late=late)
    actions = [action(1, 0, "watch", 6_000 + at) for at in range(3)]
    events = [shown(1, 5_000, spec=spec), actions[0], WATCH_CLOSED_MS, *actions[1:]]
    outcome = join(tmp_path, events, spec, late=actions[1:], crash=crash)
    assert outcome.pairs(1) == ([(0, "watch")] if positive else [])
    assert outcome.counts["late_actions"] == (0 if positive else 2)


def test_rule_7_a_pair_gathers_a_bounded_number_of_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "MOST_GATHERED", 3)
    spec = asking(AtLeast("sum", 100.0))
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    for at in range(5):
        engine.record(0, acted("watch", 6_000 + at, 1.0).data)
    engine.record(0, acted("watch", 6_010, 97.0).data)
    counters = engine.joiner.counters
    # The last of them is looked at all the same: it makes the sum of those gathered large enough.
    assert (counters.incomplete_actions, counters.ungathered_actions, counters.positives) == (3, 2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_rule_has_gathered_is_forgotten_with_its_request(tmp_path: Path, mode: LabelMode) -> None:
    spec = asking(AtLeast("count", 2), mode)
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, spec=spec)))
    engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.restore(engine.checkpoint())
    engine.watermark(10_000_000)
    assert not engine.states[0].entries
    assert engine.joiner.store.used_bytes == 0


def test_an_action_writes_what_its_own_pair_has_gathered_and_not_what_others_have(tmp_path: Path) -> None:
    spec = asking(AtLeast("sum", 100.0))
    engine = Engine(spec, CONFIG, tmp_path)
    engine.record(0, encode(shown(1, 5_000, 200, spec)))
    largest = max(map(len, engine.states[0].entries.values()))
    for at in range(600):
        engine.record(0, encode(replace(action(1, at % 200, "watch", 6_000 + at), value=0.5)))
    assert engine.joiner.counters.incomplete_actions == 600
    assert max(map(len, engine.states[0].entries.values())) <= largest
    assert sum(map(len, engine.states[0].entries.values())) < largest + 600 * 16 + 200


def test_requests_with_gathered_actions_are_forgotten_in_small_steps(tmp_path: Path) -> None:
    spec = asking(AtLeast("count", 2))
    engine = Engine(spec, CONFIG, tmp_path, at_once=False)
    for request in range(20):
        engine.record(0, encode(shown(request, 5_000, 40, spec)))
        for index in range(40):
            engine.record(0, encode(action(request, index, "watch", 6_000)))
    engine.watermark(10_000_000)
    most = 0
    while engine.put_off:
        before = engine.states[0].calls["remove"]
        engine.go_on(0)
        most = max(most, engine.states[0].calls["remove"] - before)
    assert not engine.states[0].entries
    assert most <= STEP_REQUESTS + 40 + 2 * 4


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_an_engine_without_state_gathers_likewise(tmp_path: Path, memory_bytes: int) -> None:
    spec = asking(AtLeast("count", 2))
    config = replace(CONFIG, memory_bytes=memory_bytes)
    simulated = SimulatedJoin(spec, config, lateness_ms=0, commit_ms=0, directory=tmp_path / "tier")
    for event in (
        shown(1, 5_000, 12, spec),
        *(action(1, 3, "watch", at) for at in (5_100, 5_200, 5_300)),
        action(1, 4, "watch", 5_400),
    ):
        simulated.take(event)
    simulated.finish()
    rows = rows_of(spec, [block for _, block in simulated.visible(1 << 62)])
    assert [(row[1], row[5]) for row in rows if row[3] == 1] == [(103, 5_200)]
    simulated.close()


def test_gathered_actions_do_not_become_rows_of_an_aligned_window(tmp_path: Path) -> None:
    spec = asking(AtLeast("count", 2), "aligned")
    events: list[ActionEvent] = [action(1, 0, "watch", 6_000), *(action(1, 1, "watch", 6_000 + at) for at in range(2))]
    outcome = join(tmp_path, [shown(1, 5_000, 12, spec), *events], spec)
    assert [index for index, kind in outcome.kinds("watch") if kind is LabelKind.POSITIVE] == [1]


@pytest.mark.parametrize(
    ("rule", "counted"),
    [
        (AtLeast("sum", 9.0), ({"watch": 1}, {"watch": 2})),
        (AtLeast("value", 9.0), ({"watch": 1}, {"watch": 2})),
        (AtLeast("count", 9), ({}, {})),
        (None, ({}, {})),
    ],
)
def test_actions_that_lack_a_value_are_counted_by_the_tasks_that_ask_for_one(
    tmp_path: Path, rule: AtLeast | None, counted: tuple[dict[str, int], dict[str, int]]
) -> None:
    spec = asking(rule)
    engine = Engine(spec, CONFIG, tmp_path)
    # One of them waits, and is counted once it finds its request; that of another task and that on no impression are not.
    page = Arrival.of(shown(1, 5_000, spec=spec))
    arrivals = [acted("tap", 5_500), page, acted("watch", 6_000), acted("tap", 6_500, 2.0)]
    others = [Arrival.of(action(1, 0, "like", 7_000)), Arrival.of(action(1, 77, "watch", 7_000))]
    for arrival in (*arrivals, *others):
        engine.record(0, arrival.data)
    values = engine.joiner.values
    assert (values.valued.as_dict(), values.valueless.as_dict()) == counted
