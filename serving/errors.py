"""The exceptions of ``serving``; a :class:`RequestError` is answered to the client with its HTTP status.

RilletError
└── ServingError
    ├── ProgramError             the dense program or its weights cannot be used
    └── RequestError             one request is refused; the server goes on
        ├── InvalidRequestError  400, names the field
        ├── UnknownModelError    404
        ├── BodyTimeoutError     408
        ├── BodyTooLargeError    413
        ├── QueueFullError       429, also a BackpressureError
        ├── BodiesFullError      429, also a BackpressureError
        ├── ClientGoneError      499, which nobody receives
        ├── ScoringError         500, the model failed on it
        ├── NotReadyError        503
        └── DeadlineError        504
"""

from __future__ import annotations

from typing import ClassVar

from rillet.schemas import BackpressureError, RilletError


class ServingError(RilletError):
    """Anything that serving refuses or cannot do."""


class ProgramError(ServingError):
    """The exported dense program or a set of weights for it is unusable."""


class RequestError(ServingError):
    """One request gets no scores; ``status`` is its HTTP status, ``reason`` its label in metrics."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "error"


class InvalidRequestError(RequestError):
    """The request is malformed or does not fit the feature spec."""

    status = 400
    reason = "invalid"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class UnknownModelError(RequestError):
    """Another model or version than the one served here, or no such path."""

    status = 404
    reason = "unknown_model"


class BodyTimeoutError(RequestError):
    """The body did not arrive within ``serving.body_timeout_s``."""

    status = 408
    reason = "body_timeout"


class BodyTooLargeError(RequestError):
    """The body is larger than ``serving.max_body_bytes``."""

    status = 413
    reason = "body_too_large"


class QueueFullError(RequestError, BackpressureError):
    """``serving.max_queue_rows`` rows are waiting already."""

    status = 429
    reason = "queue_full"


class BodiesFullError(RequestError, BackpressureError):
    """Bodies of ``serving.max_bodies_bytes`` are held already."""

    status = 429
    reason = "bodies_full"


class ClientGoneError(RequestError):
    """The client closed its connection before it had its scores; nothing of it is logged."""

    status = 499
    reason = "client_gone"


class ScoringError(RequestError):
    """The model raised, or gave numbers that are not finite."""

    status = 500
    reason = "scoring"


class NotReadyError(RequestError):
    """No base is loaded yet, the replica is catching up, the thread that scores is stuck, or the server is stopping."""

    status = 503
    reason = "not_ready"


class DeadlineError(RequestError):
    """The request's deadline passed before it had its scores; nothing of it is logged."""

    status = 504
    reason = "deadline"
