"""`rillet bench` refuses what it cannot do before it makes data sets and installs libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.benchmarks.names import CONTESTANTS


@pytest.mark.parametrize("path", ["/nowhere/bench.json", "/proc/bench.json"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(path: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["bench", "learning", "--dataset", "synthetic:10", "--data", str(tmp_path / "data"), "--json", path]
    )
    assert result.exit_code == 2
    assert f"{path}: cannot be written (No such file or directory)" in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "spark"], "'spark' is not one of 'ours'"),
        (["--requests", "10"], "10 is not in the range x>=1000"),
        (["--parallelism", "0"], "0 is not in the range x>=1"),
        (["--json", "/nowhere/bench.json"], "/nowhere/bench.json: cannot be written (No such file or directory)"),
    ],
)
def test_the_joiner_bench_refuses_what_it_cannot_do_before_anything_runs(
    options: list[str], told: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["bench", "joiner", "--data", str(tmp_path / "data"), *options])
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "data").exists()


def test_its_help_names_every_contestant() -> None:
    text = CliRunner().invoke(main, ["bench", "joiner", "--help"]).output
    assert all(f" {name} " in text for name in CONTESTANTS)


def test_a_library_of_another_bench_is_no_peer_of_learning(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "learning", "--peers", "quix", "--data", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "quix is none of vw, river" in result.stderr
