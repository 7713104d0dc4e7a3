"""Rule 7 of docs/join.md where a task has several actions, or asks for more than one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import gathered
from rillet.schemas import ActionEvent, FeatureSpec, LabelKind, encode
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.spec import LabelMode, LatePolicy
from tests.joiner.scenarios import CONFIG, MODES, WATCH_CLOSED_MS, join, shown
from tests.joiner.support import SPEC, Arrival, action, with_labels
from tests.simulation.joiner_engine import Engine


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


def test_gathered_actions_do_not_become_rows_of_an_aligned_window(tmp_path: Path) -> None:
    spec = asking(AtLeast("count", 2), "aligned")
    events: list[ActionEvent] = [action(1, 0, "watch", 6_000), *(action(1, 1, "watch", 6_000 + at) for at in range(2))]
    outcome = join(tmp_path, [shown(1, 5_000, 12, spec), *events], spec)
    assert [index for index, kind in outcome.kinds("watch") if kind is LabelKind.POSITIVE] == [1]
