"""What holds for every stage: its lifecycle, and what it says when it is full, cut off or closed. No broker is there."""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from rillet.connectors.batch_then_online import BatchThenOnline
from rillet.connectors.dead_letters import DeadLetterProducer, letter_for
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.example_source import KafkaExampleSource
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.file_source import FilePlan, FileSource
from rillet.connectors.lag import GroupLag
from rillet.connectors.producers import EventProducer
from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.jobs.health import HealthServer
from rillet.jobs.serve import Follower
from rillet.pipelines.base_writer import BaseWriter
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.schemas import (
    ActionEvent,
    BackpressureError,
    ClosedError,
    FeatureEvent,
    FlushTimeoutError,
    RecordError,
    SpecRegistry,
)
from rillet.serving.app import InferenceApp
from rillet.serving.config import ServingConfig
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder, MemoryFeatureLog
from rillet.serving.metrics import ServingMetrics
from rillet.serving.server import InferenceServer
from rillet.sync import BaseSnapshot, MemoryLog, ModelStore, StoreUnavailableError
from rillet.trainer import BlockReader, ListSource, RawRecord
from tests.connectors.mock_cluster import MockCluster
from tests.contracts.object_store_suite import make_base
from tests.serving.helpers import FakeModel, demo_spec, empty_table

NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True)
class Subject:
    """How a stage is made and used."""

    make: Callable[[], Any]
    #: an item for a sink
    item: Any = None
    #: takes or gives one item, as a sink's ``submit`` of the item does
    use: Callable[[Any], object] | None = None
    #: makes one with room for a few items that go nowhere while they are submitted
    fill: Callable[[], Any] | None = None
    #: makes one that cannot deliver
    lose: Callable[[], Any] | None = None

    def use_once(self, stage: Any) -> None:
        if self.use is not None:
            self.use(stage)
        else:
            stage.submit(self.item)


def _engine() -> Engine:
    model = FakeModel(empty_table(), lambda embeddings, dense: embeddings[:, 0, :2])  # type: ignore[arg-type]
    return Engine(demo_spec(), model, ServingConfig(), ServingMetrics(CollectorRegistry()))


def _server() -> InferenceServer:
    config, metrics = ServingConfig(port=0), ServingMetrics(CollectorRegistry())
    app = InferenceApp(
        model="films", specs=SpecRegistry(demo_spec()), engine=_engine(), recorder=None, metrics=metrics, config=config
    )
    return InferenceServer(app, config)


def _base_writer(kind: type[ModelStore] = ModelStore) -> BaseWriter:
    store = kind(f"memory://{uuid.uuid4().hex}", "films")
    return BaseWriter(store, keep_bases=1, keep_dense=1, metrics=TrainMetrics([]))


def _begun_base() -> BaseSnapshot:
    """Of an empty table."""
    table = EmbeddingTable(2, TableConfig(optimizer="none")).snapshot(slots=False)
    return BaseSnapshot(make_base(1).manifest, table, {}, b"", "")


def _file_source() -> FileSource:
    url = f"memory://{uuid.uuid4().hex}"
    writer = ExampleWriter(url, demo_spec(), "topic examples")
    writer.open()
    return FileSource(url, demo_spec(), FilePlan.of(writer.commit()))


class _SlowStore(ModelStore):
    def write_base(self, base: Any) -> Any:
        time.sleep(0.4)
        raise StoreUnavailableError("it takes no base here")


@cache
def _cluster() -> MockCluster:
    return MockCluster("examples")


class _Following:
    def run(self, stop: Any, wake: Callable[[], None]) -> None:
        stop.wait(10)


IDS = np.array([1])
FEATURES = FeatureEvent("r", 1, 0, IDS, IDS, IDS)
LETTER = letter_for(RecordError("not a block"), "examples", 0, 0, key=None, value=b"noise")
ACTION = ActionEvent("r", 1, 1, "watch")

