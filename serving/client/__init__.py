"""The client of a rillet server: scores by the Open Inference Protocol over HTTP, blocking or with asyncio.

    encoder = CandidateEncoder(spec)
    with Client("http://127.0.0.1:8500", "films") as client:
        films = encoder.from_features(
            context={"user": 7}, items={"film": [17, 23], "shelf": ["drama", "comedy"]}, impression_ids=[17, 23]
        )
        answer = client.score(films, timeout_ms=50)
        best = films.impression_ids[answer.task("watch").argmax()]

:class:`Client` and :class:`AsyncClient` only move bytes. What a request looks like, what an answer means and when to
try again is decided in ``candidates``, ``exchanges``, ``attempts`` and ``calls``, which do no I/O. Installed by
``pip install rillet[client]``; imports nothing of the server.
"""

from rillet.serving.client.asynchronous import AsyncClient
from rillet.serving.client.attempts import RetryPolicy, Timeouts
from rillet.serving.client.blocking import Client
from rillet.serving.client.candidates import CandidateEncoder, Candidates
from rillet.serving.client.errors import (
    ClientError,
    DeadlineExceededError,
    MalformedAnswerError,
    RequestRefusedError,
    ServerBusyError,
    ServerUnavailableError,
)
from rillet.serving.client.exchanges import ModelMetadata, Scores
from rillet.serving.client.histories import Histories

__all__ = [
    "AsyncClient",
    "CandidateEncoder",
    "Candidates",
    "Client",
    "ClientError",
    "DeadlineExceededError",
    "Histories",
    "MalformedAnswerError",
    "ModelMetadata",
    "RequestRefusedError",
    "RetryPolicy",
    "Scores",
    "ServerBusyError",
    "ServerUnavailableError",
    "Timeouts",
]
