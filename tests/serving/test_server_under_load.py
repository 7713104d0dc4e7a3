"""A full queue, deadlines, requests that cannot be scored, a batcher that is stuck: over real sockets."""

from __future__ import annotations

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rillet.schemas import FlushTimeoutError
from rillet.serving.config import ServingConfig
from tests.serving.calls import TENSOR, Gate, document, get, linear_model, post, until
from tests.serving.helpers import (
    MODEL,
    FakeModel,
    Running,
    demo_spec,
    empty_table,
    request_tensor,
    running_server,
)

pytestmark = pytest.mark.integration


def test_a_full_queue_is_429_and_what_waited_is_answered_in_one_call() -> None:
    spec = demo_spec()
    config = ServingConfig(port=0, max_queue_rows=30, max_request_rows=30)
    with running_server(spec, linear_model(spec), config) as running, ThreadPoolExecutor(8) as pool:
        tensor = request_tensor(np.random.default_rng(1), 10)
        usual = sys.getswitchinterval()
        gate = Gate(running)
        waiting = [pool.submit(post, running.url, document(tensor)) for _ in range(3)]
        until(lambda: running.engine.queue_rows == 30)
        status, answer, headers = post(running.url, document(tensor))
        assert (status, headers["retry-after"]) == (429, "1")
        assert "30 rows are waiting" in answer["error"]
        connection = http.client.HTTPConnection(running.url, timeout=10)
        connection.putrequest("POST", f"/v2/models/{MODEL}/infer")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"the rest never comes")
        assert connection.getresponse().status == 429, "before the body is read"
        connection.close()
        assert sys.getswitchinterval() < usual, "the batcher goes first"
        gate.open.set()
        assert [future.result()[0] for future in waiting] == [200, 200, 200]
        until(lambda: sys.getswitchinterval() == usual)
        registry = running.metrics.registry
        assert registry.get_sample_value("rillet_serving_batch_rows_sum") == 30
        assert registry.get_sample_value("rillet_serving_batch_rows_count") == 1
        assert registry.get_sample_value("rillet_serving_rejected_total", {"reason": "queue_full"}) == 2
        assert registry.get_sample_value("rillet_serving_requests_total", {"code": "429"}) == 2


def test_a_request_whose_deadline_passes_in_the_queue_is_504_and_never_computed() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec)) as running, ThreadPoolExecutor(8) as pool:
        gate = Gate(running)
        late = pool.submit(post, running.url, document(TENSOR, timeout_ms=20))
        fine = pool.submit(post, running.url, document(TENSOR, timeout_ms=60_000))
        until(lambda: running.engine.queue_rows == 6)
        time.sleep(0.03)
        gate.open.set()
        assert late.result()[0] == 504
        assert fine.result()[0] == 200
        assert running.metrics.registry.get_sample_value("rillet_serving_batch_rows_sum") == 3
        assert len(running.features.events) == 1


