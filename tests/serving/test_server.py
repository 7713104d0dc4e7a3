"""The server over real sockets, seen through Triton's own client and through a plain one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from rillet.schemas import make_fids
from rillet.serving.config import ServingConfig
from tests.serving.calls import TENSOR, document, linear_model, post
from tests.serving.helpers import (
    MODEL,
    WIDTH,
    FakeModel,
    Linear,
    Running,
    demo_spec,
    empty_table,
    program,
    request_tensor,
    running_server,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server whose scores say which films are known: film f has linear weight f / 1000."""
    spec = demo_spec()
    model = linear_model(spec)
    films = np.arange(1, 3001)
    values = np.zeros((3000, WIDTH), np.float32)
    values[:, 0] = films / 1000
    model.table.upsert(make_fids(16, films), values)
    with running_server(spec, model) as running:
        yield running


def _inputs(tensor: np.ndarray, binary: bool = True) -> list[Any]:
    fids = triton.InferInput("fids", tensor.shape, "INT64")
    fids.set_data_from_numpy(tensor, binary_data=binary)
    return [fids]


def test_health_and_metadata_are_what_the_reference_client_expects(server: Running) -> None:
    client = triton.InferenceServerClient(server.url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata(MODEL)
    assert metadata["name"] == MODEL
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0] == {"name": "fids", "datatype": "INT64", "shape": [-1, 13]}
    assert metadata["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, 2]},
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_scores_are_the_models_in_every_form(server: Running, binary_in: bool, binary_out: bool | None) -> None:
    tensor = request_tensor(np.random.default_rng(3), 10)
    outputs = (
        binary_out
        if binary_out is None
        else [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "scores")]
    )
    client = triton.InferenceServerClient(server.url)
    result = client.infer(MODEL, _inputs(tensor, binary_in), outputs=outputs, request_id="r7")
    films = (tensor[:, 5] & ((1 << 48) - 1)) / 1000
    np.testing.assert_allclose(result.as_numpy("logits"), np.stack([films, films], axis=1), rtol=1e-6)
    np.testing.assert_allclose(result.as_numpy("scores")[:, 0], 1 / (1 + np.exp(-films)), rtol=1e-5)
    assert result.get_response()["id"] == "r7"
    assert ("binary_data_size" in json.dumps(result.get_response())) == (binary_out is not False)


def test_only_the_outputs_asked_for_are_sent(server: Running) -> None:
    tensor = request_tensor(np.random.default_rng(3), 2)
    client = triton.InferenceServerClient(server.url)
    result = client.infer(MODEL, _inputs(tensor), outputs=[triton.InferRequestedOutput("logits")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["logits"]


def test_what_was_served_is_logged_with_its_logits_unless_told_not_to(server: Running) -> None:
    spec = demo_spec()
    tensor = request_tensor(np.random.default_rng(5), 4)
    client = triton.InferenceServerClient(server.url)
    ids = triton.InferInput("impression_ids", [4], "INT64")
    ids.set_data_from_numpy(np.array([40, 41, 42, 43]))
    inputs = [*_inputs(tensor), ids]
    before = len(server.features.events)
    client.infer(MODEL, inputs, request_id="quiet", parameters={"log": False})
    result = client.infer(MODEL, inputs, request_id="loud", parameters={"event_time_ms": 978_300_000_000})
    logged = server.features.events[before:]
    assert [event.request_id for event in logged] == ["loud"]
    spec.check_feature(logged[0])
    assert logged[0].event_time_ms == 978_300_000_000
    assert logged[0].impression_ids.tolist() == [40, 41, 42, 43]
    assert (logged[0].model, logged[0].model_version) == (MODEL, 1)
    np.testing.assert_array_equal(logged[0].served_logits, result.as_numpy("logits").reshape(-1))


def test_a_request_without_id_is_given_one_that_its_log_bears_too(server: Running) -> None:
    _, answer, _ = post(server.url, document(request_tensor(np.random.default_rng(6), 2)))
    assert len(answer["id"]) == 32
    assert server.features.events[-1].request_id == answer["id"]


_COLUMNS = "user, age, gender, occupation, zip, film, year, genres x 6"


def _with(row: int, column: int, value: int) -> np.ndarray:
    tensor = TENSOR.copy()
    tensor[row, column] = value
    return tensor


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "body: not JSON"),
        (document(TENSOR[:, :5]), 400, f"fids.shape: [3, 5], expected [N, 13]: {_COLUMNS} of feature spec "),
        (document(_with(1, 5, int(make_fids(99, [1])[0]))), 400, "expected a fid of slot 16"),
        (document(_with(2, 0, int(make_fids(1, [99_999])[0]))), 400, "fids[2][0]: a context column must be equal"),
        (document(TENSOR, event_time_ms="now"), 400, "parameters.event_time_ms"),
        (document(TENSOR, timeout_ms=-1), 400, "parameters.timeout_ms"),
        ({**document(TENSOR), "outputs": [{"name": "labels"}]}, 400, "outputs[0].name"),
    ],
)
def test_a_bad_request_is_400_with_its_field(server: Running, body: Any, status: int, message: str) -> None:
    found, answer, headers = post(server.url, body)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert headers["content-type"] == "application/json"


