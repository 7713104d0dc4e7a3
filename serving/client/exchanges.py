"""One request and how its answer is read, as values: the Open Inference Protocol seen from the client. No I/O.

Tensors go both ways in the binary form; answers in JSON are read, too. Sources: KServe "Open Inference Protocol,
HTTP/REST", Triton "Binary tensor data extension".
"""

from __future__ import annotations

import math
import operator
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
import orjson

from rillet.schemas import MAX_TIME_MS, FeatureSpec, RecordError, SpecMismatchError
from rillet.schemas.arrays import AnyArray, Float32s
from rillet.serving.client.attempts import parse_retry_after
from rillet.serving.client.candidates import Candidates
from rillet.serving.client.errors import (
    ClientError,
    DeadlineExceededError,
    MalformedAnswerError,
    RequestRefusedError,
    ServerBusyError,
    ServerUnavailableError,
)

JSON_LENGTH = "inference-header-content-length"
_OUTPUTS = ("scores", "logits")
_QUOTED_CHARACTERS = 300
#: What the server accepts.
MAX_ID_CHARACTERS = 512
_MAX_TIMEOUT_MS = 1e12
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The answer to one request: N candidates, T tasks.

    :param scores: probabilities float32[N, T]; NaN for a task of a newer feature spec than the server has.
    :param logits: float32[N, T], likewise.
    :param version: of the model that scored them.
    :param request_id: under which the features were logged; actions have to carry it.
    :param logged: whether the server took the features for its log, to be learned from; False when asked not to, or when
        it could not.
    :param tasks: names of the columns; empty when the candidates did not say.
    :param attempts: how often the request was sent.
    """

    scores: Float32s
    logits: Float32s
    version: str
    request_id: str
    logged: bool
    tasks: tuple[str, ...] = ()
    attempts: int = 1

    def task(self, name: str) -> Float32s:
        """Probabilities float32[N] of one task.

        :raises KeyError: no such task, or candidates without task names.

        >>> table = np.array([[0.25, 0.5]], np.float32)
        >>> Scores(table, table, "1", "r1", True, ("watch", "like")).task("like").tolist()
        [0.5]
        """
        if name not in self.tasks:
            raise KeyError(f"no task {name!r}; there are {', '.join(self.tasks) or 'no names: give Candidates.tasks'}")
        column: Float32s = self.scores[:, self.tasks.index(name)]
        return column


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server says about its model; ``versions`` is empty while none is loaded."""

    name: str
    versions: tuple[str, ...]
    spec: str
    spec_hash: int
    tasks: tuple[str, ...]
    #: hashes of the feature specs whose requests are answered too
    also_accepts: tuple[int, ...] = ()

    def check_spec(self, spec: FeatureSpec) -> None:
        """Refuses to go on with a feature spec that the server does not take: fids would mean something else there.

        :raises SpecMismatchError: names both.
        """
        if spec.hash not in (self.spec_hash, *self.also_accepts):
            raise SpecMismatchError(
                f"model {self.name} is served with feature spec {self.spec} ({self.spec_hash:#x}), "
                f"ours is {spec.name} ({spec.hash:#x})",
                self.spec_hash,
            )


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Result]):
    """A request, and what its 200 means.

    :param path: relative to the server's address.
    :param encode: headers and content of the next attempt, given how many seconds it may take (None for no limit).
    :param timeout_ms: the caller's own limit on waiting at the server: a 504 is final then.
    """

    method: str
    path: str
    read: Callable[[Reply], Result]
    encode: Callable[[float | None], tuple[Mapping[str, str], bytes]] = lambda attempt_s: ({}, b"")
    timeout_ms: float | None = None


