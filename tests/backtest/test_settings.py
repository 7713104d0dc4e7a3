"""Grids of settings: what they mean, what may be varied, and what is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.backtest.delays import Delays
from rillet.backtest.settings import axes_of, grid, numeric, parse_grid
from rillet.backtest.specs import learned_spec, spec_changes, vary_spec
from rillet.jobs.errors import ConfigError
from rillet.schemas import Cross, DenseFeature, History, Slot, SpecError, dump_spec
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass
from tests.backtest.events import SPEC

WITH_HISTORY = replace(
    SPEC,
    context=(*SPEC.context, Slot("seen", 3, "history", 2, history=History(of="item", action="click", by="user"))),
)


def test_values_are_toml_and_every_combination_is_a_variant() -> None:
    setups = grid(
        SPEC,
        {"model": {"name": "films"}},
        ["model.dim=8,16", "model.kind=deepfm,logistic", "publisher.sparse_interval_s=5.0", "model.hidden=[8,4]"],
    )
    assert list(setups) == [
        "model.dim=8, model.kind=deepfm",
        "model.dim=8, model.kind=logistic",
        "model.dim=16, model.kind=deepfm",
        "model.dim=16, model.kind=logistic",
    ], "what all have in common is in no name"
    setup = setups["model.dim=8, model.kind=logistic"]
    assert (setup.config.model.name, setup.config.model.dim, setup.config.model.hidden) == ("films", 8, (8, 4))
    assert setup.delays.publish_ms == 5_000
    assert setup.spec is SPEC
    assert axes_of(setups.values()) == {"model.dim": ["8", "16"], "model.kind": ["deepfm", "logistic"]}
    assert axes_of([*setups.values(), *grid(SPEC).values()]) == {}, "one of the runs is on no axis"


def test_one_setting_is_the_model() -> None:
    assert list(grid(SPEC)) == ["model"]
    assert list(grid(SPEC, None, ["model.dim=8"])) == ["model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.dim"], "expected KEY=VALUE"),
        (["=3"], "expected KEY=VALUE"),
        (["model.dim="], "expected KEY=VALUE"),
        (["model.dim=8", "model.dim=16"], "model.dim: stands twice"),
        (["model.dim=8,8"], "a value stands twice"),
        (["model.dim=8,,16"], "model.dim=8,,16: an empty value"),
        (["model.dim=8,"], "an empty value"),
    ],
)
def test_a_malformed_option_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_grid(options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.dimm=8,9", r"model.dimm=8: .*unknown key; did you mean dim"),
        ("model.dim.x=8", "model.dim.x: dim is no table|model.dim"),
        ("delays.publish_ms=3", "unknown key; known are delays.commit, delays.publish"),
        ("delays.publish=10s,10", "delays.publish=10: delays.publish: 10 is no interval"),
        ("spec.tasks.click.action=buy", "cannot be varied over a recording.*window_ms, negative_rate, labels"),
        ("spec.item=3", "spec.item: cannot be varied"),
        ("spec.context.user.max_values=3", "context.user.max_values: there is no history user; there is none"),
        ("spec.context.user.of=film", "spec.context.user.of: cannot be varied.* max_values, max_age_ms"),
        ("spec.task.click.window_ms=3", r"did you mean spec.tasks.click.window_ms\?"),
        ("kafka.bootstrap_servers=a,b", "kafka.bootstrap_servers: decides nothing in a backtest; what does: model"),
        ("serving.port=1,2", "serving.port: decides nothing"),
        ("dump.group_rows=1,2", "dump.group_rows: decides nothing"),
        ("replica.slice_rows=1", "replica.slice_rows: decides nothing"),
        ("publisher.keep_bases=1,2", "publisher.keep_bases: decides nothing"),
        ("flink.parallelism=2", "flink.parallelism: decides nothing.* flink.checkpoint_interval_ms"),
        ("modle.dim=3", "modle: unknown key; did you mean model"),
        ("spec.name=x", "spec.name: cannot be varied"),
        ("spec.tasks.watch.window_ms=3", "has no task watch; it has click, buy"),
        ("spec.tasks.click.window_ms=10m", "spec.tasks.click.window_ms: '10m' is no int"),
        ("spec.tasks.click.window_ms=0", "window_ms: 0 is not positive"),
        ("spec.tasks.click.negative_rate=1.5", "negative_rate: 1.5 is not in"),
        ("spec.tasks.click.labels=late", "labels: 'late' is none of positives_first, aligned, immediate"),
        ("spec.sampling_seed=true", "spec.sampling_seed: True is no int"),
    ],
)
def test_what_is_wrong_or_would_change_what_was_recorded_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(SPEC, None, [option])


def test_a_delay_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set delays\.publish: --publish is given as well"):
        grid(SPEC, None, ["delays.publish=1s,2s"], delays={"publish": 5})


def test_an_error_of_a_single_run_does_not_begin_with_the_name_that_stands_for_it() -> None:
    with pytest.raises(ConfigError, match=r"^configuration: .*dimm"):
        grid(SPEC, None, ["model.dimm=8"])


def test_windows_rates_labels_and_seeds_can_be_varied_and_give_another_spec() -> None:
    setups = grid(
        SPEC,
        None,
        [
            "spec.tasks.click.window_ms=600000,3600000",
            "spec.tasks.click.labels=aligned",
            "spec.tasks.buy.negative_rate=1",
            "spec.tasks.buy.late=correct",
            "spec.tasks.buy.early_ms=0",
            "spec.sampling_seed=5",
        ],
    )
    spec = setups["spec.tasks.click.window_ms=3600000"].spec
    assert (spec.tasks[0].window_ms, spec.tasks[0].labels) == (3_600_000, "aligned")
    assert (spec.tasks[1].negative_rate, spec.tasks[1].late, spec.tasks[1].early_ms) == (1.0, "correct", 0)
    assert spec.sampling_seed == 5
    assert spec.hash != SPEC.hash
    assert (spec.context, spec.item, spec.dense) == (SPEC.context, SPEC.item, SPEC.dense)
    assert vary_spec(SPEC, {"sampling_seed": SPEC.sampling_seed}) == SPEC


def test_transforms_of_dense_features_can_be_varied_over_the_same_records(tmp_path: Path) -> None:
    name, spec = "price", replace(SPEC, dense=(DenseFeature("price"),))
    setups = grid(spec, None, [f"spec.dense.{name}.transform=none,log1p"])
    found = [setup.spec for setup in setups.values()]
    assert [one.dense[0].transform for one in found] == ["none", "log1p"]
    assert {one.hash for one in found} == {spec.hash}
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(found[1]))
    assert spec_changes(spec, learned_spec(spec, {"spec": str(path)})) == [
        f"dense.{name}.transform: log1p, recorded none"
    ]
    with pytest.raises(
        ConfigError, match=rf"spec.dense.prise.transform: there is no dense feature prise; there is {name}"
    ):
        vary_spec(spec, {"dense.prise.transform": "log1p"})
    with pytest.raises(ConfigError, match=r"spec.dense\[0\].transform: 'log' is none of none, log1p"):
        vary_spec(spec, {f"dense.{name}.transform": "log"})


def test_settings_of_histories_can_be_varied() -> None:
    setups = grid(WITH_HISTORY, None, ["spec.context.seen.max_values=1,20", "spec.context.seen.max_age_ms=60000"])
    (longest,) = setups["spec.context.seen.max_values=20"].spec.histories
    assert (longest.max_values, longest.history) == (20, History("item", "click", "user", 60_000))
    # A cross that holds all pairs of a history goes on to hold all; one that is cut stays as it is.
    crosses = (Cross("all", 90, ("seen", "item"), 2), Cross("one", 91, ("seen", "item"), 1))
    varied = vary_spec(replace(WITH_HISTORY, crosses=crosses), {"context.seen.max_values": 5})
    assert [cross.max_values for cross in varied.crosses] == [5, 1]
    assert varied.without_histories() == SPEC
    with pytest.raises(ConfigError, match=r"max_values: 0 is not in"):
        grid(WITH_HISTORY, None, ["spec.context.seen.max_values=0"])
    with pytest.raises(ConfigError, match=r"context\.film\.action: there is no history film; there is seen"):
        vary_spec(WITH_HISTORY, {"context.film.action": "buy"})


def test_another_run_has_other_weights_other_rows_and_another_sample_of_negatives() -> None:
    setup = grid(SPEC)["model"]
    assert setup.reseeded(0) == setup
    again, third = setup.reseeded(1), setup.reseeded(2)
    for seed_of in (
        lambda one: one.config.model.seed,
        lambda one: one.config.table.seed,
        lambda one: one.spec.sampling_seed,
    ):
        assert len({seed_of(one) for one in (setup, again, third)}) == 3
    assert replace(again.spec, sampling_seed=SPEC.sampling_seed) == SPEC
    assert again.delays == setup.delays


def test_delays_are_the_configurations_times_the_speed_unless_they_are_given() -> None:
    tables = {
        "flink": {"checkpoint_interval_ms": 1_000},
        "publisher": {"sparse_interval_s": 3.0, "dense_interval_s": 9.0},
        "trainer": {"max_wait_ms": 50},
    }
    (driven,) = grid(SPEC, tables, speed=100, delays={"publish": 7, "apply": 2}).values()
    assert driven.delays == Delays(100_000, 7, 900_000, 2)
    assert driven.config.trainer.max_wait_ms == 5_000
    setups = grid(SPEC, tables, ["delays.publish=10s,1.5m,0"], delays={"dense": 7})
    assert [setup.delays.publish_ms for setup in setups.values()] == [10_000, 90_000, 0]


def test_a_configuration_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rillet.toml"
    path.write_text("[model]\ndim = 5\n", "utf-8")
    assert grid(SPEC, path)["model"].config.model.dim == 5


def test_the_spec_that_a_configuration_names_is_learned_from_where_it_can_be(tmp_path: Path) -> None:
    path, spec_path = tmp_path / "rillet.toml", tmp_path / "feature.spec.toml"
    path.write_text('spec = "feature.spec.toml"\n', "utf-8")
    with pytest.raises(SpecError, match=r"feature\.spec\.toml"):
        grid(SPEC, path)
    click, buy = SPEC.tasks
    other = replace(SPEC, tasks=(replace(click, window_ms=7_000, labels="immediate"), buy), sampling_seed=3)
    spec_path.write_text(dump_spec(other), "utf-8")
    assert grid(SPEC, path)["model"].spec == other
    assert spec_changes(SPEC, other) == [
        "tasks.click.window_ms: 7000, recorded 1000",
        "tasks.click.labels: immediate, recorded positives_first",
        "sampling_seed: 3, recorded 0",
    ]
    (varied,) = grid(SPEC, path, ["spec.tasks.buy.window_ms=9000"]).values()
    assert [task.window_ms for task in varied.spec.tasks] == [7_000, 9_000]
    spec_path.write_text(dump_spec(SPEC), "utf-8")
    assert grid(SPEC, path)["model"].spec == SPEC
    assert spec_changes(SPEC, SPEC) == []
    spec_path.write_text(dump_spec(WITH_HISTORY), "utf-8")
    assert grid(SPEC, path)["model"].spec == WITH_HISTORY
    assert spec_changes(SPEC, WITH_HISTORY) == ["context.seen: a history of item, filled from the recorded actions"]
    spec_path.write_text(dump_spec(SPEC), "utf-8")
    assert grid(WITH_HISTORY, path)["model"].spec == SPEC
    assert spec_changes(WITH_HISTORY, SPEC) == ["context.seen: recorded, left out"]
    for wrong in (replace(SPEC, item=SPEC.item[1:]), replace(SPEC, tasks=(click,)), replace(SPEC, name="other")):
        spec_path.write_text(dump_spec(wrong), "utf-8")
        with pytest.raises(ConfigError, match="is not that of the recording, hand"):
            grid(SPEC, path)


def test_crosses_may_differ_from_the_recordings_and_be_chosen_by_name(tmp_path: Path) -> None:
    (tmp_path / "rillet.toml").write_text('spec = "spec.toml"\n', "utf-8")
    first, second = SPEC.slots[0].name, SPEC.slots[-1].name
    crosses = (Cross("ab", 300, (first, second), 2), Cross("ba", 301, (second, first), 2))
    crossed = replace(SPEC, crosses=crosses)
    (tmp_path / "spec.toml").write_text(dump_spec(crossed), "utf-8")
    assert crossed.hash == SPEC.hash, "events of the recording are valid as they are"
    assert grid(SPEC, tmp_path / "rillet.toml")["model"].spec == crossed
    setups = grid(SPEC, tmp_path / "rillet.toml", ['spec.crosses=[],["ba"],["ba","ab"]'])
    assert [setup.spec.crosses for setup in setups.values()] == [(), crosses[1:], crosses]
    assert len({setup.training for setup in setups.values()}) == 3
    assert spec_changes(SPEC, crossed) == [f"crosses: {crosses[0]}; {crosses[1]}, recorded none"]
    for wrong in ('["ac"]', '"ab"', "[3]"):
        with pytest.raises(ConfigError, match=r"spec\.crosses: .*expected a list of crosses .* which has ab, ba"):
            grid(SPEC, tmp_path / "rillet.toml", [f"spec.crosses={wrong}"])


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("0.5", 0.5), ("10m", 600), ("1_000", 1000), ("deepfm", None)])
def test_values_of_an_axis_are_numbers_where_they_can_be(text: str, value: float | None) -> None:
    assert numeric(text) == value


def test_rules_for_rates_of_negatives_may_differ_from_the_recordings(tmp_path: Path) -> None:
    rules = {"rate_by_score": RateByScore(0.2, 0.1)}, {"rate_by_slot": RateBySlot("item", (RateClass((1,), 0.5),))}
    named = replace(SPEC, tasks=tuple(replace(task, **rule) for task, rule in zip(SPEC.tasks, rules, strict=True)))
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(named))
    learned = learned_spec(SPEC, {"spec": str(path)})
    assert learned == named
    assert spec_changes(SPEC, learned) == [
        "tasks.click: negatives by score (mean 0.2, floor 0.1), recorded at one rate",
        "tasks.buy: negatives by item (0.5 of 1 value), recorded at one rate",
    ]


def test_what_labels_ask_for_and_how_long_negatives_wait_may_differ_from_the_recordings(tmp_path: Path) -> None:
    first, *others = (replace(task, labels="positives_first", late="correct") for task in SPEC.tasks)
    recorded = replace(SPEC, tasks=(replace(first, negative_after_ms=1_000), *others))
    named = replace(SPEC, tasks=(replace(first, at_least=AtLeast("sum", 3.0)), replace(others[0], negative_after_ms=5)))
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(named))
    learned = learned_spec(recorded, {"spec": str(path)})
    assert learned == named
    assert spec_changes(recorded, learned) == [
        "tasks.click.negative_after_ms: None, recorded 1000",
        "tasks.buy.negative_after_ms: 5, recorded None",
        "tasks.click: sum of at least 3, recorded one action",
    ]
