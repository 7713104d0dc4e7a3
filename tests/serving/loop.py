"""A publisher, its log and its store, and a served model that follows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from rillet.embeddings import EmbeddingTable
from rillet.schemas import Freshness, dump_spec, make_fids
from rillet.serving.live_model import LiveModel
from rillet.serving.metrics import ServingMetrics
from rillet.sync import (
    MemoryLog,
    ModelStore,
    Publisher,
)
from tests.bases import write_base
from tests.serving.helpers import WIDTH, demo_spec

NOW_MS = 1_000_000


@dataclass
class Clock:
    """The replica's wall clock."""

    now_ms: int = NOW_MS


@dataclass
class Loop:
    """A publisher, its log and store, and a model that follows them; the replica's thread is the test's to start."""

    table: EmbeddingTable
    publisher: Publisher
    model: LiveModel
    metrics: ServingMetrics
    dense: dict[str, np.ndarray]
    program: bytes
    log: MemoryLog
    store: ModelStore
    clock: Clock

    def write(self, fid_value: int, weight: float) -> None:
        """Sets a film's linear weight in the trainer's table."""
        row = np.zeros((1, WIDTH), np.float32)
        row[0, 0] = weight
        self.table.upsert(make_fids(16, [fid_value]), row)

    def publish(self, dense: dict[str, np.ndarray] | None = None, ingest: tuple[int, ...] = ()) -> None:
        self.publisher.publish(
            self.table,
            now_ms=NOW_MS,
            freshness=Freshness(NOW_MS - 7000, NOW_MS, np.array(ingest, np.int64)),
            dense=dense,
        )

    def base(self) -> None:
        write_base(
            self.publisher,
            self.store,
            self.table,
            now_ms=NOW_MS,
            dense=self.dense,
            program=self.program,
            spec_toml=dump_spec(demo_spec()),
        )

    def lose(self, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], None]) -> None:
        """Writes what the follower does not get to see, then a base after ``broken``, and truncates the log to it."""
        with monkeypatch.context() as patch:
            patch.setattr(self.log, "read", lambda *_: [])
            self.write(9, 1.0)
            self.publish()
            broken()
            self.base()
            self.log.truncate(self.log.end())

    def weight(self, fid_value: int) -> float:
        """A film's linear weight as served."""
        table = self.model.table
        return float(table.gather_pooled(table.find(make_fids(16, [fid_value])), None)[0, 0])

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Following:
    """Runs the reading thread; the test's own thread is the batcher's."""

    def __init__(self, model: LiveModel, wake: Callable[[], None] = lambda: None) -> None:
        self.failure: BaseException | None = None
        self._model = model
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._model.run(self._stop, self._wake)
        except BaseException as error:
            self.failure = error

    def apply_until(self, condition: Callable[[], bool]) -> None:
        def step() -> bool:
            while self._model.apply(0.002):
                pass
            return condition()

        until(step)