def test_errors_around_the_body_have_the_protocols_form(server: Running) -> None:
    good = document(TENSOR)
    assert post(server.url, good, "/v2/models/other/infer")[0] == 404
    assert post(server.url, good, f"/v2/models/{MODEL}/versions/1/infer")[0] == 200
    status, answer, _ = post(server.url, good, f"/v2/models/{MODEL}/versions/7/infer")
    assert (status, "version 1 is" in answer["error"]) == (404, True)
    assert post(server.url, good, "/v2/nowhere")[0] == 404
    assert post(server.url, good, f"/v2/models/{MODEL}")[0] == 405
    assert "Content-Encoding" in post(server.url, good, **{"Content-Encoding": "gzip"})[1]["error"]
    header = {"Inference-Header-Content-Length": "-3"}
    assert "Inference-Header-Content-Length" in post(server.url, good, **header)[1]["error"]


def test_a_dense_number_that_is_not_finite_is_400() -> None:
    spec = demo_spec(dense=True)
    with running_server(spec, linear_model(spec)) as running:
        client = triton.InferenceServerClient(running.url)
        dense = triton.InferInput("dense", [3, 2], "FP32")
        numbers = np.zeros((3, 2), np.float32)
        dense.set_data_from_numpy(numbers)
        assert client.infer(MODEL, [*_inputs(TENSOR), dense]).as_numpy("scores").shape == (3, 2)
        numbers[1, 1] = np.nan
        dense.set_data_from_numpy(numbers)
        with pytest.raises(InferenceServerException, match=r"dense\[1\]\[1\]: not finite") as caught:
            client.infer(MODEL, [*_inputs(TENSOR), dense])
        assert caught.value.status() == "400"


def test_a_body_above_the_limit_is_413() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec), ServingConfig(port=0, max_body_bytes=1000)) as running:
        status, answer, _ = post(running.url, document(request_tensor(np.random.default_rng(1), 30)))
        assert (status, "max_body_bytes" in answer["error"]) == (413, True)


def test_a_model_that_is_not_there_yet_is_live_but_not_ready() -> None:
    spec = demo_spec()
    model = linear_model(spec)
    model.ready = False
    with running_server(spec, model) as running:
        client = triton.InferenceServerClient(running.url)
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready(MODEL)
        assert client.get_model_metadata(MODEL)["versions"] == []
        assert post(running.url, document(TENSOR))[0] == 503
        model.ready = True
        assert client.is_server_ready()
        assert post(running.url, document(TENSOR))[0] == 200


def test_a_full_feature_log_costs_the_event_and_not_the_answer() -> None:
    spec = demo_spec()
    with running_server(spec, linear_model(spec), capacity=1) as running:
        answers = [post(running.url, document(TENSOR)) for _ in range(2)]
        assert [answer[0] for answer in answers] == [200, 200]
        assert answers[0][1]["parameters"] == {"logged": True}
        assert answers[1][1]["parameters"] == {"logged": False}


def test_updates_while_serving_change_scores_and_no_request_sees_half_a_row() -> None:
    """Each update writes one value into all columns of all films; the program tells when columns differ."""
    spec = demo_spec()
    films = make_fids(16, np.arange(3000))
    model = FakeModel(empty_table(), program(_Uniform(), spec))
    model.table.upsert(films, np.zeros((3000, WIDTH), np.float32))
    state = {"value": 0, "next": 3000}

    def update(budget_s: float) -> bool:
        if state["next"] >= len(films):
            state["value"] += 1
            state["next"] = 0
        part = films[state["next"] : state["next"] + 500]
        model.table.upsert(part, np.full((len(part), WIDTH), state["value"], np.float32))
        state["next"] += 500
        return True

    model.updates = update
    seen: set[float] = set()
    with running_server(spec, model) as running:
        running.engine.wake()
        rng = np.random.default_rng(0)

        def ask(_: int) -> np.ndarray:
            client = triton.InferenceServerClient(running.url)
            tensor = request_tensor(rng, 50)
            tensor[:, :5] = tensor[0, :5]
            answers = [client.infer(MODEL, _inputs(tensor)).as_numpy("logits") for _ in range(40)]
            return np.concatenate(answers)

        logits = np.concatenate([ask(n) for n in range(3)])
        seen = set(logits[:, 0].tolist())
        assert (logits[:, 1] == 0).all()  # spread within a row
        assert len(seen) > 10  # the scores moved on
        assert len(running.features.events) == 120


class _Uniform(Linear):
    """First logit: the film's value. Second: how far its columns differ, 0 in every whole row."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, embeddings: Any, dense: Any) -> Any:
        import torch

        film = embeddings[:, 5, :]
        spread = film.max(1).values - film.min(1).values
        return torch.stack([film[:, 0], spread], dim=1) + 0 * self.bias + 0 * dense.sum()


def test_metrics_have_the_projects_names_and_count(server: Running) -> None:
    connection = http.client.HTTPConnection(server.url, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    for name in (
        'rillet_serving_requests_total{code="200"}',
        "rillet_serving_request_seconds_bucket",
        "rillet_serving_batch_rows_bucket",
        "rillet_serving_queue_rows",
        "rillet_serving_unknown_fids_total",
        "rillet_freshness_seconds_bucket",
        'rillet_serving_feature_events_total{result="appended"}',
    ):
        assert f"\n{name}" in text
