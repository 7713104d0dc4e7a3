"""Serving: the predictor, the auto-batcher, and the Open Inference Protocol over HTTP in front of them.

Each name loads its module when it is first asked for, so that the client, which lives below this package, loads
the protocol and nothing of the server. Whoever runs a server imports ``rillet.serving.program`` and ``rillet.serving.live_model``
(torch), ``rillet.serving.app``, ``server`` and ``service`` (the web stack).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rillet.schemas.lazy import lazy_names

if TYPE_CHECKING:
    from rillet.serving.config import ServingConfig
    from rillet.serving.engine import Engine, Scored, ServedModel
    from rillet.serving.errors import (
        BodyTooLargeError,
        DeadlineError,
        InvalidRequestError,
        NotReadyError,
        ProgramError,
        QueueFullError,
        RequestError,
        ScoringError,
        ServingError,
        UnknownModelError,
    )
    from rillet.serving.feature_log import FeatureLog, FeatureRecorder, MemoryFeatureLog
    from rillet.serving.features import RequestLayout, ScoreRequest
    from rillet.serving.metrics import ArrayHistogram, ServingMetrics, geometric_buckets
    from rillet.serving.predictor import Predictor
    from rillet.serving.protocol import InferRequest, format_infer_response, parse_infer_request

__all__ = [
    "ArrayHistogram",
    "BodyTooLargeError",
    "DeadlineError",
    "Engine",
    "FeatureLog",
    "FeatureRecorder",
    "InferRequest",
    "InvalidRequestError",
    "MemoryFeatureLog",
    "NotReadyError",
    "Predictor",
    "ProgramError",
    "QueueFullError",
    "RequestError",
    "RequestLayout",
    "ScoreRequest",
    "Scored",
    "ScoringError",
    "ServedModel",
    "ServingConfig",
    "ServingError",
    "ServingMetrics",
    "UnknownModelError",
    "format_infer_response",
    "geometric_buckets",
    "parse_infer_request",
]

__getattr__ = lazy_names(
    __name__,
    {
        "rillet.serving.config": ["ServingConfig"],
        "rillet.serving.engine": ["Engine", "Scored", "ServedModel"],
        "rillet.serving.errors": [
            "BodyTooLargeError",
            "DeadlineError",
            "InvalidRequestError",
            "NotReadyError",
            "ProgramError",
            "QueueFullError",
            "RequestError",
            "ScoringError",
            "ServingError",
            "UnknownModelError",
        ],
        "rillet.serving.feature_log": ["FeatureLog", "FeatureRecorder", "MemoryFeatureLog"],
        "rillet.serving.features": ["RequestLayout", "ScoreRequest"],
        "rillet.serving.metrics": ["ArrayHistogram", "ServingMetrics", "geometric_buckets"],
        "rillet.serving.predictor": ["Predictor"],
        "rillet.serving.protocol": ["InferRequest", "format_infer_response", "parse_infer_request"],
    },
)
