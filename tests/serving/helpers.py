"""A small model, a table and a server thread for the serving tests; independent of trainer and sync."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import FeatureSpec, SpecRegistry, make_fids, parse_spec
from rillet.serving.app import InferenceApp
from rillet.serving.config import ServingConfig
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder, MemoryFeatureLog
from rillet.serving.metrics import ServingMetrics
from rillet.serving.program import DenseProgram
from rillet.serving.server import InferenceServer
from rillet.serving.service import InferenceService

WIDTH = 17
MODEL = "films"

_SPEC = """
[spec]
name = "films"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "age"
slot = 2
kind = "id"
[[context]]
name = "gender"
slot = 3
kind = "token"
[[context]]
name = "occupation"
slot = 4
kind = "id"
[[context]]
name = "zip"
slot = 5
kind = "token"
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "year"
slot = 17
kind = "id"
[[item]]
name = "genres"
slot = 18
kind = "token"
max_values = 6
[[tasks]]
name = "watch"
action = "watch"
window_ms = 600000
negative_rate = 0.5
[[tasks]]
name = "like"
action = "like"
window_ms = 3600000
"""

_DENSE = """
[[dense]]
name = "price"
[[dense]]
name = "age_days"
"""


def demo_spec(dense: bool = False) -> FeatureSpec:
    """Five context slots, three item slots (one of up to six values), two tasks."""
    return parse_spec(_SPEC + (_DENSE if dense else ""))


def request_tensor(rng: np.random.Generator, rows: int, users: int = 1000, films: int = 3000) -> np.ndarray:
    """A padded tensor int64[rows, 13] of the demo spec."""
    out = np.zeros((rows, 13), np.int64)
    out[:, 0] = make_fids(1, rng.integers(1, users))
    for column, slot in ((1, 2), (2, 3), (3, 4), (4, 5)):
        out[:, column] = make_fids(slot, rng.integers(1, 7))
    out[:, 5] = make_fids(16, rng.choice(films, rows, replace=False))
    out[:, 6] = make_fids(17, rng.integers(1, 80, rows))
    lengths = rng.integers(0, 7, rows)
    genres = make_fids(18, rng.integers(1, 19, (rows, 6)))
    out[:, 7:] = np.where(np.arange(6) < lengths[:, None], genres, 0)
    return out


class Dense(torch.nn.Module):
    """A DeepFM in small, so that the dense part costs what a real one does."""

    def __init__(self, slots: int, dense: int, tasks: int) -> None:
        super().__init__()
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(slots * (WIDTH - 1) + dense, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, tasks),
        )

    def forward(self, embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        vectors = embeddings[:, :, 1:]
        pairs = 0.5 * (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1, keepdim=True)
        linear = embeddings[:, :, 0].sum(1, keepdim=True)
        out: torch.Tensor = self.mlp(torch.cat([vectors.flatten(1), dense], 1)) + linear + pairs
        return out


class Linear(torch.nn.Module):
    """logit = bias + sum of column 0: what a table says can be read off a score."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(tasks))

    def forward(self, embeddings: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return embeddings[:, :, 0].sum(1, keepdim=True) + self.bias + 0 * dense.sum()


@cache
def exported_linear() -> bytes:
    """``Linear`` of two tasks for :func:`demo_spec`, exported once: it takes most of a second."""
    return exported(Linear(2), demo_spec())


def exported(module: torch.nn.Module, spec: FeatureSpec) -> bytes:
    """The module as a torch.export program."""
    rows = torch.export.Dim("n")
    example = (torch.zeros(2, spec.segments, WIDTH), torch.zeros(2, len(spec.dense)))
    out = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=({0: rows}, {0: rows})), out)
    return out.getvalue()


def program(module: torch.nn.Module, spec: FeatureSpec) -> DenseProgram:
    """The module as serving loads it."""
    return DenseProgram(
        exported(module, spec),
        segments=spec.segments,
        embedding_width=WIDTH,
        dense_width=len(spec.dense),
        tasks=len(spec.tasks),
    )


def empty_table() -> EmbeddingTable:
    return EmbeddingTable(WIDTH, TableConfig(optimizer="none", chunk_rows=4096, initial_capacity=4096))


@dataclass
class FakeModel:
    """A model that changes when ``updates`` (run between batches) says so."""

    table: EmbeddingTable
    program: DenseProgram
    version: int = 1
    ready: bool = True
    updates: Callable[[float], bool] | None = None

    def apply(self, budget_s: float) -> bool:
        return self.updates(budget_s) if self.updates is not None else False


@dataclass
class Running:
    """A server in a thread."""

    url: str
    engine: Engine
    model: FakeModel
    metrics: ServingMetrics
    features: MemoryFeatureLog
    service: InferenceService
    thread: threading.Thread
    #: what the service ended by; whoever expects one takes it out
    failures: list[BaseException]


@contextlib.contextmanager
def running_server(
    spec: FeatureSpec,
    model: FakeModel,
    config: ServingConfig | None = None,
    capacity: int = 100_000,
    name: str = MODEL,
    also_accepts: Sequence[FeatureSpec] = (),
) -> Iterator[Running]:
    """Serves ``model`` on a free port until the block ends."""
    config = config or ServingConfig(port=0)
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry)
    features = MemoryFeatureLog(capacity)
    engine = Engine(spec, model, config, metrics, on_failure=lambda error: service.fail(error))
    recorder = FeatureRecorder(features, registry)
    app = InferenceApp(
        model=name,
        specs=SpecRegistry(spec, also_accepts),
        engine=engine,
        recorder=recorder,
        metrics=metrics,
        config=config,
    )
    service = InferenceService(
        engine=engine,
        server=InferenceServer(app, config),
        recorder=recorder,
        drain_timeout_s=config.drain_timeout_s,
        notice_s=config.drain_notice_s,
    )
    started = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            service.run(started.set)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not started.wait(10):
        raise TimeoutError("the server did not start")
    try:
        yield Running(f"127.0.0.1:{service.server.port}", engine, model, metrics, features, service, thread, failures)
    finally:
        service.stop()
        thread.join(20)
        if thread.is_alive():
            raise TimeoutError("the server did not stop")
    if failures:
        raise failures[0]
