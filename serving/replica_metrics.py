"""What a replica has applied, refused and still lacks, as Prometheus metrics read when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rillet.schemas import NO_TIME_MS
from rillet.sync import Incident, Replica


class ReplicaCollector(Collector):
    """Collects from a replica; the numbers are written by other threads and may be a moment apart."""

    def __init__(self, replica: Replica, reached_ms: Callable[[], int]) -> None:
        """:param reached_ms: wall clock when the replica last read from the log, -1 when it has not yet."""
        self._replica = replica
        self._reached_ms = reached_ms

    def collect(self) -> Iterable[Metric]:
        replica, applied = self._replica, self._replica.applied
        gauges: list[tuple[str, str, float]] = [
            ("ready", "Whether a base is loaded and what the log held then is applied.", replica.ready),
            ("degraded", "Whether rows may be missing until a newer base is loaded.", replica.degraded),
            ("rows", "Rows of the table.", replica.rows),
            ("queued_rows", "Rows fetched and not applied yet.", replica.queued_rows),
            ("lag_records", "Records that the delta log held at the last look and that are not dealt with.",
             replica.lag_records),
            ("position", "Position in the delta log below which all is dealt with.", replica.position),
            ("epoch", "Epoch of the block applied last.", replica.epoch),
            ("sequence", "Sequence of the block applied last.", replica.sequence),
            ("dense_version", "Version of the dense weights applied last.", replica.version),
        ]  # fmt: skip
        # Times and not ages: an age needs a clock, and an event of a wrong one would have a negative age.
        if replica.newest_event_ms != NO_TIME_MS:
            text = "Event time of the newest event that the served rows learned from."
            gauges.append(("newest_event_timestamp_seconds", text, replica.newest_event_ms / 1e3))
        if (reached_ms := self._reached_ms()) != NO_TIME_MS:
            text = "When the delta log and the store last answered; updates are stale where that is long ago."
            gauges.append(("reached_timestamp_seconds", text, reached_ms / 1e3))
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"rillet_replica_{name}", text, value=float(value))
        counters: list[tuple[str, str, float]] = [
            ("blocks", "Delta blocks applied.", applied.blocks),
            ("upserted_rows", "Rows written by delta blocks.", applied.rows),
            ("tombstones", "Rows removed by delta blocks.", applied.tombstones),
            ("bytes", "Bytes of the applied fids, rows and tombstones.", applied.bytes),
            (
                "dense_versions",
                "Versions of the dense weights applied, those that came with a base not counted.",
                applied.dense_versions,
            ),
            ("bases", "Bases loaded, the first included.", applied.bases),
        ]
        for name, text, value in counters:
            yield CounterMetricFamily(f"rillet_replica_{name}", text, value=float(value))
        incidents = CounterMetricFamily(
            "rillet_replica_incidents", "Records refused, gaps and damaged files, by kind.", labels=["kind"]
        )
        for kind in Incident:  # all kinds, also those at 0: an alert on an increase needs the 0 before it
            incidents.add_metric([kind.value], float(replica.incidents.get(kind, 0)))
        yield incidents
