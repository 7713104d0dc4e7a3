"""``rillet serve``: one replica behind the Open Inference Protocol, in this process, until told to stop.

Live at once, ready when a trainer has written a base and the delta log is replayed. What is served goes to the
features topic. A broker or store that is away delays updates and the log, not answers.
"""

from __future__ import annotations

import logging
import signal
import threading

import torch
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.producers import EventProducer
from rillet.connectors.topics import create_topics
from rillet.jobs.config import RilletConfig
from rillet.serving.app import InferenceApp
from rillet.serving.engine import Engine
from rillet.serving.feature_log import FeatureRecorder
from rillet.serving.live_model import LiveModel
from rillet.serving.metrics import ServingMetrics
from rillet.serving.server import InferenceServer
from rillet.sync import ModelStore

log = logging.getLogger("rillet.serve")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_serve(config: RilletConfig) -> int:
    """Serves until SIGTERM or SIGINT; answers what is in flight, flushes the feature log, then returns 0.

    To be called in the main thread.

    :raises BrokerUnavailableError: no broker answers at the start.
    :raises ServingError: the address cannot be listened on, or the base's program cannot be served.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    kafka, serving = config.kafka, config.serving
    spec = config.load_spec()
    create_topics(kafka.connection, kafka.topic_partitions, replication=kafka.replication)
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
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
    features = EventProducer(kafka.connection, kafka.topics.features)
    features.start()
    recorder = FeatureRecorder(features, registry)
    engine = Engine(spec, model, serving, metrics)
    app = InferenceApp(
        model=config.model.name, spec=spec, engine=engine, recorder=recorder, metrics=metrics, config=serving
    )
    server = InferenceServer(app, engine, serving)
    fetcher = _Fetcher(model, engine, server)
    # uvicorn has its own handlers while it serves, and raises the signal again for ours afterwards.
    previous = {number: signal.signal(number, lambda *_: server.stop()) for number in _SIGNALS}
    try:
        fetcher.start()
        log.info("serving model %s on http://%s:%d", config.model.name, serving.host, server.port)
        server.run()
    finally:
        fetcher.stop(serving.drain_timeout_s)
        complete = recorder.flush(serving.drain_timeout_s)
        features.close()
        deltas.close()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if fetcher.failure is not None:
        raise fetcher.failure
    log.info("stopped; the feature log is %s", "complete" if complete else "incomplete, see above")
    return 0


class _Fetcher:
    """The thread that follows the trainer; a failure that waiting does not mend stops the server."""

    def __init__(self, model: LiveModel, engine: Engine, server: InferenceServer) -> None:
        self.failure: BaseException | None = None
        self._model = model
        self._engine = engine
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)

    def start(self) -> None:
        """Begins to wait for a base."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread; blocks."""
        self._stopping.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the replica thread did not end within %.0f s", timeout_s)

    def _run(self) -> None:
        try:
            self._model.run(self._stopping, self._engine.wake)
        # Handed to the main thread, which raises it: a server must not go on with a model that never changes.
        except BaseException as error:
            log.error("the replica failed, stopping: %s: %s", type(error).__name__, error)
            self.failure = error
            self._server.stop()
