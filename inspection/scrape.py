"""Reads what the services measure of themselves: Prometheus text over HTTP, as plain numbers."""

from __future__ import annotations

import http.client
import math
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 2.0
#: our services show some tens of kilobytes
MAX_BYTES = 2 << 20


class MetricsError(Exception):
    """What a port answered is not what a service shows; the message says why."""


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
    """Prometheus text format to numbers; those that are not finite are left out, since they say nothing.

    :raises MetricsError: it is something else.
    """
    values: dict[str, float] = {}
    buckets: dict[str, list[tuple[float, float]]] = {}
    try:
        families = tuple(text_string_to_metric_families(text))
        for family in families:
            family.samples = [sample for sample in family.samples if math.isfinite(sample.value)]
            for sample in family.samples:
                if family.type == "histogram" and sample.name.endswith("_bucket"):
                    buckets.setdefault(family.name, []).append((float(sample.labels["le"]), sample.value))
                else:
                    values[sample.name] = values.get(sample.name, 0.0) + sample.value
    # The parser fails in many ways on text of another kind.
    except Exception as error:
        raise MetricsError(f"no Prometheus text format ({type(error).__name__}: {error})") from error
    histograms = {}
    for name, entries in buckets.items():
        bounds = sorted({bound for bound, _ in entries})
        histograms[name] = (bounds, [sum(count for bound, count in entries if bound == b) for b in bounds])
    return Scrape(families, values, histograms)


def fetch(url: str, timeout_s: float = _TIMEOUT_S) -> tuple[int, bytes] | None:
    """Status and body of a GET; None when nothing answers.

    :param timeout_s: for all of it, however slowly it comes.
    :raises MetricsError: the body is larger than :data:`MAX_BYTES`, or has not come in time.
    """
    deadline_s = time.monotonic() + timeout_s
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
    try:
        connection.connect()
    except OSError:
        return None
    opened, over = connection.sock, threading.Event()
    opened.settimeout(None)  # the deadline below is the only one

    def end() -> None:
        over.set()
        # Wakes whoever waits for bytes of it; a time limit of the socket would begin again with every byte.
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(max(deadline_s - time.monotonic(), 0), end)
    watch.daemon = True
    watch.start()
    status = None
    try:
        connection.request("GET", place.path)
        with connection.getresponse() as answer:
            if over.is_set():  # headers that the deadline has cut off look whole
                return None
            status, body = answer.status, bytearray()
            while piece := answer.read1(64 << 10):
                body += piece
                if len(body) > MAX_BYTES:
                    raise MetricsError(f"more than {MAX_BYTES >> 20} MB")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if status is None:
            return None
        if not over.is_set():
            raise MetricsError(f"the answer broke off ({type(error).__name__}: {error})") from error
    finally:
        watch.cancel()
        connection.close()
    if over.is_set():
        raise MetricsError(f"the answer was not whole within {timeout_s:g} s")
    return status, bytes(body)


def read_metrics(url: str) -> Scrape:
    """What a service shows at ``url``.

    :raises MetricsError: it shows nothing that can be read.
    """
    answer = fetch(url)
    if answer is None:
        raise MetricsError("no answer")
    return parse_metrics(answer[1].decode(errors="replace"))


def scrape(url: str) -> Scrape | None:
    """Reads ``url``; None when the service does not answer, which during a start or stop it need not."""
    try:
        return read_metrics(url)
    except MetricsError:
        return None
