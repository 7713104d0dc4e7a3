"""What ends a serving process, and how: in order, answered where possible, never in silence."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from rillet.schemas import FlushTimeoutError
from rillet.serving.config import ServingConfig
from rillet.serving.service import InferenceService
from tests.serving.helpers import MODEL, FakeModel, Running, demo_spec, empty_table, request_tensor, running_server


class _Part:
    """A stage that writes down what happens to it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls
        self.start_error: Exception | None = None
        self.flush_error: Exception | None = None
        self.close_error: Exception | None = None

    def start(self) -> None:
        self.calls.append(f"start {self.name}")
        if self.start_error is not None:
            raise self.start_error

    def withdraw(self) -> None:
        self.calls.append(f"withdraw {self.name}")

    def refuse(self) -> None:
        self.calls.append(f"refuse {self.name}")

    def flush(self, timeout_s: float) -> None:
        if self.calls[-1] != f"flush {self.name}":
            self.calls.append(f"flush {self.name}")
        error = self.flush_error  # another thread may clear it meanwhile
        if error is not None:
            threading.Event().wait(timeout_s)
            raise error

    def close(self) -> None:
        if f"close {self.name}" not in self.calls:
            self.calls.append(f"close {self.name}")
        if self.close_error is not None:
            raise self.close_error


class _Service(InferenceService):
    """On parts that only write down their calls."""

    def __init__(self, drain_timeout_s: float = 0.2, notice_s: float = 0.0) -> None:
        self.calls: list[str] = []
        self.parts: dict[str, Any] = {name: _Part(name, self.calls) for name in ("engine", "server", "log", "updates")}
        super().__init__(
            engine=self.parts["engine"],
            server=self.parts["server"],
            recorder=self.parts["log"],
            updates=[self.parts["updates"]],
            drain_timeout_s=drain_timeout_s,
            notice_s=notice_s,
        )


def test_a_failure_ends_the_notice_of_a_stop() -> None:
    service = _Service(notice_s=60.0)

    def stop_and_fail() -> None:
        service.stop()
        threading.Timer(0.05, service.fail, [ValueError("the server is gone")]).start()

    started = time.monotonic()
    with pytest.raises(ValueError, match="the server is gone"):
        service.run(stop_and_fail)
    assert time.monotonic() - started < 5
    assert "flush log" in service.calls


def test_a_stop_refuses_answers_and_ends_the_server_before_it_flushes_what_was_served() -> None:
    service = _Service()
    assert service.run(service.stop)
    assert service.calls == [
        "start log",
        "start server",
        "start engine",
        "start updates",
        "withdraw engine",
        "refuse engine",
        "close updates",
        "flush server",
        "close engine",
        "close server",
        "flush log",
        "close log",
    ]


def test_what_is_not_flushed_in_time_is_said_and_everything_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    service = _Service()
    service.parts["server"].flush_error = FlushTimeoutError("2 requests are in flight")
    assert not service.run(service.stop)
    assert "2 requests are in flight" in caplog.text
    # Once more in between: what the engine gave up is answered.
    assert service.calls[-6:] == [
        "flush server",
        "close engine",
        "flush server",
        "close server",
        "flush log",
        "close log",
    ]


def test_one_deadline_holds_for_requests_and_feature_log_together() -> None:
    service = _Service(0.4)
    for name in ("server", "log"):
        service.parts[name].flush_error = FlushTimeoutError("not done")
    started = time.monotonic()
    assert not service.run(service.stop)
    assert time.monotonic() - started < 0.4 + 0.3


def test_a_second_stop_does_not_wait_for_what_is_in_flight() -> None:
    service = _Service(60.0)
    service.parts["server"].flush_error = service.parts["log"].flush_error = FlushTimeoutError("not done")

    def stop_twice() -> None:
        service.stop()
        threading.Timer(0.05, service.stop).start()

    started = time.monotonic()
    assert not service.run(stop_twice)
    assert time.monotonic() - started < 2.0
    assert service.calls[-1] == "close log"


def test_a_stage_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    service = _Service()
    service.parts["engine"].close_error = RuntimeError("stuck")
    with pytest.raises(RuntimeError, match="stuck"):
        service.run(service.stop)
    assert {"close updates", "close server", "close log"} <= set(service.calls)


def test_a_failed_stage_ends_the_service_with_its_error() -> None:
    service = _Service()

    def fail() -> None:
        threading.Thread(target=service.fail, args=(MemoryError("no room"),)).start()

    with pytest.raises(MemoryError, match="no room"):
        service.run(fail)
    assert service.calls[-1] == "close log"


def test_the_first_stop_after_a_failure_still_answers_what_is_in_flight() -> None:
    service = _Service(5.0)
    service.parts["server"].flush_error = FlushTimeoutError("in flight")

    def answered() -> None:
        service.parts["server"].flush_error = None

    def fail_then_stop() -> None:
        service.fail(MemoryError("no room"))
        threading.Timer(0.05, service.stop).start()
        threading.Timer(0.4, answered).start()

    started = time.monotonic()
    with pytest.raises(MemoryError, match="no room"):
        service.run(fail_then_stop)
    assert 0.4 <= time.monotonic() - started < 3.0


def test_a_start_that_fails_closes_what_was_started() -> None:
    service = _Service()
    service.parts["server"].start_error = OSError("taken")
    with pytest.raises(OSError, match="taken"):
        service.run()
    assert service.calls == ["start log", "start server", "close updates", "close engine", "close server", "close log"]


def _asked(running: Running, statuses: list[int]) -> threading.Thread:
    """A client whose request is on its way."""
    tensor = request_tensor(np.random.default_rng(3), 3)
    entry = {"name": "fids", "datatype": "INT64", "shape": list(tensor.shape), "data": tensor.reshape(-1).tolist()}

    def ask() -> None:
        connection = http.client.HTTPConnection(running.url, timeout=10)
        connection.request("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [entry]}).encode())
        statuses.append(connection.getresponse().status)
        connection.close()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


class _Held:
    """A program that computes when it is let."""

    def __init__(self) -> None:
        self.computing = threading.Event()
        self.release = threading.Event()

    def __call__(self, embeddings: np.ndarray, dense: np.ndarray) -> np.ndarray:
        self.computing.set()
        self.release.wait(10)
        return np.zeros((len(embeddings), 2), np.float32)


def test_a_model_that_hangs_does_not_keep_the_process_from_stopping() -> None:
    held, statuses = _Held(), list[int]()
    model = FakeModel(empty_table(), held)  # type: ignore[arg-type]
    with running_server(demo_spec(), model, ServingConfig(port=0, drain_timeout_s=0.2)) as running:
        asking = _asked(running, statuses)
        assert held.computing.wait(5)
        running.service.stop()
        running.thread.join(5)
        assert not running.thread.is_alive()
        asking.join(5)
        assert statuses == [500]
        assert running.features.events == []
        held.release.set()


def test_what_is_served_during_the_stop_is_in_the_feature_log() -> None:
    held, statuses = _Held(), list[int]()
    model = FakeModel(empty_table(), held)  # type: ignore[arg-type]
    with running_server(demo_spec(), model, ServingConfig(port=0, drain_timeout_s=5.0)) as running:
        asking = _asked(running, statuses)
        assert held.computing.wait(5)
        running.service.stop()
        threading.Timer(0.05, held.release.set).start()
        running.thread.join(5)
        asking.join(5)
    assert statuses == [200]
    assert len(running.features.events) == 1
