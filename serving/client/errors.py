"""The exceptions of the client.

RilletError
└── ClientError
    ├── RequestRefusedError      the server refuses this request (4xx) or failed on it (500); has its status and message
    ├── ServerBusyError          429: the server's queue is full
    ├── ServerUnavailableError   503, no connection, or a proxy without one (502, 408)
    ├── DeadlineExceededError    no answer in time: the client's timeouts, or the server's (504)
    └── MalformedAnswerError     the answer is not one of the Open Inference Protocol, or not to this request

Features that do not fit the spec and arguments that no server would take raise :class:`rillet.schemas.RecordError`
before anything is sent; a closed client raises :class:`rillet.schemas.ClosedError`.
"""

from __future__ import annotations

from rillet.schemas import RilletError


class ClientError(RilletError):
    """A request got no scores.

    ``retryable`` says whether the same request may succeed later; ``attempts`` how often it was sent;
    ``retry_after_s`` how long the server asked to wait, None when it did not.
    """

    def __init__(self, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.attempts = 1

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.attempts == 1 else f"{message} (after {self.attempts} attempts)"


class RequestRefusedError(ClientError):
    """The server will not answer this request, however often it is sent: ``status`` and ``reason`` are its words."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ServerBusyError(ClientError):
    """More requests are waiting at the server than it accepts."""


class ServerUnavailableError(ClientError):
    """The server is not there, is not ready yet, is stopping, or went away before it answered."""


class DeadlineExceededError(ClientError):
    """No answer came in the time allowed."""


class MalformedAnswerError(ClientError):
    """What answered does not speak the protocol, or serves another model than the candidates are for."""