SUBJECTS = {
    "ListSource": Subject(lambda: ListSource([RawRecord(0, 0, b"a")]), use=lambda source: source.poll(1, 0.0)),
    "BlockReader": Subject(
        lambda: BlockReader(ListSource([]), SpecRegistry(demo_spec()), on_bad=lambda bad: None, max_rows=10),
        use=lambda source: source.poll(1, 0.0),
    ),
    "KafkaExampleSource": Subject(
        lambda: KafkaExampleSource(_cluster().bootstrap_servers, "examples", {}, until_latest=False),
        use=lambda source: source.poll(1, 0.0),
    ),
    "FileSource": Subject(_file_source, use=lambda source: source.poll(1, 0.0)),
    "BatchThenOnline": Subject(
        lambda: BatchThenOnline(_file_source(), lambda: ListSource([])), use=lambda source: source.poll(1, 0.0)
    ),
    "MemoryFeatureLog": Subject(lambda: MemoryFeatureLog(10), FEATURES, fill=lambda: MemoryFeatureLog(2)),
    "FeatureRecorder": Subject(
        lambda: FeatureRecorder(MemoryFeatureLog(10), CollectorRegistry()),
        FEATURES,
        fill=lambda: FeatureRecorder(MemoryFeatureLog(2), CollectorRegistry()),
        lose=lambda: FeatureRecorder(EventProducer(NOWHERE, "features"), CollectorRegistry()),
    ),
    "EventProducer": Subject(
        lambda: EventProducer(NOWHERE, "actions"),
        ACTION,
        fill=lambda: EventProducer(NOWHERE, "actions", max_queue_records=2),
        lose=lambda: EventProducer(NOWHERE, "actions"),
    ),
    "DeadLetterProducer": Subject(
        lambda: DeadLetterProducer(NOWHERE, "dead_letters"),
        LETTER,
        fill=lambda: DeadLetterProducer(NOWHERE, "dead_letters", queue_bytes=1024),
        lose=lambda: DeadLetterProducer(NOWHERE, "dead_letters"),
    ),
    "KafkaDeltaLog": Subject(
        lambda: KafkaDeltaLog(NOWHERE, "deltas"),
        use=lambda log: log.append(b"k", bytes(500)),
        fill=lambda: KafkaDeltaLog(NOWHERE, "deltas", queue_bytes=1024),
        lose=lambda: KafkaDeltaLog(NOWHERE, "deltas"),
    ),
    "MemoryLog": Subject(
        MemoryLog, use=lambda log: log.append(b"k", b"v"), fill=lambda: MemoryLog(max_queued_records=2)
    ),
    "GroupLag": Subject(lambda: GroupLag(NOWHERE, {"features": "g"}), use=lambda lag: lag.records()),
    "Engine": Subject(_engine),
    "InferenceServer": Subject(_server),
    "Follower": Subject(lambda: Follower(_Following(), lambda: None, on_failure=lambda error: None)),
    "HealthServer": Subject(lambda: HealthServer(0, lambda: True)),
    "BaseWriter": Subject(
        _base_writer, _begun_base(), fill=lambda: _base_writer(_SlowStore), lose=lambda: _base_writer(_SlowStore)
    ),
}


@contextmanager
def _started(make: Callable[[], Any] | None) -> Iterator[Any]:
    assert make is not None
    stage = make()
    stage.start()
    try:
        yield stage
    finally:
        stage.close()


def may_be_closed_twice_and_without_a_start(subject: Subject) -> None:
    stage = subject.make()
    stage.close()
    stage.close()


def does_nothing_after_closing(subject: Subject) -> None:
    with _started(subject.make) as stage:
        stage.close()
        with pytest.raises(ClosedError):
            subject.use_once(stage)


def flushes_nothing_at_once(subject: Subject) -> None:
    with _started(subject.make) as stage:
        assert list(inspect.signature(stage.flush).parameters) == ["timeout_s"]
        stage.flush(0.0)


def says_so_at_once_when_it_is_full(subject: Subject) -> None:
    with _started(subject.fill) as stage:
        begun = time.monotonic()
        with pytest.raises(BackpressureError):  # noqa: PT012 - how many it takes is its own business
            for _ in range(1000):
                subject.use_once(stage)
        assert time.monotonic() - begun < 0.5


