"""The model that is served while it changes: a replica's table, and the dense program with its newest weights.

Two sides. ``run`` reads (its own thread); ``apply`` and what it calls belong to the batcher's thread. What a
bad update does is decided here: it is counted and logged, and serving stays on what it has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from rillet.embeddings import EmbeddingTable
from rillet.schemas import NO_TIME_MS, DeltaBlock, FeatureSpec
from rillet.schemas.fid import VALUE_BITS
from rillet.serving.config import ServingConfig
from rillet.serving.errors import ProgramError
from rillet.serving.features import RequestLayout
from rillet.serving.metrics import ServingMetrics
from rillet.serving.predictor import Predictor
from rillet.serving.program import DenseProgram
from rillet.serving.protocol import InferRequest
from rillet.serving.rate_limited_log import RateLimitedLog
from rillet.serving.replica_metrics import ReplicaCollector
from rillet.sync import (
    Base,
    BaseNotFoundError,
    DeltaLog,
    Dense,
    Incident,
    ModelStore,
    OtherSpecBaseError,
    Replica,
    ReplicaConfig,
    ReplicaListener,
    StoreUnavailableError,
    SyncError,
    TableShard,
)

log = logging.getLogger(__name__)

#: Rows applied between two looks at the clock: well below the shortest sensible slice.
_PIECE_ROWS = 1024
_RETRY_S = 1.0


class LiveModel(ReplicaListener[DenseProgram]):
    """A :class:`rillet.serving.engine.ServedModel` that follows a trainer."""

    def __init__(
        self,
        store: ModelStore,
        delta_log: DeltaLog,
        spec: FeatureSpec,
        *,
        config: ServingConfig,
        replica_config: ReplicaConfig,
        metrics: ServingMetrics,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Touches neither store nor log; :meth:`run` does.

        :param now_ms: wall clock, for freshness.
        :param clock: monotonic seconds.
        """
        self._spec = spec
        self._store = store
        self._config = config
        self._metrics = metrics
        self._now_ms = now_ms
        self._clock = clock
        self._limited_log = RateLimitedLog(log, clock)
        self._replica = Replica(
            store,
            delta_log,
            TableShard(store.model, spec.model_hash),
            config=replica_config,
            listener=self,
        )
        self._program: DenseProgram | None = None
        self._version = 0
        #: the dense weights that are served, of that version
        self._weights: Dense = {}
        self._loaded = False
        self._announced = False
        #: wall clock when the log was last read
        self._reached_ms = NO_TIME_MS
        metrics.registry.register(ReplicaCollector(self._replica, lambda: self._reached_ms))
        self._refused_weights = metrics.counter(
            "rillet_serving_refused_weights", "Dense weights and bases that did not fit and were not served."
        )
        self._apply_failures = metrics.counter(
            "rillet_serving_apply_failures", "Slices of updates that failed; serving goes on with what there is."
        )

    # -- read by the engine --------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a base was loaded and all that the log held then applied; stays true from then on."""
        return self._loaded and self._replica.ready

    @property
    def version(self) -> int:
        """Version of the dense weights that are served."""
        return self._version

    @property
    def table(self) -> EmbeddingTable:
        """The replica's table; ask each time."""
        return self._replica.table

    @property
    def program(self) -> DenseProgram:
        """The dense part; ask each time.

        :raises ProgramError: no base is loaded yet.
        """
        if self._program is None:
            raise ProgramError("no base is loaded yet")
        return self._program

    def apply(self, budget_s: float) -> bool:
        """Applies queued updates for about ``budget_s``; True when more are queued. Never raises."""
        if not self._loaded:
            return False
        started = self._clock()
        applied = 0
        try:
            # One piece at least, so that no budget, however small, stops updates for good.
            while more := (rows := self._replica.apply_slice(_PIECE_ROWS)) > 0:
                applied += rows
                if self._clock() - started >= budget_s:
                    break
        # The batcher must go on answering whatever an update contains; the next poll tries it again.
        except Exception:
            self._apply_failures.inc()
            log.exception("applying updates failed; serving goes on with what there is")
            return False
        if applied:
            self._metrics.apply_seconds.observe(self._clock() - started)
        if not self._announced and self._replica.ready:
            self._announced = True
            log.info(
                "ready: model %s, dense weights %d, %d rows, delta log up to %d",
                self._store.model,
                self._version,
                self._replica.rows,
                self._replica.position,
            )
        return more

    # -- the reading thread -------------------------------------------------------------------------------

    def run(self, stop: threading.Event, wake: Callable[[], None]) -> None:
        """Waits for the first base, then reads until ``stop`` is set.

        :param wake: called when the batcher should look for updates to apply.
        :raises RilletError: the base cannot be served: its program does not load or is of another shape.
        """
        if not self._load(stop):
            return
        pause_s = self._config.poll_interval_ms / 1e3
        while not stop.is_set():
            started = self._clock()
            try:
                taken = self._replica.poll(self._now_ms(), pause_s)
            except (SyncError, ProgramError) as error:
                if isinstance(error, ProgramError):
                    self._refused_weights.inc()
                self._limited_log.warning(
                    "poll", "updates are not arriving, serving goes on with what there is: %s", error
                )
                wake()  # the error may have come after rows were queued
                # The replica asks a failing store at its own pace, and reads the log meanwhile.
                stop.wait(pause_s if isinstance(error, StoreUnavailableError) else _RETRY_S)
                continue
            self._reached_ms = self._now_ms()
            wake()
            if not taken:  # a log that did not wait itself
                stop.wait(max(0.0, pause_s - (self._clock() - started)))

    def _load(self, stop: threading.Event) -> bool:
        model = self._store.model
        while not stop.is_set():
            try:
                base = self._replica.load()
            except OtherSpecBaseError as error:
                self._limited_log.warning("other spec", "not ready, waiting for a base of our feature spec: %s", error)
                stop.wait(self._config.base_poll_interval_ms / 1e3)
            except BaseNotFoundError as error:
                self._limited_log.info(
                    "base",
                    "waiting for the trainer to write a first base for feature spec, crosses and transforms %#x: %s",
                    self._spec.model_hash,
                    error,
                )
                stop.wait(self._config.base_poll_interval_ms / 1e3)
            except SyncError as error:
                self._limited_log.warning("base", "the first base of model %s cannot be loaded yet: %s", model, error)
                stop.wait(max(_RETRY_S, self._config.base_poll_interval_ms / 1e3))
            else:
                log.info(
                    "loaded %s of model %s: %d rows; replaying the delta log from %d",
                    base.manifest.name,
                    model,
                    self._replica.rows,
                    base.manifest.next_offset,
                )
                self._warm_up()
                self._loaded = True
                return True
        return False

    def _warm_up(self) -> None:
        """Scores one made-up request, so that the first real one does not pay for compiling the kernels."""
        layout = RequestLayout(self._spec, 1)
        numbers = np.concatenate([np.full(slot.max_values, slot.slot, np.int64) for slot in self._spec.slots])
        inputs = {"fids": (numbers << VALUE_BITS)[None, :], "dense": np.zeros((1, len(self._spec.dense)), np.float32)}
        if not self._spec.dense:
            del inputs["dense"]
        request = layout.parse(InferRequest("warm-up", {}, inputs, None, False), 0, "")
        Predictor(self._spec).score(self.table, self.program, [request])

    # -- called by the replica -----------------------------------------------------------------------------

    def prepare(self, base: Base) -> DenseProgram:
        """Loads a base's program and weights, which takes too long for the batcher's thread. Reading thread.

        :raises ProgramError: they do not fit; the replica then does not take the base.
        """
        program = DenseProgram(
            base.program,
            segments=self._spec.segments,
            embedding_width=base.manifest.dim,
            dense_width=len(self._spec.dense),
            tasks=len(self._spec.tasks),
        )
        program.load_weights(base.dense)
        return program

    def on_base(self, base: Base, prepared: DenseProgram) -> None:
        """Serves the program of a base that has replaced the table. Applying thread.

        With its own weights, unless the replica keeps newer ones: the version must not fall then.
        """
        version, weights = base.manifest.version, base.dense
        if self._version > version and self._replica.version > version:
            try:
                prepared.load_weights(self._weights)
            except ProgramError as error:
                self._refused_weights.inc()
                log.error(
                    "dense weights %d do not fit base %d, whose own are served: %s", self._version, version, error
                )
            else:
                version, weights = self._version, self._weights
        self._program, self._version, self._weights = prepared, version, weights

    def on_dense(self, version: int, dense: Dense) -> None:
        """Serves a newer version of the weights, unless it does not fit. Applying thread."""
        try:
            self.program.load_weights(dense)
        except ProgramError as error:
            self._refused_weights.inc()
            log.error("dense weights %d are not served, version %d stays: %s", version, self._version, error)
            return
        self._version, self._weights = version, dense

    def on_applied(self, block: DeltaBlock) -> None:
        """Observes how long the actions took that the rows of a block were trained on. Applying thread."""
        times = block.freshness.action_ingest_ms
        known = times[times >= 0]
        if len(known):
            # A producer's clock may be ahead of ours: what it took cannot have been less than nothing.
            self._metrics.freshness_seconds.observe_many(np.maximum(self._now_ms() - known, 0) / 1e3)

    def on_incident(self, incident: Incident, position: int, detail: str) -> None:
        """Reports what was refused or is missing. Reading thread."""
        self._limited_log.warning(
            f"incident {incident}", "delta log position %d: %s: %s", position, incident.value, detail
        )
