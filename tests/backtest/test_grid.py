"""Grids of settings: what they mean, and that parallel runs give what single ones give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.backtest.grid import parse_grid, run_grid
from rillet.jobs.errors import ConfigError
from rillet.recordings.synthetic import generate_synthetic


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=200)
    return folder


def test_values_are_toml_and_every_combination_is_a_variant() -> None:
    variants = parse_grid(["model.dim=8,16", "model.kind=deepfm,logistic", "publisher.sparse_interval_s=5.0"])
    assert [dict(variant.settings)["model.dim"] for variant in variants] == [8, 8, 16, 16]
    assert variants[1].apply({"model": {"name": "films"}}) == {
        "model": {"name": "films", "dim": 8, "kind": "logistic"},
        "publisher": {"sparse_interval_s": 5.0},
    }
    assert variants[1].name == "model.dim=8, model.kind=logistic", "what all have in common is in no name"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.dim"], "expected KEY=VALUE"),
        (["=3"], "expected KEY=VALUE"),
        (["model.dim=8", "model.dim=16"], "model.dim: stands twice"),
    ],
)
def test_a_malformed_option_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_grid(options)


def test_a_wrong_key_is_refused_before_anything_runs(recording: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key; did you mean dim"):
        run_grid(
            recording,
            {"spec": "a"},
            parse_grid(["model.dimm=8"]),
            requests=None,
            judge_from=0.2,
            workers=1,
        )


@pytest.mark.integration
def test_parallel_runs_give_what_single_runs_give(recording: Path, tmp_path: Path) -> None:
    options = {"requests": None, "judge_from": 0.2, "workers": 2}
    variants = parse_grid(["model.kind=logistic", "trainer.batch_size=32,64"])
    together = run_grid(recording, {"spec": "a"}, variants, **options)  # type: ignore[arg-type]
    assert set(together.logits) == {
        "trainer.batch_size=32",
        "trainer.batch_size=64",
        "frozen",
        "popularity",
        "decayed_popularity",
    }
    alone = run_grid(recording, {"spec": "a"}, variants[1:], **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(together.logits["trainer.batch_size=64"], alone.logits["model"])


@pytest.mark.integration
def test_the_command_prints_a_table_and_writes_json(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(
        main, ["backtest", str(recording), "--set", "model.kind=logistic", "--requests", "150", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "popularity" in done.output
    figures = json.loads(out.read_text())
    assert figures["requests"] == 150
    assert all(0 <= task["model"]["auc"]["value"] <= 1 for task in figures["tasks"].values())
