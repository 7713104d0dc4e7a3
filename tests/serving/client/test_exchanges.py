"""Requests are those of Triton's own client, byte by byte where it matters; answers are read or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from rillet.schemas import SpecMismatchError
from rillet.serving import RequestLayout, format_infer_response, parse_infer_request
from rillet.serving.client import (
    Candidates,
    ClientError,
    DeadlineExceededError,
    MalformedAnswerError,
    ModelMetadata,
    RequestRefusedError,
    Scores,
    ServerBusyError,
    ServerUnavailableError,
)
from rillet.serving.client.exchanges import JSON_LENGTH, Reply, metadata_exchange, read_reply, score_exchange
from tests.serving.helpers import demo_spec, request_tensor

SPEC = demo_spec(dense=True)
FIDS = request_tensor(np.random.default_rng(3), 4)
FILMS = Candidates(FIDS, np.arange(8).reshape(4, 2), [40, 41, 42, 43], ("watch", "like"))
TABLE = np.array([[0.5, 0.1], [0.2, 0.3], [0.9, 0.8], [0.4, 0.6]], np.float32)


def _read(reply: Reply, candidates: Candidates = FILMS, **options: Any) -> Scores:
    return read_reply(score_exchange("films", candidates, **options), "http://s", reply, now_s=0.0)


def _answer(binary: bool = True, logits: np.ndarray = TABLE, **changes: Any) -> Reply:
    content, length = format_infer_response(
        model="films",
        version="7",
        request_id="r1",
        outputs=[("logits", logits, binary), ("scores", TABLE, binary)],
        parameters=changes.get("parameters"),
    )
    return Reply(200, {} if length is None else {JSON_LENGTH: str(length)}, content, attempts=2)


def test_the_request_is_the_one_that_tritons_client_makes() -> None:
    triton = pytest.importorskip("tritonclient.http")
    inputs = []
    tensors = [("fids", "INT64", FILMS.fids), ("impression_ids", "INT64", FILMS.impression_ids)]
    for name, datatype, array in [*tensors, ("dense", "FP32", FILMS.dense)]:
        inputs.append(triton.InferInput(name, array.shape, datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=True)
    theirs, length = triton.InferenceServerClient.generate_request_body(
        inputs,
        outputs=[triton.InferRequestedOutput(name, binary_data=True) for name in ("scores", "logits")],
        request_id="r1",
        parameters={"log": False, "event_time_ms": 12, "timeout_ms": 50},
    )
    ours = score_exchange("films", FILMS, request_id="r1", log=False, event_time_ms=12, timeout_ms=50)
    own_length = int(ours.headers[JSON_LENGTH])
    assert orjson.loads(ours.content[:own_length]) == orjson.loads(theirs[:length])
    assert ours.content[own_length:] == theirs[length:]


def test_the_server_reads_what_was_meant() -> None:
    exchange = score_exchange("films", FILMS, request_id="r1", event_time_ms=12, log=False)
    request = parse_infer_request(exchange.content, int(exchange.headers[JSON_LENGTH]))
    scoring = RequestLayout(SPEC, 10).parse(request, now_ms=99, new_id="x")
    assert (scoring.request_id, scoring.event_time_ms, scoring.log, scoring.rows) == ("r1", 12, False, 4)
    assert scoring.impression_ids.tolist() == [40, 41, 42, 43]
    assert scoring.dense.tolist() == list(range(8))


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = set()
    for _ in range(2):
        exchange = score_exchange("films", FILMS)
        ids.add(parse_infer_request(exchange.content, int(exchange.headers[JSON_LENGTH])).id)
    assert sorted(map(len, ids)) == [32, 32]


def test_a_models_name_cannot_leave_its_place_in_the_path() -> None:
    assert score_exchange("a/b c", FILMS).path == "/v2/models/a%2Fb%20c/infer"


@pytest.mark.parametrize("binary", [True, False])
def test_scores_are_read_in_both_forms_whatever_their_order(binary: bool) -> None:
    scores = _read(_answer(binary, logits=10 * TABLE))
    np.testing.assert_array_equal(scores.scores, TABLE)
    np.testing.assert_array_equal(scores.logits, 10 * TABLE)
    np.testing.assert_array_equal(scores.task("like"), TABLE[:, 1])
    assert (scores.version, scores.request_id, scores.attempts) == ("7", "r1", 2)
    assert scores.scores.flags.aligned


def test_logged_is_what_the_server_did_with_the_features() -> None:
    assert _read(_answer()).logged
    assert not _read(_answer(parameters={"logged": False})).logged
    assert not _read(_answer(), log=False).logged


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="no task 'buy'; there are watch, like"):
        _read(_answer()).task("buy")
    with pytest.raises(KeyError, match=r"give Candidates\.tasks"):
        _read(_answer(), Candidates(FIDS)).task("watch")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(200, {}, b"<html>"), "unexpected character"),
        (Reply(200, {}, b"[]"), "list indices"),
        (Reply(200, {}, b"{}"), "outputs"),
        (Reply(200, {JSON_LENGTH: "many"}, b"{}"), "invalid literal"),
        (_answer(logits=TABLE[:3]), r"logits has shape \(3, 2\) for 4 candidates"),
        (_answer(logits=TABLE[:, :1].copy()), "logits has 1 columns, but the tasks are watch, like"),
        (Reply(200, _answer().headers, _answer().content[:-1]), "scores of shape .* has 32 bytes, 31 are left"),
        (Reply(200, {}, _answer(binary=False).content.replace(b"FP32", b"FP64")), "is FP64, expected FP32"),
    ],
)
def test_an_answer_that_does_not_fit_is_malformed(reply: Reply, problem: str) -> None:
    with pytest.raises(MalformedAnswerError, match=problem):
        _read(reply)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, RequestRefusedError, False),
        (404, RequestRefusedError, False),
        (413, RequestRefusedError, False),
        (429, ServerBusyError, True),
        (500, RequestRefusedError, False),
        (503, ServerUnavailableError, True),
        (504, DeadlineExceededError, False),
    ],
)
def test_each_status_has_its_error_with_the_servers_words(
    status: int, kind: type[ClientError], retryable: bool
) -> None:
    with pytest.raises(ClientError, match=f"POST http://s: answered with {status}: fids: wrong") as caught:
        _read(Reply(status, {"retry-after": "3"}, b'{"error": "fids: wrong"}'))
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_s == (3.0 if status in (429, 503) else None)
    if isinstance(caught.value, RequestRefusedError):
        assert (caught.value.status, caught.value.reason) == (status, "fids: wrong")


def test_a_proxys_page_is_quoted() -> None:
    with pytest.raises(RequestRefusedError, match="502: <html>bad gateway"):
        _read(Reply(502, {}, b"<html>bad gateway\xff" + b"x" * 10_000))


def _metadata(spec_hash: int) -> ModelMetadata:
    document = {
        "name": "films",
        "versions": ["7"],
        "parameters": {"spec": "films", "spec_hash": f"{spec_hash:#x}", "tasks": ["watch", "like"]},
    }
    return read_reply(metadata_exchange("films"), "http://s", Reply(200, {}, orjson.dumps(document)), now_s=0.0)


def test_metadata_tells_whether_client_and_server_have_one_spec() -> None:
    metadata = _metadata(SPEC.hash)
    assert (metadata.name, metadata.versions, metadata.tasks) == ("films", ("7",), ("watch", "like"))
    metadata.check_spec(SPEC)
    with pytest.raises(SpecMismatchError, match="model films is served with feature spec films"):
        metadata.check_spec(demo_spec())
