"""Every experiment still runs: a small run of each, whose figures mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import experiments
import pytest
from experiments import (
    absurd_rows,
    dense_features,
    drift,
    label_modes,
    publication_interval,
    sampling_modes,
    seeds,
    shop_limit,
    source_speed,
    step_times,
)

pytestmark = pytest.mark.simulation


def _label_modes(out: Path) -> None:
    scenario = label_modes.scenarios()[0]
    short = replace(scenario, span_s=300.0, parts={"all": (0.0, 300.0)})
    out.write_text(json.dumps({"results": [asdict(figure) for figure in label_modes.run(short, "positives_first")]}))


RUNS: dict[str, Callable[[Path], None]] = {
    "absurd_rows": lambda out: absurd_rows.main(["--requests", "300"]),
    "dense_features": lambda out: dense_features.main(["--requests", "300"]),
    "drift": lambda out: drift.main(
        [
            *("--requests", "300", "--days", "2", "--seeds", "1", "--workers", "1"),
            *("--only", "adagrad, 1 day", "--json", str(out)),
        ]
    ),
    "label_modes": _label_modes,
    "publication_interval": lambda out: publication_interval.main(
        ["--requests", "600", "--workers", "1", "--json", str(out)]
    ),
    "sampling_modes": lambda out: sampling_modes.main(
        [
            *("--requests", "300", "--seeds", "1", "--workers", "1", "--labels", "immediate"),
            *("--modes", "by score", "--json", str(out)),
        ]
    ),
    "seeds": lambda out: seeds.main(
        ["--backtests", "1", "--requests", "200", "--runs", "1", "--workers", "1", "--json", str(out)]
    ),
    "shop_limit": lambda out: shop_limit.main(["--requests", "300", "--json", str(out)]),
    "source_speed": lambda out: source_speed.main(["--requests", "50", "--no-flink"]),
    "step_times": lambda out: step_times.main(
        [
            *("--rows", "20000", "--seconds", "1", "--checkpoint-interval", "0.2", "--base-interval", "1"),
            "--json",
            str(out),
        ]
    ),
}
#: those that have a test of their own, with a broker
WITH_FLINK = ("open_requests",)
#: what those print that write no file
PRINTED = {
    "absurd_rows": "absurd rows mixed in",
    "dense_features": "AUC as served",
    "source_speed": "per second and core",
}


def test_each_has_a_run_here() -> None:
    (folder,) = experiments.__path__
    assert sorted([*RUNS, *WITH_FLINK]) == sorted(
        path.stem for path in Path(folder).glob("*.py") if path.stem != "__init__"
    )


@pytest.mark.parametrize("name", RUNS)
def test_it_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication_interval, "DAYS", 0.01)
    out = tmp_path / "figures.json"
    RUNS[name](out)
    if out.exists():
        assert json.loads(out.read_text())["results"]
    else:
        assert PRINTED[name] in capsys.readouterr().out


def test_a_filter_that_knows_the_shop_is_below_the_truth_and_above_chance() -> None:
    shop = shop_limit.ShopConfig(users=50, items=40)
    clicks = shop_limit.play(shop, 1_500, seed=3)
    judged = clicks.clicked[500:].ravel() > 0
    of_filter = shop_limit.auc(shop_limit.logits(shop, clicks, 60_000, 1.0)[500:].ravel(), judged).value
    of_truth = shop_limit.auc(clicks.truth[500:].ravel(), judged).value
    assert 0.55 < of_filter < of_truth
    # Nobody learns what comes after the last request.
    never = shop_limit.logits(shop, clicks, 10**12, 1.0)
    assert not never.any()
