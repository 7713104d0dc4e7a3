"""The server's Prometheus metrics, and a histogram that takes arrays.

Times are in seconds with buckets about 12% apart, so that a p99 read from them is off by at most 12%.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from rillet.schemas.arrays import Float64s


def geometric_buckets(low: float, high: float, ratio: float = 1.12) -> tuple[float, ...]:
    """Upper bounds from ``low`` to at least ``high``, each ``ratio`` times the one before, to 4 digits.

    >>> geometric_buckets(1.0, 2.0, ratio=1.5)
    (1.0, 1.5, 2.25)
    """
    steps = int(np.ceil(np.log(high / low) / np.log(ratio)))
    return tuple(float(f"{low * ratio**step:.4g}") for step in range(steps + 1))


class ArrayHistogram(Collector):
    """A Prometheus histogram without labels whose ``observe_many`` costs no Python per value. Thread-safe."""

    def __init__(
        self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry | None = None
    ) -> None:
        """:param buckets: increasing upper bounds, each inclusive; infinity is added."""
        self._name = name
        self._documentation = documentation
        self._bounds = list(buckets)
        self._bounds_array = np.array(self._bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()
        if registry is not None:
            registry.register(self)

    def observe(self, value: float) -> None:
        """Counts one value."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def observe_many(self, values: Float64s) -> None:
        """Counts an array of values."""
        counts = np.bincount(np.searchsorted(self._bounds_array, values), minlength=len(self._counts))
        total = float(values.sum())
        with self._lock:
            for at in np.flatnonzero(counts).tolist():
                self._counts[at] += int(counts[at])
            self._sum += total

    @property
    def count(self) -> int:
        """Values counted so far."""
        return sum(self._counts)

    def quantile(self, q: float) -> float:
        """Upper bound of the bucket that holds the q-quantile; nan without values, infinity above the last bound."""
        with self._lock:
            cumulative = np.cumsum(self._counts)
        if not cumulative[-1]:
            return float("nan")
        at = int(np.searchsorted(cumulative, q * cumulative[-1]))
        return self._bounds[at] if at < len(self._bounds) else float("inf")

    def collect(self) -> list[HistogramMetricFamily]:
        with self._lock:
            cumulative = np.cumsum(self._counts).tolist()
            total = self._sum
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, (float(count) for count in cumulative), strict=True))
        return [HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)]


class ServingMetrics:
    """Everything that one server counts, in a registry of its own; also the batcher's observer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "rillet_serving_requests", "Infer requests by HTTP status.", ["code"], registry=registry
        )
        self._ok = self._requests.labels("200")
        self._rejected = Counter(
            "rillet_serving_rejected", "Infer requests without scores, by reason.", ["reason"], registry=registry
        )
        self.request_seconds = ArrayHistogram(
            "rillet_serving_request_seconds",
            "From a request's first byte in the application to its last.",
            geometric_buckets(1e-4, 10.0),
            registry,
        )
        self.batch_seconds = ArrayHistogram(
            "rillet_serving_batch_seconds", "Computing one batch.", geometric_buckets(1e-4, 10.0), registry
        )
        self.apply_seconds = ArrayHistogram(
            "rillet_serving_apply_seconds",
            "Slices of applying updates between batches.",
            geometric_buckets(1e-5, 1.0),
            registry,
        )
        self.freshness_seconds = ArrayHistogram(
            "rillet_freshness_seconds",
            "From an action's ingestion to the updates learned from it being served.",
            # Far enough for catching up after hours of a trainer or broker being away.
            geometric_buckets(0.1, 7200.0),
            registry,
        )
        rows = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
        self._batch_rows = Histogram(
            "rillet_serving_batch_rows", "Candidates per batch.", buckets=rows, registry=registry
        )
        self._batch_requests = Histogram(
            "rillet_serving_batch_requests", "Requests per batch.", buckets=rows, registry=registry
        )
        self._queue_rows = Gauge("rillet_serving_queue_rows", "Candidates waiting for the model.", registry=registry)
        self.fids = Counter("rillet_serving_fids", "Feature ids looked up.", registry=registry)
        self.unknown_fids = Counter(
            "rillet_serving_unknown_fids",
            "Feature ids that the table did not know, those of crosses among them.",
            registry=registry,
        )

    def answered(self, status: int, seconds: float) -> None:
        """An infer request was answered."""
        (self._ok if status == 200 else self._requests.labels(str(status))).inc()
        self.request_seconds.observe(seconds)

    def rejected(self, reason: str) -> None:
        """An infer request was answered without scores."""
        self._rejected.labels(reason).inc()

    def batch(self, jobs: int, rows: int, seconds: float) -> None:
        """A batch was computed."""
        self.batch_seconds.observe(seconds)
        self._batch_rows.observe(rows)
        self._batch_requests.observe(jobs)

    def waiting_rows(self, rows: Callable[[], int]) -> None:
        """Asks ``rows`` for the candidates that wait, at every scrape."""
        self._queue_rows.set_function(rows)

    def counter(self, name: str, documentation: str) -> Counter:
        """Another counter of this server."""
        return Counter(name, documentation, registry=self.registry)