def test_scores_that_come_after_the_deadline_are_504_and_not_logged() -> None:
    spec = demo_spec()
    model = linear_model(spec)
    score = model.program

    def slow(embeddings: np.ndarray, dense: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return score(embeddings, dense)

    model.program = slow
    with running_server(spec, model) as running:
        status, answer, _ = post(running.url, document(TENSOR, timeout_ms=50))
        assert (status, running.features.events) == (504, [])
        assert "too late" in answer["error"]
        assert post(running.url, document(TENSOR, timeout_ms=5_000))[0] == 200
        assert len(running.features.events) == 1


def test_one_request_without_a_finite_score_is_500_alone() -> None:
    spec = demo_spec(dense=True)
    model = FakeModel(empty_table(), lambda embeddings, dense: np.where(dense > 1e15, np.inf, dense))
    with running_server(spec, model) as running, ThreadPoolExecutor(4) as pool:
        gate = Gate(running)
        prices = [1.0, 1e20, 2.0]
        waiting = []
        for at, price in enumerate(prices):
            asked = document(TENSOR)
            asked["inputs"].append({"name": "dense", "datatype": "FP32", "shape": [3, 2], "data": [price] * 6})
            waiting.append(pool.submit(post, running.url, asked))
            until(lambda at=at: running.engine.queue_rows == 3 * (at + 1))  # type: ignore[misc]
        gate.open.set()
        answers = [future.result() for future in waiting]
        assert [status for status, _, _ in answers] == [200, 500, 200]
        assert "not finite" in answers[1][1]["error"]
        assert running.metrics.registry.get_sample_value("rillet_serving_batch_rows_count") == 1
        assert len(running.features.events) == 2


def test_a_stuck_batcher_is_neither_live_nor_ready_and_its_waiting_rows_are_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec), ServingConfig(port=0, stuck_after_s=0.1)) as running:
        with ThreadPoolExecutor(1) as pool:
            assert [get(running.url, f"/v2/health/{probe}")[0] for probe in ("live", "ready")] == [200, 200]
            gate = Gate(running)
            waiting = pool.submit(post, running.url, document(TENSOR))
            until(lambda: get(running.url, "/v2/health/live")[0] == 503)
            assert get(running.url, "/v2/health/ready")[0] == 503
            assert post(running.url, document(TENSOR))[0] == 503
            assert caplog.text.count("self.open.wait(10)") == 1, "where it is stuck, once"
            until(lambda: running.metrics.registry.get_sample_value("rillet_serving_queue_rows") == 3)
            gate.open.set()
            assert waiting.result()[0] == 200
        assert [get(running.url, f"/v2/health/{probe}")[0] for probe in ("live", "ready")] == [200, 200]
        assert running.metrics.registry.get_sample_value("rillet_serving_queue_rows") == 0


def test_a_batcher_that_fails_ends_the_server_and_leaves_nobody_waiting() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec)) as running, ThreadPoolExecutor(1) as pool:
        gate = Gate(running)
        waiting = pool.submit(post, running.url, document(TENSOR))
        until(lambda: running.engine.queue_rows == 3)
        # The queue is not what a failure may come from; any exception outside of scoring ends the thread alike.
        running.engine._batcher._queue.take = None  # type: ignore[assignment, method-assign]
        gate.open.set()
        status, answer, _ = waiting.result()
        assert (status, "the batcher failed" in answer["error"]) == (500, True)
        running.thread.join(10)
        assert not running.thread.is_alive()
        assert isinstance(running.failures.pop(), TypeError)


def test_requests_in_flight_are_answered_when_the_server_stops() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec)) as running, ThreadPoolExecutor(4) as pool:
        gate = Gate(running)
        waiting = [pool.submit(post, running.url, document(TENSOR)) for _ in range(3)]
        until(lambda: running.engine.queue_rows == 9)
        running.service.stop()
        until(lambda: not running.engine.ready)
        gate.open.set()
        assert [future.result()[0] for future in waiting] == [200, 200, 200]
        running.thread.join(10)
        assert not running.thread.is_alive()


def test_a_server_that_stops_goes_on_until_a_load_balancer_has_noticed() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec), ServingConfig(port=0, drain_notice_s=60.0)) as running:
        running.service.stop()
        until(lambda: get(running.url, "/v2/health/ready")[0] == 503)
        assert post(running.url, document(TENSOR))[0] == 200
        assert get(running.url, "/v2/health/live")[0] == 200
        running.service.stop()  # a second one waits for nothing more
        running.thread.join(10)
        assert not running.thread.is_alive()
        assert len(running.features.events) == 1


def _in_flight(running: Running) -> bool:
    try:
        running.service.server.flush(0.0)
    except FlushTimeoutError:
        return True
    return False


def test_a_request_whose_body_arrives_during_the_stop_is_answered() -> None:
    spec = demo_spec()
    body = json.dumps(document(TENSOR)).encode()
    with running_server(spec, linear_model(spec)) as running:
        connection = http.client.HTTPConnection(running.url, timeout=10)
        connection.putrequest("POST", f"/v2/models/{MODEL}/infer")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:20])
        until(lambda: _in_flight(running))
        running.service.stop()
        until(lambda: post(running.url, document(TENSOR))[0] == 503)
        connection.send(body[20:])
        assert connection.getresponse().status == 200
        connection.close()
        running.thread.join(10)
        assert not running.thread.is_alive()