def score_exchange(
    model: str,
    candidates: Candidates,
    *,
    request_id: str | None = None,
    event_time_ms: int | None = None,
    log: bool = True,
    timeout_ms: float | None = None,
) -> Exchange[Scores]:
    """Scores ``candidates``. See :meth:`rillet.serving.client.Client.score`.

    :raises RecordError: an argument that no server would take.

    >>> exchange = score_exchange("films", Candidates([[281474976710663, 4503599627370513]]), request_id="r1")
    >>> headers, content = exchange.encode(0.5)
    >>> exchange.method, exchange.path, len(content) - int(headers[JSON_LENGTH])
    ('POST', '/v2/models/films/infer', 24)
    """
    # Always of the client's making: sent again after a lost answer, a request keeps its id, and the joiner drops
    # the second copy of its features.
    request_id = uuid.uuid4().hex if request_id is None else _checked_id(request_id)
    timeout_ms = None if timeout_ms is None else _checked_timeout(timeout_ms)
    tensors: list[tuple[str, str, AnyArray]] = [
        ("fids", "INT64", candidates.fids),
        ("impression_ids", "INT64", candidates.impression_ids),
    ]
    if candidates.dense is not None:
        tensors.append(("dense", "FP32", candidates.dense))
    document: dict[str, Any] = {
        "id": request_id,
        "inputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": tensor.nbytes},
            }
            for name, datatype, tensor in tensors
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in _OUTPUTS],
    }
    # What is not asked for is not sent: the server has defaults of its own.
    parameters: dict[str, Any] = {} if log else {"log": False}
    if candidates.spec_hash is not None:
        parameters["spec_hash"] = f"{candidates.spec_hash:#x}"
    if event_time_ms is not None:
        parameters["event_time_ms"] = _checked_time(event_time_ms)
    binary = b"".join(tensor.tobytes() for _, _, tensor in tensors)

    def encode(attempt_s: float | None) -> tuple[Mapping[str, str], bytes]:
        # The server drops what waits for longer than anyone waits for it.
        limits = [timeout_ms, None if attempt_s is None else 1000 * attempt_s]
        limit_ms = min((limit for limit in limits if limit is not None), default=None)
        sent = parameters if limit_ms is None else {**parameters, "timeout_ms": limit_ms}
        text = orjson.dumps({**document, "parameters": sent} if sent else document)
        return {JSON_LENGTH: str(len(text)), "content-type": "application/octet-stream"}, text + binary

    def read(reply: Reply) -> Scores:
        return _read_scores(reply, candidates, request_id, log)

    return Exchange("POST", f"{model_path(model)}/infer", read, encode, timeout_ms)


def metadata_exchange(model: str) -> Exchange[ModelMetadata]:
    """What the server says about its model."""
    return Exchange("GET", model_path(model), _read_metadata)


def ready_exchange(model: str) -> Exchange[bool]:
    """True from a server that scores requests for ``model`` now; one that does not answers 503."""
    return Exchange("GET", f"{model_path(model)}/ready", lambda reply: True)


def read_reply(exchange: Exchange[Result], url: str, reply: Reply, now_s: float) -> Result:
    """The result of a reply.

    :param url: where it came from, for messages.
    :param now_s: wall clock in seconds since 1970.
    :raises ClientError: anything but a 200 that can be read.
    """
    if reply.status == 200:
        try:
            return exchange.read(reply)
        # Whatever another program may have answered: it must not surface as a KeyError somewhere in here.
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MalformedAnswerError(f"{exchange.method} {url}: the answer cannot be read: {error}") from error
    raise _failure(exchange, url, reply, now_s)


def _failure(exchange: Exchange[object], url: str, reply: Reply, now_s: float) -> ClientError:
    reason = _reason(reply.content)
    message = f"{exchange.method} {url}: answered with {reply.status}: {reason}"
    after_s = parse_retry_after(reply.headers.get("retry-after"), now_s)
    if reply.status == 429:
        return ServerBusyError(message, retryable=True, retry_after_s=after_s)
    # 408: the request did not arrive whole, as when its connection was about to be closed. 502: a proxy whose server
    # restarts.
    if reply.status in (408, 502, 503):
        return ServerUnavailableError(message, retryable=True, retry_after_s=after_s)
    if reply.status == 504:
        return DeadlineExceededError(message, retryable=exchange.timeout_ms is None)
    return RequestRefusedError(message, status=reply.status, reason=reason)


