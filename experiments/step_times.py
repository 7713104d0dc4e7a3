"""What holds the trainer's loop up: times between the ends of steps, with checkpoints, bases and publications going on.

    python -m experiments.step_times --rows 2000000 --seconds 60 --checkpoint-interval 10 --json FILE

The loop of ``rillet train`` on a table that is filled before, with the demo's model and publication intervals, rows and
checkpoints on a local disk and deltas in memory. Its examples are of users and films that are drawn evenly, so that
every batch changes rows all over the table: the worst case for a checkpoint that goes on beside training. A hold is what
publications and checkpoints took between two steps; that in CPU time is of the training thread alone, and is the same
beside other work. ``--checkpoint-interval 0`` makes none, to compare with.
"""

from __future__ import annotations

import argparse
import functools
import logging
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from rillet.benchmarks.result import BenchResult, Figure
from rillet.connectors.metric_files import MetricFiles
from rillet.embeddings import TableConfig, TableSnapshot
from rillet.pipelines.base_writer import BaseWriter
from rillet.pipelines.checkpoints import Checkpoints
from rillet.pipelines.publications import Publications
from rillet.pipelines.train_loop import TrainLoop
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import ExampleBlock, SpecRegistry, make_fids, parse_spec
from rillet.schemas.arrays import Int64s
from rillet.schemas.example_rows import split_rows
from rillet.sync import MemoryLog, ModelStore, Publisher, PublisherConfig, TableShard
from rillet.trainer import (
    BadRecord,
    CheckpointStore,
    ModelConfig,
    OnlineTrainer,
    ReadBlock,
    TrainerConfig,
    export_program,
)
from rillet.trainer.batch import Positions
from rillet.trainer.learner import Learner

SPEC = parse_spec("""
[spec]
name = "films"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "device"
slot = 2
kind = "id"
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "maker"
slot = 17
kind = "id"
[[dense]]
name = "hour"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 60_000
labels = "positives_first"
negative_rate = 0.5
[[tasks]]
name = "like"
action = "like"
window_ms = 60_000
labels = "positives_first"
negative_rate = 0.25
""")
MODEL = ModelConfig(name=SPEC.name, dim=16, hidden=(32,))
PUBLISHER = PublisherConfig(sparse_interval_s=3.0, dense_interval_s=9.0)
#: rows of a block, and blocks that are given out over and over with later times
BLOCK_ROWS, BLOCKS = 256, 2_000
#: gaps that are told with what ran in them, and upper bounds of the histogram, ms
LONGEST = 5
BOUNDS_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


