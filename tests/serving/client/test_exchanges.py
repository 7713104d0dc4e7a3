"""Requests are those of Triton's own client, byte by byte where it matters; answers are read or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from rillet.schemas import RecordError, SpecMismatchError
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
from rillet.serving.features import RequestLayout
from rillet.serving.protocol import format_infer_response, parse_infer_request
from tests.serving.helpers import demo_spec, request_tensor

SPEC = demo_spec(dense=True)
FIDS = request_tensor(np.random.default_rng(3), 4)
FILMS = Candidates(FIDS, np.arange(8).reshape(4, 2), [40, 41, 42, 43], ("watch", "like"))
TABLE = np.array([[0.5, 0.1], [0.2, 0.3], [0.9, 0.8], [0.4, 0.6]], np.float32)


def _read(reply: Reply, candidates: Candidates = FILMS, **options: Any) -> Scores:
    return read_reply(score_exchange("films", candidates, request_id="r1", **options), "http://s", reply, now_s=0.0)


def _encoded(attempt_s: float | None = None, candidates: Candidates = FILMS, **options: Any) -> tuple[bytes, int]:
    """What is sent, and the length of its JSON."""
    headers, content = score_exchange("films", candidates, **options).encode(attempt_s)
    return content, int(headers[JSON_LENGTH])


def _parameters(attempt_s: float | None, **options: Any) -> dict[str, Any]:
    content, length = _encoded(attempt_s, **options)
    parameters: dict[str, Any] = orjson.loads(content[:length]).get("parameters", {})
    return parameters


def _answer(binary: bool = True, logits: np.ndarray = TABLE, **changes: Any) -> Reply:
    content, length = format_infer_response(
        model="films",
        version="7",
        request_id=changes.get("request_id", "r1"),
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
    ours, own_length = _encoded(request_id="r1", log=False, event_time_ms=12, timeout_ms=50)
    assert orjson.loads(ours[:own_length]) == orjson.loads(theirs[:length])
    assert ours[own_length:] == theirs[length:]


def test_the_server_reads_what_was_meant() -> None:
    request = parse_infer_request(*_encoded(request_id="r1", event_time_ms=12, log=False))
    scoring = RequestLayout(SPEC, 10).parse(request, now_ms=99, new_id="x")
    assert (scoring.request_id, scoring.event_time_ms, scoring.log, scoring.rows) == ("r1", 12, False, 4)
    assert scoring.impression_ids.tolist() == [40, 41, 42, 43]
    assert scoring.dense.tolist() == list(range(8))


def test_the_spec_of_the_features_is_told() -> None:
    known = Candidates(FIDS, FILMS.dense, FILMS.impression_ids, FILMS.tasks, SPEC.hash)
    assert _parameters(None, candidates=known) == {"spec_hash": f"{SPEC.hash:#x}"}
    assert "spec_hash" not in _parameters(None)


def test_a_task_that_the_server_does_not_have_yet_has_no_score() -> None:
    logits = TABLE.copy()
    logits[:, 1] = np.nan
    scores = _read(_answer(logits=logits, parameters={"missing_tasks": ["like"]}))
    assert scores.logits[:, 0].tolist() == TABLE[:, 0].tolist()
    assert np.isnan(scores.logits[:, 1]).all()
    with pytest.raises(MalformedAnswerError, match="logits has NaN in 4 places"):
        _read(_answer(logits=logits, parameters={"missing_tasks": ["share"]}))
    with pytest.raises(MalformedAnswerError, match="logits has NaN in 4 places"):
        _read(_answer(logits=logits))


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = set()
    for _ in range(2):
        ids.add(parse_infer_request(*_encoded()).id)
    assert sorted(map(len, ids)) == [32, 32]


@pytest.mark.parametrize(
    ("attempt_s", "timeout_ms", "sent"),
    [(0.5, None, 500), (0.5, 100, 100), (0.05, 100, 50), (None, 100, 100), (None, None, None)],
)
def test_the_server_is_told_for_how_long_the_answer_is_waited_for(
    attempt_s: float | None, timeout_ms: float | None, sent: float | None
) -> None:
    assert _parameters(attempt_s, timeout_ms=timeout_ms).get("timeout_ms") == sent


def test_numbers_of_numpy_are_numbers() -> None:
    parameters = _parameters(None, event_time_ms=np.int64(5), timeout_ms=np.float32(7))
    assert parameters == {"event_time_ms": 5, "timeout_ms": 7}


@pytest.mark.parametrize(
    "wrong",
    [
        {"request_id": ""},
        {"request_id": 5},
        {"request_id": "x" * 513},
        {"request_id": "\ud800"},
        {"event_time_ms": 2**70},
        {"event_time_ms": -1},
        {"event_time_ms": 1.5},
        {"timeout_ms": float("nan")},
        {"timeout_ms": 0},
        {"timeout_ms": 10**400},
        {"timeout_ms": "soon"},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_an_argument_that_no_server_would_take_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=next(iter(wrong))):
        score_exchange("films", FILMS, **wrong)


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
        (Reply(200, {}, b"{}"), "'id'"),
        (Reply(200, {}, b'{"id":"r1"}'), "'outputs'"),
        (Reply(200, {JSON_LENGTH: "many"}, b"{}"), "invalid literal"),
        (_answer(logits=TABLE[:3]), r"logits has shape \(3, 2\) for 4 candidates"),
        (_answer(logits=TABLE[:, :1].copy()), "logits has 1 columns, but the tasks are watch, like"),
        (_answer(logits=TABLE * np.nan), "logits has NaN in 8 places"),
        (_answer(request_id="r2"), "it is to request r2, not to r1"),
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
        (408, ServerUnavailableError, True),
        (413, RequestRefusedError, False),
        (429, ServerBusyError, True),
        (500, RequestRefusedError, False),
        (502, ServerUnavailableError, True),
        (503, ServerUnavailableError, True),
        (504, DeadlineExceededError, True),
    ],
)
def test_each_status_has_its_error_with_the_servers_words(
    status: int, kind: type[ClientError], retryable: bool
) -> None:
    with pytest.raises(ClientError, match=f"POST http://s: answered with {status}: fids: wrong") as caught:
        _read(Reply(status, {"retry-after": "3"}, b'{"error": "fids: wrong"}'))
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_s == (3.0 if status in (408, 429, 502, 503) else None)
    if isinstance(caught.value, RequestRefusedError):
        assert (caught.value.status, caught.value.reason) == (status, "fids: wrong")


def test_a_504_is_final_when_the_caller_set_the_limit() -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        _read(Reply(504, {}, b"{}"), timeout_ms=50)
    assert not caught.value.retryable


def test_a_proxys_page_is_quoted() -> None:
    with pytest.raises(ServerUnavailableError, match="502: <html>bad gateway"):
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
