"""``rillet serve``: one replica behind the Open Inference Protocol, in this process, until told to stop.

Live at once, ready when a trainer has written a base and the delta log is replayed. What is served goes to the
features topic. A broker or store that is away delays updates and the log, not answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.producers import EventProducer
from rillet.connectors.service_info import announce_service
from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.jobs.signals import call_on_signals, end_at_once_on_signals
from rillet.serving.app import InferenceApp
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder
from rillet.serving.live_model import LiveModel
from rillet.serving.metrics import ServingMetrics
from rillet.serving.server import InferenceServer
from rillet.serving.service import InferenceService
from rillet.sync import ModelStore

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 2.0


def run_serve(config: RilletConfig) -> int:
    """Serves until SIGTERM or SIGINT; answers what is in flight, flushes the feature log, then returns 0.

    To be called in the main thread.

    :raises BrokerUnavailableError: no broker answers at the start.
    :raises ServingError: the address cannot be listened on, or the base's program cannot be served.
    """
    end_at_once_on_signals()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    kafka = config.kafka
    create_topics(kafka.connection, kafka.topic_partitions_of("serve"), replication=kafka.replication)
    service = wire_server(config)

    def started() -> None:
        log.info("serving model %s on http://%s:%d", config.model.name, config.serving.host, service.server.port)

    call_on_signals(service.stop)
    complete = service.run(started)
    log.info("stopped; %s", "the feature log is complete" if complete else "not all was answered or logged, see above")
    return 0


def wire_server(config: RilletConfig) -> InferenceService:
    """The server of a configuration: a replica of its model, scored over HTTP, served features to its broker."""
    kafka, serving, specs = config.kafka, config.serving, config.load_specs()
    spec = specs.current
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    announce_service(registry, model=config.model.name, spec_hash=spec.hash)
    metrics = ServingMetrics(registry)
    deltas = KafkaDeltaLog(kafka.connection, kafka.topics.deltas)
    model = LiveModel(
        ModelStore(config.store_url, config.model.name),
        deltas,
        spec,
        config=serving,
        replica_config=config.replica,
        metrics=metrics,
    )
    recorder = FeatureRecorder(EventProducer(kafka.connection, kafka.topics.features), registry)
    # A stage that fails on its own thread ends the service, which is made of those stages: hence by name, later.
    engine = Engine(spec, model, serving, metrics, on_failure=lambda error: service.fail(error))
    app = InferenceApp(
        model=config.model.name, specs=specs, engine=engine, recorder=recorder, metrics=metrics, config=serving
    )
    server = InferenceServer(app, serving, on_failure=lambda error: service.fail(error))
    follower = Follower(model, engine.wake, on_failure=lambda error: service.fail(error), release=deltas.close)
    service = InferenceService(
        engine=engine,
        server=server,
        recorder=recorder,
        updates=[follower],
        drain_timeout_s=serving.drain_timeout_s,
        notice_s=serving.drain_notice_s,
    )
    return service


class FollowingModel(Protocol):
    """A served model that fetches its updates on a thread of its owner."""

    def run(self, stop: threading.Event, wake: Callable[[], None]) -> None:
        """Fetches until ``stop`` is set, and calls ``wake`` when there is something to apply."""


class Follower:
    """The thread that follows the trainer. A failure that waiting does not cure is reported to its owner."""

    def __init__(
        self,
        model: FollowingModel,
        wake: Callable[[], None],
        *,
        on_failure: Callable[[BaseException], None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """
        :param wake: called when there are updates to apply.
        :param on_failure: called on this thread: a server must not go on with a model that never changes.
        :param release: closes what only the thread uses, once it has ended.
        """
        self._model = model
        self._wake = wake
        self._on_failure = on_failure
        self._release = release
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. One that hangs in the store or the broker is left to itself and dies with the process."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("the replica thread did not end within %.0f s", _CLOSE_TIMEOUT_S)
        else:
            self._release()

    def _run(self) -> None:
        try:
            self._model.run(self._stopping, self._wake)
        except BaseException as error:
            log.error("the replica failed, stopping: %s: %s", type(error).__name__, error)
            self._on_failure(error)
