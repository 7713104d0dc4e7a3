"""Open Inference Protocol V2 over ASGI: paths, headers and status codes. No sockets and no scoring here.

``infer`` is answered before Starlette's middleware and router see it: they cost more than the request.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata

import numpy as np
import orjson
from prometheus_client import exposition
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rillet.schemas import BackpressureError, ClosedError, SpecRegistry
from rillet.schemas.arrays import Float32s
from rillet.serving.config import ServingConfig
from rillet.serving.engine import Engine, Scored
from rillet.serving.errors import ClientGoneError, InvalidRequestError, RequestError, ScoringError, UnknownModelError
from rillet.serving.feature_log import FeatureRecorder
from rillet.serving.features import ScoreRequest, timeout_ms
from rillet.serving.http_body import Bodies, Body, is_gone
from rillet.serving.metrics import ServingMetrics
from rillet.serving.protocol import (
    InferRequest,
    format_error,
    format_infer_response,
    parse_infer_request,
    parse_json_length,
)
from rillet.serving.request_specs import RequestSpecs, SpecOfRequest

log = logging.getLogger(__name__)

_JSON = b"application/json"
_BINARY = b"application/octet-stream"
_OUTPUTS = ("scores", "logits")


class InferenceApp:
    """The ASGI application of one model."""

    def __init__(
        self,
        *,
        model: str,
        specs: SpecRegistry,
        engine: Engine,
        recorder: FeatureRecorder | None,
        metrics: ServingMetrics,
        config: ServingConfig,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """
        :param model: name under which it is served.
        :param specs: whose requests are answered; the current one is the model's.
        :param recorder: where served features go; None serves without logging them.
        :param now_ms: wall clock: the event time of requests that have none.
        """
        self._model = model
        self._spec = specs.current
        self._engine = engine
        self._recorder = recorder
        self._metrics = metrics
        self._config = config
        self._now_ms = now_ms
        self._specs = RequestSpecs(specs, config.max_request_rows)
        self._infer_path = f"/v2/models/{model}/infer"
        # Random once and counted from there: asking the system for randomness costs more than the rest of a request.
        self._id_prefix = uuid.uuid4().hex[:20]
        self._id_count = itertools.count()
        self._bodies = Bodies(config.max_body_bytes, config.max_bodies_bytes, config.body_timeout_s)
        self._in_flight = 0
        self._rest = Starlette(
            routes=self._routes(), exception_handlers={HTTPException: _http_error, RequestError: _request_error}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_flight += 1
        try:
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == self._infer_path:
                await self._infer(scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        finally:
            self._in_flight -= 1

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet; written by the event loop's thread only."""
        return self._in_flight

    def _routes(self) -> list[Route]:
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/metrics", self._scrape),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(prefix, self._metadata),
                Route(f"{prefix}/ready", self._model_ready),
                Route(f"{prefix}/infer", _Asgi(self._infer), methods=["POST"]),
            ]
        return routes

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_s = self._engine.clock()
        # Left before the answer is sent: a client that does not read it must not hold room that others need.
        with Body(self._bodies, scope) as body:
            status, headers, answer = await self._answered(body, scope, receive, arrived_s)
        self._metrics.answered(status, self._engine.clock() - arrived_s)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answered(
        self, asked: Body, scope: Scope, receive: Receive, arrived_s: float
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of the answer; nothing else of the request outlives the call."""
        json_length: int | None = None
        status = 200
        try:
            self._check_model(scope.get("path_params", {}))
            self._engine.admit()
            json_header = asked.json_length_header()
            body = await asked.read(receive)
            request = parse_infer_request(body, parse_json_length(json_header, len(body)))
            outputs = _wanted(request)
            spec = self._specs.of(request.parameters)
            scoring = spec.parse(request, self._now_ms(), self._new_id())
            timeout = timeout_ms(request, self._config.default_timeout_ms)
            scored = await self._engine.score(scoring, timeout, arrived_s)
            # A page that nobody gets is not shown, so it must not be logged as if it were.
            if is_gone(receive):
                raise ClientGoneError("the client closed the connection")
            body, json_length = self._answer(spec, scoring, scored, outputs)
        except RequestError as error:
            status, body = error.status, format_error(str(error))
            self._metrics.rejected(error.reason)
        # A fault of ours must answer as the protocol says, too; the log has the trace.
        except Exception as error:
            log.exception("answering an infer request failed")
            status, body = 500, format_error(f"internal error: {type(error).__name__}: {error}")
            self._metrics.rejected(ScoringError.reason)
        headers = [
            (b"content-type", _JSON if json_length is None else _BINARY),
            (b"content-length", str(len(body)).encode()),
        ]
        if json_length is not None:
            headers.append((b"inference-header-content-length", str(json_length).encode()))
        if status in (429, 503):
            headers.append((b"retry-after", b"1"))
        # What follows on the connection of a body that does not come is not a request; and at a stop clients that keep
        # their connections have to make others, to whoever takes the next requests.
        if status == 408 or asked.waits or (asked.complete and self._engine.withdrawn):
            headers.append((b"connection", b"close"))
        return status, headers, body

    def _answer(
        self, spec: SpecOfRequest, request: ScoreRequest, scored: Scored, outputs: tuple[tuple[str, bool], ...]
    ) -> tuple[bytes, int | None]:
        """Logs what was served, then formats it."""
        logged = False
        if request.log and self._recorder is not None:
            event = request.to_event(self._spec, scored.logits, self._model, scored.version)
            with suppress(BackpressureError, ClosedError):  # the recorder counts it, and the answer says it
                self._recorder.submit(event)
                logged = True
        logits, missing = spec.columns(scored.logits), spec.missing_tasks
        arrays = {"logits": logits}
        if any(name == "scores" for name, _ in outputs):
            arrays["scores"] = _sigmoid(logits)
        return format_infer_response(
            model=self._model,
            version=str(scored.version),
            request_id=request.request_id,
            outputs=[(name, arrays[name], binary) for name, binary in outputs],
            parameters={"logged": logged, **({"missing_tasks": missing} if missing else {})},
        )

    def _new_id(self) -> str:
        """A request id of 32 hexadecimal digits, unique over servers and restarts."""
        return f"{self._id_prefix}{next(self._id_count):012x}"

    def _check_model(self, path: dict[str, str]) -> None:
        """
        :raises UnknownModelError: a model or version that is not served now.
        """
        model = path.get("model", self._model)
        if model != self._model:
            raise UnknownModelError(f"model {model[:80]!r} is not served here; {self._model!r} is")
        version = path.get("version")
        if version is not None and not (self._engine.model.ready and version == str(self._engine.model.version)):
            now = f"version {self._engine.model.version} is" if self._engine.model.ready else "none is yet"
            raise UnknownModelError(f"version {version[:80]!r} of {self._model} is not served; {now}")

    async def _server(self, request: Request) -> Response:
        return _json({"name": "rillet", "version": _version(), "extensions": ["binary_tensor_data"]})

    async def _live(self, request: Request) -> Response:
        live = self._engine.live
        return _json({"live": live}, 200 if live else 503)

    async def _ready(self, request: Request) -> Response:
        ready = self._engine.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        self._check_model(request.path_params)
        ready = self._engine.ready
        return _json({"name": self._model, "ready": ready}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        self._check_model(request.path_params)
        model = self._engine.model
        tasks = [task.name for task in self._spec.tasks]
        return _json(
            {
                "name": self._model,
                "versions": [str(model.version)] if model.ready else [],
                "platform": "rillet",
                "inputs": self._specs.ours.layout.inputs(),
                "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, len(tasks)]} for name in _OUTPUTS],
                "parameters": {
                    "spec": self._spec.name,
                    "spec_hash": f"{self._spec.hash:#x}",
                    "tasks": tasks,
                    "also_accepts": [f"{spec.hash:#x}" for spec in self._specs.also_accepted],
                },
            }
        )

    async def _scrape(self, request: Request) -> Response:
        text, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
        return Response(text(self._metrics.registry), media_type=content_type)


class _Asgi:
    """Makes Starlette's Route take a bare ASGI callable instead of wrapping it in a Request."""

    def __init__(self, call: Callable[[Scope, Receive, Send], object]) -> None:
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._call(scope, receive, send)  # type: ignore[misc]


def _wanted(request: InferRequest) -> tuple[tuple[str, bool], ...]:
    """The outputs to send: (name, as binary).

    :raises InvalidRequestError: an output that the model does not have.
    """
    if request.outputs is None:
        return tuple((name, request.binary_default) for name in _OUTPUTS)
    for index, (name, _) in enumerate(request.outputs):
        if name not in _OUTPUTS:
            raise InvalidRequestError(f"outputs[{index}].name", f"{name[:40]!r} is none of {', '.join(_OUTPUTS)}")
    return request.outputs


def _sigmoid(logits: Float32s) -> Float32s:
    # By tanh: exp would overflow, with a warning, for large negative logits.
    scores: Float32s = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return scores


def _version() -> str:
    try:
        return metadata.version("rillet")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101  # it is registered for this class only
    return Response(format_error(str(error)), error.status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, as the protocol's errors."""
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for this class only
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return Response(format_error(message), error.status_code, media_type="application/json", headers=error.headers)
