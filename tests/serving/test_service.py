"""What ends a serving process, and how: in order, answered where possible, never in silence."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rillet.schemas import FlushTimeoutError
from rillet.serving.service import InferenceService


class _Part:
    """A stage that writes down what happens to it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.start_error: Exception | None = None
        self.flush_error: Exception | None = None

    def start(self) -> None:
        self.calls.append(f"start {self.name}")
        if self.start_error is not None:
            raise self.start_error

    def refuse(self) -> None:
        self.calls.append(f"refuse {self.name}")

    def flush(self, timeout_s: float) -> None:
        self.calls.append(f"flush {self.name}")
        if self.flush_error is not None:
            raise self.flush_error

    def close(self) -> None:
        self.calls.append(f"close {self.name}")


class _Service(InferenceService):
    """On parts that only write down their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parts: dict[str, Any] = {name: _Part(name, self.calls) for name in ("engine", "server", "log", "updates")}
        super().__init__(
            engine=self.parts["engine"],
            server=self.parts["server"],
            recorder=self.parts["log"],
            updates=[self.parts["updates"]],
            drain_timeout_s=1.0,
        )


def test_a_stop_refuses_answers_and_flushes_before_anything_is_closed() -> None:
    service = _Service()
    assert service.run(service.stop)
    assert service.calls == [
        "start engine",
        "start log",
        "start server",
        "start updates",
        "refuse engine",
        "flush server",
        "flush log",
        "close updates",
        "close engine",
        "close server",
        "close log",
    ]


def test_what_is_not_flushed_in_time_is_said_and_everything_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    service = _Service()
    service.parts["server"].flush_error = FlushTimeoutError("2 requests are in flight")
    assert not service.run(service.stop)
    assert "2 requests are in flight" in caplog.text
    assert service.calls[-6:-4] == ["flush server", "flush log"]


def test_a_failed_stage_ends_the_service_with_its_error() -> None:
    service = _Service()

    def fail() -> None:
        threading.Thread(target=service.fail, args=(MemoryError("no room"),)).start()

    with pytest.raises(MemoryError, match="no room"):
        service.run(fail)
    assert service.calls[-1] == "close log"


def test_a_start_that_fails_closes_what_was_started() -> None:
    service = _Service()
    service.parts["server"].start_error = OSError("taken")
    with pytest.raises(OSError, match="taken"):
        service.run()
    assert service.calls[3:] == ["close updates", "close engine", "close server", "close log"]
