"""One deadline for all addresses of a server."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpcore2
import pytest

from rillet.serving.client.deadlines import _Backend, _Deadline

ADDRESSES = ("::1", "127.0.0.1", "127.0.0.2")


class _Network:
    """A network in which connecting to an address takes its time; ``None``: for ever."""

    def __init__(self, seconds: dict[str, float | None]) -> None:
        self._seconds = seconds
        self.tried: list[tuple[str, float]] = []

    def connect_tcp(self, host: str, port: int, timeout: float, *_: Any) -> httpcore2.NetworkStream:
        self.tried.append((host, timeout))
        seconds = self._seconds[host]
        if seconds is None or seconds > timeout:
            time.sleep(timeout)
            raise httpcore2.ConnectTimeout("timed out")
        return httpcore2.NetworkStream()


def _backend(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | None]) -> tuple[_Backend, _Network]:
    found = [(socket.AF_INET, kind, 0, "", (address, 80)) for address in seconds for kind in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    backend, network = _Backend(_Deadline()), _Network(seconds)
    backend._sockets = network  # type: ignore[assignment]
    return backend, network


def test_addresses_that_do_not_answer_take_the_time_for_connecting_once_not_once_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, network = _backend(monkeypatch, dict.fromkeys(ADDRESSES))
    begun = time.monotonic()
    with pytest.raises(httpcore2.ConnectTimeout):
        backend.connect_tcp("server", 80, 0.15)
    assert time.monotonic() - begun < 0.3
    assert [address for address, _ in network.tried] == list(ADDRESSES)


def test_an_address_that_answers_is_reached_though_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, network = _backend(monkeypatch, {"::1": None, "127.0.0.1": 0.0})
    backend.connect_tcp("server", 80, 0.1)
    assert [address for address, _ in network.tried] == ["::1", "127.0.0.1"]


def test_a_name_that_is_not_known_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    backend, _ = _backend(monkeypatch, {})
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(httpcore2.ConnectError, match=r"server: .*not known"):
        backend.connect_tcp("server", 80, 0.1)
