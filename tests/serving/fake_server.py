"""A server without sockets, threads or a model: reads and answers requests with the real server's own functions."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import numpy as np

from rillet.schemas import FeatureSpec
from rillet.serving.errors import RequestError
from rillet.serving.features import RequestLayout, ScoreRequest
from rillet.serving.protocol import format_error, format_infer_response, parse_infer_request, parse_json_length

JSON_LENGTH = "inference-header-content-length"


def _zeros(request: ScoreRequest, tasks: int) -> np.ndarray:
    return np.zeros((request.rows, tasks), np.float32)


class FakeServer:
    """``httpx2.MockTransport(FakeServer(spec, "films"))`` is the network of a client."""

    def __init__(
        self, spec: FeatureSpec, model: str, logits: Callable[[ScoreRequest, int], np.ndarray] = _zeros
    ) -> None:
        self.spec, self.model = spec, model
        self.layout = RequestLayout(spec, max_rows=1000)
        self.logits = logits
        #: requests that were scored
        self.scored: list[ScoreRequest] = []
        #: raw requests, the refused ones too
        self.received: list[httpx2.Request] = []
        #: what the next requests get instead of scores: a status, a whole response, or a transport's exception
        self.trouble: list[int | httpx2.Response | Exception] = []
        self.logged = True

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.received.append(request)
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            if isinstance(trouble, httpx2.Response):
                return trouble
            return httpx2.Response(trouble, content=format_error("no"))
        if request.url.path == f"/v2/models/{self.model}/ready":
            return httpx2.Response(200, json={"ready": True})
        if request.url.path != f"/v2/models/{self.model}/infer":
            return httpx2.Response(404, content=format_error(f"{request.url.path} is not served"))
        return self._infer(request)

    def _infer(self, request: httpx2.Request) -> httpx2.Response:
        body = request.content
        try:
            parsed = parse_infer_request(body, parse_json_length(request.headers.get(JSON_LENGTH), len(body)))
            scoring = self.layout.parse(parsed, now_ms=5, new_id="made by the server")
        except RequestError as error:
            return httpx2.Response(error.status, content=format_error(str(error)))
        self.scored.append(scoring)
        logits = self.logits(scoring, len(self.spec.tasks))
        arrays = {"scores": 1 / (1 + np.exp(-logits)), "logits": logits}
        outputs = parsed.outputs or tuple((name, parsed.binary_default) for name in arrays)
        content, length = format_infer_response(
            model=self.model,
            version="3",
            request_id=scoring.request_id,
            outputs=[(name, arrays[name].astype(np.float32), binary) for name, binary in outputs],
            parameters={"logged": self.logged and scoring.log},
        )
        return httpx2.Response(200, content=content, headers={} if length is None else {JSON_LENGTH: str(length)})
