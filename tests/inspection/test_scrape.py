"""What services measure of themselves is read as plain numbers."""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rillet.inspection.scrape import MAX_BYTES, MetricsError, fetch, parse_metrics, read_metrics


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


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_numbers_that_are_not_finite_are_unknown(value: str) -> None:
    assert parse_metrics(f"rows_total {value}\nothers 2\n").values == {"others": 2}


@pytest.mark.parametrize("text", ['# TYPE a histogram\na_bucket{x="1"} 3\n', "<html>\n", 'a{b="c\n', "\ufffd{]]"])
def test_text_of_another_kind_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(MetricsError, match="no Prometheus text format"):
        parse_metrics(text)


@contextmanager
def _port(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port that answers one request."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            connection.recv(1000)
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
    listener.close()
    thread.join(1)


def _drip(connection: socket.socket, before: bytes, piece: bytes) -> None:
    connection.sendall(before)
    for _ in range(100):
        connection.sendall(piece)
        if select.select([connection], [], [], 0.02)[0]:
            return  # the client has hung up


def test_a_port_that_drips_headers_is_given_up_at_the_deadline() -> None:
    with _port(lambda connection: _drip(connection, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")) as url:
        began_s = time.monotonic()
        assert fetch(url, 0.1) is None
        assert time.monotonic() - began_s < 1


@pytest.mark.parametrize("piece", [b"# a line\n", b""])
def test_a_body_that_does_not_end_in_time_is_refused(piece: bytes) -> None:
    with (
        _port(lambda connection: _drip(connection, b"HTTP/1.1 200 OK\r\n\r\n", piece)) as url,
        pytest.raises(MetricsError, match="was not whole within"),
    ):
        fetch(url, 0.1)


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    lines = b"HTTP/1.1 200 OK\r\n\r\n" + b"a 1\n" * (MAX_BYTES // 2)
    with (
        _port(lambda connection: connection.sendall(lines)) as url,
        pytest.raises(MetricsError, match="more than 2 MB"),
    ):
        read_metrics(url)
