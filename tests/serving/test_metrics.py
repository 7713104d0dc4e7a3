"""The histogram counts as Prometheus' own does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from rillet.serving.metrics import ArrayHistogram, ServingMetrics


def _samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: round(float(line.rsplit(" ", 1)[1]), 6)
        for line in lines
        if not line.startswith("#") and "_created" not in line
    }


@settings(deadline=None)
@given(st.lists(st.floats(0, 20) | st.sampled_from([0.5, 1.0, 10.0]), max_size=30), st.integers(0, 30))
def test_arrays_and_single_values_count_as_in_the_reference_histogram(values: list[float], split: int) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bounds = (0.5, 1.0, 2.5, 10.0)
    array, reference = ArrayHistogram("h", "h", bounds, ours), Histogram("h", "h", buckets=bounds, registry=theirs)
    for value in values[:split]:
        array.observe(value)
    array.observe_many(np.array(values[split:], np.float64))
    for value in values:
        reference.observe(value)
    assert _samples(ours) == _samples(theirs)
    assert array.count == len(values)


def test_quantiles_are_the_upper_bound_of_their_bucket() -> None:
    histogram = ArrayHistogram("h", "h", (1.0, 2.0, 3.0))
    assert np.isnan(histogram.quantile(0.5))
    histogram.observe_many(np.array([0.5] * 98 + [2.5, 9.0]))
    assert (histogram.quantile(0.5), histogram.quantile(0.99), histogram.quantile(1.0)) == (1.0, 3.0, np.inf)


def test_freshness_buckets_are_about_a_ninth_apart_over_the_whole_range() -> None:
    metrics = ServingMetrics(CollectorRegistry())
    (family,) = metrics.freshness_seconds.collect()
    bounds = np.array([float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels][:-1])
    assert bounds[0] == 0.1
    assert bounds[-1] >= 7200
    assert (bounds[1:] / bounds[:-1]).max() < 1.125


def test_freshness_after_two_hours_of_catching_up_still_has_a_quantile() -> None:
    metrics = ServingMetrics(CollectorRegistry())
    metrics.freshness_seconds.observe_many(np.full(10, 7000.0))
    assert 7000 <= metrics.freshness_seconds.quantile(0.99) < 7900