def flushes_only_what_is_delivered_and_keeps_the_rest(subject: Subject) -> None:
    with _started(subject.lose) as stage:
        subject.use_once(stage)
        for _ in range(2):
            with pytest.raises(FlushTimeoutError):
                stage.flush(0.05)


def closes_without_waiting_for_delivery(subject: Subject) -> None:
    with _started(subject.lose) as stage:
        subject.use_once(stage)
        begun = time.monotonic()
        stage.close()
        assert time.monotonic() - begun < 0.5


Check = Callable[[Subject], None]


def _subjects(wanted: Callable[[Subject], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("subject", [pytest.param(s, id=name) for name, s in SUBJECTS.items() if wanted(s)])


@_subjects(lambda subject: True)
def test_every_stage(subject: Subject) -> None:
    may_be_closed_twice_and_without_a_start(subject)


@_subjects(lambda subject: subject.item is not None or subject.use is not None)
def test_every_stage_that_takes_or_gives_something(subject: Subject) -> None:
    does_nothing_after_closing(subject)


@_subjects(lambda subject: subject.item is not None)
def test_every_sink(subject: Subject) -> None:
    flushes_nothing_at_once(subject)


@_subjects(lambda subject: subject.fill is not None)
def test_every_stage_that_can_be_full(subject: Subject) -> None:
    says_so_at_once_when_it_is_full(subject)


@_subjects(lambda subject: subject.lose is not None and subject.item is not None)
def test_every_sink_that_may_be_cut_off(subject: Subject) -> None:
    flushes_only_what_is_delivered_and_keeps_the_rest(subject)


@_subjects(lambda subject: subject.lose is not None)
def test_every_stage_that_may_be_cut_off(subject: Subject) -> None:
    closes_without_waiting_for_delivery(subject)


# -- stages that the suite has to refuse -------------------------------------------------------------------


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


class NeverFull(MemoryFeatureLog):
    def submit(self, event: FeatureEvent, /) -> None:
        if len(self.events) < 2:
            super().submit(event)


class FullIsAValueError(MemoryFeatureLog):
    def submit(self, event: FeatureEvent, /) -> None:
        if len(self.events) == 2:
            raise ValueError("full")
        super().submit(event)


class FlushesNothing(DeadLetterProducer):
    def flush(self, timeout_s: float) -> None:
        pass


class FlushesOnce(DeadLetterProducer):
    """Forgets what it could not deliver."""

    def flush(self, timeout_s: float) -> None:
        sent, self.sent = self.sent, 0
        if sent:
            raise FlushTimeoutError("not all was acknowledged")


class FlushRaisesItsOwn(DeadLetterProducer):
    def flush(self, timeout_s: float) -> None:
        raise RuntimeError("neither FlushTimeoutError nor RilletError")


class CloseWaits(DeadLetterProducer):
    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(0.6)
        super().close()


class NeverEnding(ListSource):
    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (OtherWords, flushes_nothing_at_once),
        (NeverFlushed, flushes_nothing_at_once),
        (ClosedOnce, may_be_closed_twice_and_without_a_start),
        (NeverClosed, does_nothing_after_closing),
        (NeverFull, says_so_at_once_when_it_is_full),
        (FullIsAValueError, says_so_at_once_when_it_is_full),
    ],
)
def test_a_broken_feature_log_is_refused(kind: type[MemoryFeatureLog], check: Check) -> None:
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check(Subject(lambda: kind(10), FEATURES, fill=lambda: kind(10)))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (FlushesNothing, flushes_only_what_is_delivered_and_keeps_the_rest),
        (FlushesOnce, flushes_only_what_is_delivered_and_keeps_the_rest),
        (FlushRaisesItsOwn, flushes_only_what_is_delivered_and_keeps_the_rest),
        (CloseWaits, closes_without_waiting_for_delivery),
    ],
)
def test_a_broken_letter_producer_is_refused(kind: type[DeadLetterProducer], check: Check) -> None:
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        check(Subject(lambda: kind(NOWHERE, "dead"), LETTER, lose=lambda: kind(NOWHERE, "dead")))


def test_a_source_that_goes_on_after_closing_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception):
        does_nothing_after_closing(Subject(lambda: NeverEnding([]), use=lambda source: source.poll(1, 0.0)))
