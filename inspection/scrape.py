"""Reads what the services measure of themselves: Prometheus text over HTTP, as plain numbers."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading. In ``values`` samples of a name with several labels are added up; histograms keep their buckets."""

    families: tuple[Metric, ...] = ()
    values: dict[str, float] = field(default_factory=dict)
    #: histogram name to (upper bounds, cumulative counts), in order of the bounds
    histograms: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    def get(self, name: str, default: float = 0.0) -> float:
        """Value of a counter or gauge; ``default`` where the service has none of the name."""
        return self.values.get(name, default)


def parse_metrics(text: str) -> Scrape:
    """Prometheus text format to numbers."""
    values: dict[str, float] = {}
    buckets: dict[str, list[tuple[float, float]]] = {}
    families = tuple(text_string_to_metric_families(text))
    for family in families:
        for sample in family.samples:
            if family.type == "histogram" and sample.name.endswith("_bucket"):
                buckets.setdefault(family.name, []).append((float(sample.labels["le"]), sample.value))
            else:
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    histograms = {}
    for name, entries in buckets.items():
        bounds = sorted({bound for bound, _ in entries})
        histograms[name] = (bounds, [sum(count for bound, count in entries if bound == b) for b in bounds])
    return Scrape(families, values, histograms)


def scrape(url: str) -> Scrape | None:
    """Reads ``url``; None when the service does not answer, which during a start or stop it need not."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  our own http:// URL
            return parse_metrics(answer.read().decode())
    except (urllib.error.URLError, OSError, ValueError):
        return None