def ids(rng: np.random.Generator, slot: int, count: int, rows: int) -> Int64s:
    """Fids int64[count] of a slot; each of the four has a quarter of the table's rows."""
    return make_fids(slot, rng.integers(1, rows // len(SPEC.slots) + 1, count))


def make_blocks(table_rows: int) -> list[ExampleBlock]:
    """Blocks of one request each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(BLOCKS):
        fids = np.stack([ids(rng, slot.slot, BLOCK_ROWS, table_rows) for slot in SPEC.slots], axis=1).reshape(-1)
        task = rng.integers(0, 2, BLOCK_ROWS)
        mask = np.eye(2, dtype=np.uint8)[task]
        positive = rng.random(BLOCK_ROWS) < 0.3
        zeros = np.zeros(BLOCK_ROWS, np.int64)
        found.append(
            ExampleBlock(
                spec_hash=SPEC.hash,
                bucket=0,
                impression_ids=np.arange(BLOCK_ROWS, dtype=np.int64),
                **split_rows(
                    SPEC, ["r"], zeros.astype(np.int32), fids, np.ones(BLOCK_ROWS * len(SPEC.slots), np.uint16)
                ),
                dense=rng.random(BLOCK_ROWS).astype(np.float32),
                labels=(mask * positive[:, None]).astype(np.uint8).reshape(-1),
                mask=mask.reshape(-1),
                sampling_rate=np.array([0.5, 0.25], np.float32)[task],
                label_kind=np.where(positive, 0, 1).astype(np.uint8),
                feature_time_ms=zeros,
                action_time_ms=zeros,
                feature_ingest_ms=zeros,
                action_ingest_ms=zeros,
                served_logits=rng.normal(size=BLOCK_ROWS * 2).astype(np.float32),
            )
        )
    return found


class SteadySource:
    """Blocks at a steady rate, for so many seconds."""

    trouble = ""

    def __init__(self, blocks: Sequence[ExampleBlock], rows_per_s: float, seconds: float) -> None:
        """:param rows_per_s: 0 = as many as are taken."""
        self._blocks = blocks
        self._blocks_per_s = (rows_per_s or 1e9) / BLOCK_ROWS
        self._seconds = seconds
        self._offset = 0
        self._started: float | None = None

    def start(self) -> None:
        """The rate counts from the first poll."""

    def poll(self, max_items: int, timeout_s: float) -> list[ReadBlock] | None:
        """The blocks whose time has come."""
        now = time.monotonic()
        self._started = self._started or now
        passed = now - self._started
        if passed > self._seconds:
            return None
        count = int(min(passed * self._blocks_per_s - self._offset, max_items))
        if count < 1:
            time.sleep(min(timeout_s, 0.002))
        found = []
        for _ in range(count):
            at = np.full(BLOCK_ROWS, time.time_ns() // 1_000_000)
            block = replace(
                self._blocks[self._offset % BLOCKS],
                feature_time_ms=at,
                action_time_ms=at,
                feature_ingest_ms=at,
                action_ingest_ms=at,
            )
            found.append(ReadBlock(0, self._offset, block))
            self._offset += 1
        return found

    def lag(self, positions: Positions) -> int:
        """Not counted."""
        return 0

    def close(self) -> None:
        """Nothing to close."""


class ShortLog(MemoryLog):
    """Forgets what was acknowledged: nobody follows."""

    def commit(self, timeout_s: float) -> None:
        """Keeps a few, for a writer that looks for its claim."""
        super().commit(timeout_s)
        self.truncate(max(self.begin(), self.end() - 4))


class NoLetters:
    """A ``Sink[BadRecord]``: none comes."""

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, bad: BadRecord, /) -> None:
        """:raises RuntimeError: always."""
        raise RuntimeError(f"a row was refused: {bad.error}")

    def flush(self, timeout_s: float) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Times:
    """When steps ended, and what else the training thread did when."""

    step_ends: list[float] = field(default_factory=list)
    #: name, begin, end
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    #: CPU seconds of each span
    cpu: list[float] = field(default_factory=list)
    #: most that a snapshot held in copies
    copied_bytes: int = 0
    _thread: int = field(default_factory=threading.get_ident)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time taken where the training thread calls it."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            begin, used = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                if threading.get_ident() == self._thread:
                    end = time.perf_counter()
                    if name == "step":
                        self.step_ends.append(end)
                    else:
                        self.spans.append((name, begin, end))
                        self.cpu.append(time.thread_time() - used)
                    if name == "part of a snapshot":
                        self.copied_bytes = max(self.copied_bytes, arguments[0].nbytes)

        return call

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it all times are taken."""
        parts: dict[str, tuple[Any, str]] = {
            "step": (Learner, "step"),
            "publish": (Publisher, "publish"),
            "base": (Publisher, "begin_base"),
            "publications": (Publications, "publish_if_due"),
            "checkpoints": (Checkpoints, "save_if_due"),
            "sort": (np, "argsort"),
            "unique": (np, "unique"),
            "moment of a checkpoint": (OnlineTrainer, "save_point"),
            "part of a snapshot": (TableSnapshot, "take"),
            "copies before changes": (TableSnapshot, "before_change"),
        }
        patches = [
            mock.patch.object(owner, attribute, self.timed(name, getattr(owner, attribute)))
            for name, (owner, attribute) in parts.items()
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    def within(self, begin: float, end: float) -> dict[str, float]:
        """Seconds of each part between two times; those that call each other are in both."""
        found: dict[str, float] = {}
        for name, first, last in self.spans:
            if (overlap := min(last, end) - max(first, begin)) > 0:
                found[name] = found.get(name, 0.0) + overlap
        return found


def fill(trainer: OnlineTrainer, rows: int) -> None:
    """Inserts all users and films there are; none is left to be published."""
    per_slot = rows // len(SPEC.slots)
    for slot in SPEC.slots:
        for start in range(1, per_slot + 1, 65_536):
            fids = make_fids(slot.slot, np.arange(start, min(start + 65_536, per_slot + 1)))
            trainer.table.find_or_insert(fids, time.time_ns() // 1_000_000)
    trainer.table.touched.take()
    trainer.table.touched.acknowledge()


def run(rows: int, seconds: float, checkpoint_s: float, base_s: float, rate: float) -> list[Figure]:
    """Trains for so long and returns the figures; prints the longest gaps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = TrainerConfig(checkpoint_interval_s=checkpoint_s or 1e9, progress_interval_s=1e9)
        trainer = OnlineTrainer(SPEC, MODEL, TableConfig(), config)
        fill(trainer, rows)
        # A run that is past its first, small batches.
        trainer.counters.rows = 1_000_000
        metrics = TrainMetrics([task.name for task in SPEC.tasks])
        store = ModelStore(str(folder / "store"), MODEL.name)
        bases = BaseWriter(store, keep_bases=2, keep_dense=2, metrics=metrics)
        publications = Publications(
            trainer,
            Publisher(
                ShortLog(),
                store,
                TableShard(MODEL.name, SPEC.model_hash),
                writer="step_times",
                config=replace(PUBLISHER, base_interval_s=base_s),
                state={"epoch": 0, "position": 0},
            ),
            bases,
            program=cache(lambda: export_program(trainer.learner.model, SPEC, MODEL.row_dim)),
            metrics=metrics,
        )
        letters = NoLetters()
        loop = TrainLoop(
            trainer,
            SpecRegistry(SPEC),
            source=SteadySource(make_blocks(rows), rate, seconds),
            letters=letters,
            to_letter=lambda bad: bad,
            publications=publications,
            checkpoints=Checkpoints(
                trainer,
                CheckpointStore(str(folder / "checkpoints"), keep=2),
                letters=letters,
                extra=lambda: {"publisher": publications.state()},
                metrics=metrics,
            ),
            stages=[bases],
            metrics=metrics,
            metric_files=MetricFiles(metrics.registry, [], metrics.metric_file_failures),
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        before = peak_bytes()
        times = Times()
        with times.recording():
            loop.run(threading.Event())
        saved = len(CheckpointStore(str(folder / "checkpoints"), keep=2).versions())
    return figures(times, trainer, before, saved)


def figures(times: Times, trainer: OnlineTrainer, before: int, saved: int) -> list[Figure]:
    """What was measured, and prints what ran in the longest gaps."""
    ends = np.array(times.step_ends)
    gaps_ms = np.diff(ends) * 1e3
    print("longest gaps between the ends of steps, and what ran in them:")
    for at in np.argsort(gaps_ms)[::-1][:LONGEST].tolist():
        parts = sorted(times.within(ends[at], ends[at + 1]).items(), key=lambda part: -part[1])
        print(f"  {gaps_ms[at]:8.1f} ms: " + ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in parts))
    found = [Figure("steps", "count", float(len(ends)), "steps")]
    lower = 0
    for bound in (*BOUNDS_MS, np.inf):
        count = float(np.count_nonzero((gaps_ms >= lower) & (gaps_ms < bound)))
        found.append(Figure("gaps", f"from {lower} ms", count, "steps"))
        lower = int(bound) if bound < np.inf else lower
    for share in (0.5, 0.99, 0.999, 1.0):
        found.append(Figure("gaps", f"quantile {share:g}", float(np.quantile(gaps_ms, share)), "ms"))
    last = ends[-1]
    for name in ("publications", "checkpoints"):
        spans = [at for at, (part, _, end) in enumerate(times.spans) if part == name and end <= last]
        holds = [(times.spans[at][2] - times.spans[at][1]) * 1e3 for at in spans]
        found.append(Figure(name, "longest hold", max(holds, default=0.0), "ms"))
        found.append(Figure(name, "longest hold, CPU", max((times.cpu[at] * 1e3 for at in spans), default=0.0), "ms"))
        found.append(Figure(name, "all holds", sum(holds), "ms"))
    found.append(Figure("learned", "rate", (trainer.counters.rows - 1_000_000) / (last - ends[0]), "rows/s"))
    found.append(Figure("checkpoints", "kept", float(saved), "checkpoints"))
    found.append(Figure("table", "memory", trainer.table.nbytes / 1e6, "MB"))
    found.append(Figure("snapshots", "copies at most", times.copied_bytes / 1e6, "MB"))
    found.append(Figure("process", "peak memory", peak_bytes() / 1e6, "MB"))
    found.append(Figure("process", "above its peak before", (peak_bytes() - before) / 1e6, "MB"))
    return found


def peak_bytes() -> int:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it, prints the figures and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the table")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--checkpoint-interval", type=float, default=10.0, help="seconds; 0 = no checkpoints")
    parser.add_argument("--base-interval", type=float, default=25.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="example rows per second; 0 = as many as are learned")
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(relativeCreated)d %(message)s", level=logging.INFO)
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    found = run(given.rows, given.seconds, given.checkpoint_interval, given.base_interval, given.rate)
    for figure in found:
        print(f"{figure.subject:14}{figure.metric:24}{figure.value:14,.1f} {figure.unit}")
    if given.json is not None:
        versions = {"numpy": np.__version__, "torch": torch.__version__}
        BenchResult("step_times", found, versions=versions).write(given.json)


if __name__ == "__main__":
    main()
