"""Requests to a server by hand, and a gate that holds its batcher."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import numpy as np

from rillet.schemas import FeatureSpec
from tests.serving.helpers import (
    MODEL,
    FakeModel,
    Linear,
    Running,
    empty_table,
    program,
    request_tensor,
)


def linear_model(spec: FeatureSpec) -> FakeModel:
    """A model whose logits are the sums of its rows' first column."""
    return FakeModel(empty_table(), program(Linear(len(spec.tasks)), spec))


def post(url: str, body: Any, path: str = f"/v2/models/{MODEL}/infer", **headers: str) -> tuple[int, Any, Any]:
    """Status, decoded body and headers of the answer."""
    connection = http.client.HTTPConnection(url, timeout=10)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers
    finally:
        connection.close()


def get(url: str, path: str) -> tuple[int, Any]:
    """Status and decoded body of the answer."""
    connection = http.client.HTTPConnection(url, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def document(tensor: np.ndarray, **parameters: Any) -> dict[str, Any]:
    """An infer request in JSON."""
    entry = {"name": "fids", "datatype": "INT64", "shape": list(tensor.shape), "data": tensor.reshape(-1).tolist()}
    return {"inputs": [entry], "parameters": parameters}


TENSOR = request_tensor(np.random.default_rng(8), 3)


class Gate:
    """Holds the batcher between two batches until opened, so that requests pile up."""

    def __init__(self, running: Running) -> None:
        self.open = threading.Event()
        self._held = threading.Event()
        running.model.updates = self._hold
        running.engine.wake()
        assert self._held.wait(5)

    def _hold(self, budget_s: float) -> bool:
        self._held.set()
        self.open.wait(10)
        return False


def until(condition: Any) -> None:
    """Waits for what another thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
