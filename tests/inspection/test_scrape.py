"""What services measure of themselves is read as plain numbers."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rillet.inspection.scrape import parse_metrics


def test_metrics_are_read_with_labels_added_up_and_buckets_in_order() -> None:
    registry = CollectorRegistry()
    Gauge("rows", "Rows.", registry=registry).set(7)
    requests = Counter("requests", "Requests.", ["code"], registry=registry)
    requests.labels("200").inc(3)
    requests.labels("429").inc()
    seconds = Histogram("seconds", "Seconds.", buckets=(1, 10), registry=registry)
    for value in (0.5, 5, 50):
        seconds.observe(value)
    reading = parse_metrics(generate_latest(registry).decode())
    assert reading.get("rows") == 7
    assert reading.get("requests_total") == 4
    assert reading.get("absent", -1) == -1
    assert reading.histograms["seconds"] == ([1.0, 10.0, math.inf], [1.0, 2.0, 3.0])
