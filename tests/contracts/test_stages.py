"""What holds for every stage: its lifecycle. And stages that must not pass."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for
from rillet.connectors.producers import EventProducer
from rillet.jobs.base_writer import BaseWriter
from rillet.jobs.health import HealthServer
from rillet.jobs.serve import Follower
from rillet.jobs.train_metrics import TrainMetrics
from rillet.schemas import ActionEvent, ClosedError, FeatureEvent, RecordError
from rillet.serving import Engine, FeatureRecorder, MemoryFeatureLog, ServingConfig, ServingMetrics
from rillet.serving.app import InferenceApp
from rillet.serving.server import InferenceServer
from rillet.sync import ModelStore
from rillet.trainer import BlockReader, ListSource, RawRecord
from tests.serving.helpers import FakeModel, demo_spec, empty_table

NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True)
class Subject:
    """How a stage is made, and one item for it if it is a sink."""

    make: Callable[[], Any]
    item: Any = None


def _engine() -> Engine:
    model = FakeModel(empty_table(), lambda embeddings, dense: embeddings[:, 0, :2])  # type: ignore[arg-type]
    return Engine(demo_spec(), model, ServingConfig(), ServingMetrics(CollectorRegistry()))


def _server() -> InferenceServer:
    config, metrics = ServingConfig(port=0), ServingMetrics(CollectorRegistry())
    app = InferenceApp(model="films", spec=demo_spec(), engine=_engine(), recorder=None, metrics=metrics, config=config)
    return InferenceServer(app, config)


def _base_writer() -> BaseWriter:
    store = ModelStore(f"memory://{uuid.uuid4().hex}", "films")
    return BaseWriter(store, keep_bases=1, keep_dense=1, metrics=TrainMetrics([]))


class _Following:
    def run(self, stop: Any, wake: Callable[[], None]) -> None:
        stop.wait(10)


IDS = np.array([1])
FEATURES = FeatureEvent("r", 1, 0, IDS, IDS, IDS)
LETTER = letter_for(RecordError("not a block"), "examples", 0, 0, key=None, value=b"noise")
SUBJECTS = {
    "ListSource": Subject(lambda: ListSource([RawRecord(0, 0, b"a")])),
    "BlockReader": Subject(lambda: BlockReader(ListSource([]), demo_spec(), on_bad=lambda bad: None, max_rows=10)),
    "MemoryFeatureLog": Subject(lambda: MemoryFeatureLog(10), FEATURES),
    "FeatureRecorder": Subject(lambda: FeatureRecorder(MemoryFeatureLog(10), CollectorRegistry()), FEATURES),
    "EventProducer": Subject(lambda: EventProducer(NOWHERE, "actions"), ActionEvent("r", 1, 1, "watch")),
    "DeadLetterProducer": Subject(lambda: DeadLetterProducer(NOWHERE, "dead_letters"), LETTER),
    "InferenceServer": Subject(_server),
    "Follower": Subject(lambda: Follower(_Following(), lambda: None, on_failure=lambda error: None)),
    "HealthServer": Subject(lambda: HealthServer(0, lambda: True)),
    "BaseWriter": Subject(_base_writer, object()),
}
SINKS = [name for name, subject in SUBJECTS.items() if subject.item is not None]
SOURCES = ["ListSource", "BlockReader"]


def has_the_words_of_a_stage(subject: Subject) -> None:
    stage = subject.make()
    for name in ("start", "close"):
        inspect.signature(getattr(stage, name)).bind()  # without an argument
    assert list(inspect.signature(stage.flush).parameters) == ["timeout_s"]
    stage.close()


def may_be_closed_twice_and_without_a_start(subject: Subject) -> None:
    stage = subject.make()
    stage.close()
    stage.close()


def flushes_nothing_at_once(subject: Subject) -> None:
    stage = subject.make()
    stage.start()
    try:
        stage.flush(0.0)
    finally:
        stage.close()


def takes_nothing_after_closing(subject: Subject) -> None:
    stage = subject.make()
    stage.start()
    stage.close()
    with pytest.raises(ClosedError):
        stage.submit(subject.item)


def gives_nothing_after_closing(subject: Subject) -> None:
    stage = subject.make()
    stage.start()
    stage.close()
    with pytest.raises(ClosedError):
        stage.poll(1, 0.0)


Check = Callable[[Subject], None]


@pytest.mark.parametrize(
    "check", [has_the_words_of_a_stage, may_be_closed_twice_and_without_a_start, flushes_nothing_at_once]
)
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_stage(name: str, check: Check) -> None:
    check(SUBJECTS[name])


@pytest.mark.parametrize("name", SINKS)
def test_a_sink(name: str) -> None:
    takes_nothing_after_closing(SUBJECTS[name])


@pytest.mark.parametrize("name", SOURCES)
def test_a_source(name: str) -> None:
    gives_nothing_after_closing(SUBJECTS[name])


class NeverClosed(MemoryFeatureLog):
    def close(self) -> None:
        pass


class ClosedOnce(MemoryFeatureLog):
    def close(self) -> None:
        assert not self._closed, "closed already"
        super().close()


class OtherWords(MemoryFeatureLog):
    def flush(self, timeout_s: float, *, force: bool = False) -> None:
        pass


class NeverFlushed(MemoryFeatureLog):
    def flush(self, timeout_s: float) -> None:
        raise AssertionError("nothing was submitted, and yet something is missing")


class NeverEnding(ListSource):
    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda: OtherWords(1), has_the_words_of_a_stage),
        (lambda: ClosedOnce(1), may_be_closed_twice_and_without_a_start),
        (lambda: NeverFlushed(1), flushes_nothing_at_once),
        (lambda: NeverClosed(1), takes_nothing_after_closing),
        (lambda: NeverEnding([]), gives_nothing_after_closing),
    ],
)
def test_the_suite_refuses_a_broken_stage(make: Callable[[], Any], check: Check) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(Subject(make, FEATURES))