def _reason(content: bytes) -> str:
    """The protocol's ``error``, or the beginning of whatever a proxy answered instead."""
    try:
        return str(orjson.loads(content)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return content[:_QUOTED_CHARACTERS].decode("utf-8", "replace")


def _read_scores(reply: Reply, candidates: Candidates, request_id: str, log: bool) -> Scores:
    length = int(reply.headers.get(JSON_LENGTH, len(reply.content)))
    document = orjson.loads(reply.content[:length])
    if document["id"] != request_id:
        raise ValueError(f"it is to request {str(document['id'])[:40]}, not to {request_id[:40]}")
    outputs: dict[str, Float32s] = {}
    offset = length
    for entry in document["outputs"]:
        array, offset = _read_tensor(entry, reply.content, offset)
        outputs[entry["name"]] = array
    parameters = document.get("parameters") or {}
    missing = parameters.get("missing_tasks", [])
    answered = [at for at, task in enumerate(candidates.tasks) if task not in missing] if missing else slice(None)
    for name in _OUTPUTS:
        if outputs[name].ndim != 2 or len(outputs[name]) != len(candidates):
            raise ValueError(f"{name} has shape {outputs[name].shape} for {len(candidates)} candidates")
        if candidates.tasks and outputs[name].shape[1] != len(candidates.tasks):
            raise ValueError(
                f"{name} has {outputs[name].shape[1]} columns, but the tasks are {', '.join(candidates.tasks)}: is "
                f"another feature spec served?"
            )
        if nans := int(np.isnan(outputs[name][:, answered]).sum()):
            raise ValueError(f"{name} has NaN in {nans} places")
    return Scores(
        scores=outputs["scores"],
        logits=outputs["logits"],
        version=str(document["model_version"]),
        request_id=request_id,
        logged=bool(parameters.get("logged", log)),
        tasks=candidates.tasks,
        attempts=reply.attempts,
    )


def _read_tensor(entry: Mapping[str, Any], content: bytes, offset: int) -> tuple[Float32s, int]:
    """One output, and where the next one's bytes begin."""
    shape = entry["shape"]
    if entry["datatype"] != "FP32":
        raise ValueError(f"{entry['name']} is {entry['datatype']}, expected FP32")
    size = (entry.get("parameters") or {}).get("binary_data_size")
    if size is None:
        return np.array(entry["data"], np.float32).reshape(shape), offset
    if size != 4 * math.prod(shape) or offset + size > len(content):
        raise ValueError(f"{entry['name']} of shape {shape} has {size} bytes, {len(content) - offset} are left")
    # Copied: a view would keep the whole answer alive, at an address that may be unaligned.
    return np.frombuffer(content, "<f4", math.prod(shape), offset).astype(np.float32).reshape(shape), offset + size


def _read_metadata(reply: Reply) -> ModelMetadata:
    document = orjson.loads(reply.content)
    parameters = document["parameters"]
    return ModelMetadata(
        name=document["name"],
        versions=tuple(document["versions"]),
        spec=parameters["spec"],
        spec_hash=int(parameters["spec_hash"], 16),
        tasks=tuple(parameters["tasks"]),
        also_accepts=tuple(int(spec_hash, 16) for spec_hash in parameters.get("also_accepts", ())),
    )


def model_path(model: str) -> str:
    """Where a server answers for a model.

    :raises ClientError: the name cannot be sent.
    """
    try:
        return f"/v2/models/{quote(model, safe='')}"
    except (TypeError, UnicodeError) as error:
        raise ClientError(f"model: {model!r} is not the name of a model: {error}") from error


def _checked_id(value: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS:
        raise RecordError(f"request_id: {str(value)[:40]!r} is not a string of 1 to {MAX_ID_CHARACTERS} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"request_id: {value[:40]!r} is not Unicode: {error.reason}") from error
    return value


def _checked_time(value: int) -> int:
    try:
        time_ms = operator.index(value)
    except TypeError as error:
        raise RecordError(f"event_time_ms: {value!r} is not an integer") from error
    if not 0 <= time_ms < MAX_TIME_MS:
        raise RecordError(f"event_time_ms: {time_ms} is not a time in ms since 1970, below {MAX_TIME_MS}")
    return time_ms


def _checked_timeout(value: float) -> float:
    try:
        milliseconds = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"timeout_ms: {str(value)[:40]!r} is not a number") from error
    if not 0 < milliseconds < _MAX_TIMEOUT_MS:
        raise RecordError(f"timeout_ms: {milliseconds} is not positive and below {_MAX_TIMEOUT_MS:g}")
    return milliseconds
