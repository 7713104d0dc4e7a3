"""Grids in parallel processes: the results of single runs, clear failures, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.backtest import BacktestError, backtest, compare, grid, workers
from rillet.jobs.errors import ConfigError
from rillet.recordings import Recording
from rillet.recordings.synthetic import generate_synthetic
from rillet.schemas import ActionEvent, FeatureEvent, dump_spec
from rillet.schemas.codec import Codec
from tests.backtest.events import SPEC

QUICK = ["model.kind=logistic"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording") / "synthetic"
    generate_synthetic(folder, requests=200)
    return folder


def test_nothing_to_compare_and_names_of_baselines_are_refused(folder: Path) -> None:
    setup = grid(Recording(folder).info.spec)["model"]
    with pytest.raises(ConfigError, match="there is none to run"):
        compare(folder, {})
    with pytest.raises(ConfigError, match="frozen is the name of a baseline"):
        compare(folder, {"frozen": setup})
    with pytest.raises(ConfigError, match="best is none of frozen, logistic"):
        compare(folder, {"model": setup}, baselines=["best"])


def test_a_single_run_starts_no_process_and_decodes_each_event_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    from_avro = Codec.from_avro

    def counted(codec: Codec, datum: dict[str, Any]) -> Any:
        decoded.append(codec.record_type)
        return from_avro(codec, datum)

    monkeypatch.setattr(Codec, "from_avro", counted)
    monkeypatch.setattr(workers, "get_context", None)
    recording = Recording(folder)
    seen: list[tuple[int, int]] = []
    setups = grid(recording.info.spec, None, QUICK)
    compare(recording, setups, baselines=(), on_progress=lambda done, total: seen.append((done, total)))
    counts = Counter(decoded)
    assert (counts[FeatureEvent], counts[ActionEvent]) == (recording.info.requests, recording.info.actions)
    assert seen[-1] == (200, 200)


@pytest.mark.integration
def test_parallel_runs_give_what_single_runs_give_and_progress_counts_requests(folder: Path) -> None:
    recording = Recording(folder)
    setups = grid(
        recording.info.spec, None, [*QUICK, "trainer.batch_size=2,64", "spec.tasks.click.negative_rate=0.3,1"]
    )
    seen: list[tuple[int, int]] = []
    together = compare(recording, setups, workers=2, on_progress=lambda done, total: seen.append((done, total)))
    assert list(together.logits) == [*setups, "frozen", "popularity", "decayed_popularity"]
    assert list(together.counters) == list(setups)
    for name, setup in list(setups.items())[1:3]:
        alone = backtest(recording, setup.config, spec=setup.spec, delays=setup.delays, baselines=False)
        np.testing.assert_array_equal(together.logits[name], alone.logits["model"])
        assert together.counters[name] == alone.counters["model"]
    assert seen[-1] == (800, 800)
    assert seen == sorted(seen)


def test_what_is_learned_otherwise_than_it_was_recorded_is_said_on_stderr(folder: Path, tmp_path: Path) -> None:
    spec = Recording(folder).info.spec
    click, *others = spec.tasks
    (tmp_path / "shop.spec.toml").write_text(dump_spec(replace(spec, tasks=(replace(click, window_ms=7), *others))))
    (tmp_path / "rillet.toml").write_text('spec = "shop.spec.toml"\n')
    options = ["--config", str(tmp_path / "rillet.toml"), "--baselines", "best"]
    done = CliRunner().invoke(main, ["backtest", str(folder), *options])
    assert "says: tasks.click.window_ms: 7, recorded 600000" in " ".join(done.stderr.split())


@pytest.mark.integration
def test_the_example_of_the_documentation_runs_and_prints_the_lines_that_it_shows(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "backtest.md").read_text("utf-8")
    blocks = [block.partition("\n")[2] for block in text.split("```")[1::2]]
    at = next(at for at, block in enumerate(blocks) if "generate_synthetic" in block)
    code, command, printed = blocks[at : at + 3]
    shop = tmp_path / "shop"
    exec(code.replace("var/recordings/shop", str(shop)).replace("6_000", "600"), {})  # noqa: S102  our own
    name, *options = command.replace("var/recordings/shop", str(shop)).split()
    assert name == "rillet"
    done = CliRunner().invoke(main, [*options, "--workers", "2"])
    assert done.exit_code == 0, done.output

    def first_words(lines: str) -> list[str]:
        return [line.split()[0] for line in lines.splitlines() if line.strip() and ":" not in line]

    assert first_words(done.stdout) == first_words(printed)


def test_a_run_that_was_killed_says_so_whatever_the_pipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def send(self, run: object) -> None:
            pass

        def recv(self) -> object:
            raise ConnectionResetError(104, "Connection reset by peer")

    class Ended:
        exitcode = -9

        def join(self, timeout_s: float) -> None:
            pass

    pool = object.__new__(workers.Workers)
    pool._runs = [workers.Run(("model", 0), Path(), None, grid(SPEC)["model"], (), 0.2)]
    pool._processes = {Broken(): Ended()}  # type: ignore[dict-item]
    monkeypatch.setattr(workers, "wait", lambda connections: connections)
    with pytest.raises(BacktestError, match=r"^its process ended with -9; out of memory\?"):
        pool.results(lambda index, done: None)


@pytest.mark.integration
def test_a_failing_variant_is_named_and_ends_the_others(folder: Path) -> None:
    setups = grid(Recording(folder).info.spec, None, ["model.kind=deepfm,nowhere:Model"])
    with pytest.raises(BacktestError, match=r"^model\.kind=nowhere:Model: .*No module named 'nowhere'"):
        compare(folder, setups, workers=2)


@pytest.mark.integration
def test_the_command_prints_a_table_and_writes_json_and_page(folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "report.html"
    options = ["--set", "model.kind=logistic", "--requests", "150", "--json", str(out), "--html", str(page)]
    options += ["--publish", "30s", "--apply", "0", "--by-slot", "category", "--baselines", "popularity"]
    done = CliRunner().invoke(main, ["backtest", str(folder), *options])
    assert done.exit_code == 0, done.output
    assert "popularity" in done.output
    figures = json.loads(out.read_text())
    assert figures["requests"] == 150
    assert figures["variants"]["model"]["delays_ms"] == {
        "commit": 5_000,
        "publish": 30_000,
        "dense": 60_000,
        "apply": 0,
    }
    assert 0 <= figures["tasks"]["click"]["model"]["auc"]["value"] <= 1
    assert figures["tasks"]["buy"]["model"]["auc"]["value"] is None, "its window is longer than the recording"
    assert set(figures["slots"]["category"]["click"]) == {"model", "popularity"}
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "/nowhere/report.html"], "/nowhere/report.html: cannot be written"),
        (["--json", "/proc/figures.json"], "/proc/figures.json: cannot be written"),
        (["--set", "delays.publish=1s,2s", "--publish", "3s"], "--publish is given as well"),
        (["--by-slot", "country"], "no slot 'country'"),
        (["--publish", "10"], "'10' is no interval"),
        (["--set", "spec.tasks.click.action=buy"], "cannot be varied over a recording"),
        (["--baselines", "best"], "best is none of"),
    ],
)
def test_the_command_refuses_before_anything_runs(folder: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["backtest", str(folder), *options])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.integration
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_grid_leaves_no_process_and_no_traceback(folder: Path, how: signal.Signals) -> None:
    code = "import sys; from rillet.__main__ import main; main()"
    options = ["--set", "delays.publish=0", "--set", "delays.dense=0", "--set", "model.dim=8,16,24,32"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, "backtest", str(folder), *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        workers = [pid for pid in _children(running.pid) if b"spawn_main" in _command(pid)]
    assert len(workers) == 2
    if how is signal.SIGINT:
        os.killpg(running.pid, how)  # as a terminal does: to all of them
    else:
        running.kill()
    _, errors = running.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(b"spawn_main" in _command(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if b"spawn_main" in _command(pid)]
    if how is signal.SIGINT:
        assert running.returncode == 130, errors
        assert errors.strip().endswith("interrupted")
        assert "Traceback" not in errors


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
