"""Serving: the predictor, the auto-batcher, and the Open Inference Protocol over HTTP in front of them.

Each name loads its module when it is first asked for, so that the client, which lives below this package, loads
the protocol and nothing of the server. Whoever runs a server imports ``rillet.serving.program`` and ``rillet.serving.live_model``
(torch), ``rillet.serving.app``, ``server`` and ``service`` (the web stack).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_LAZY = {
    "ArrayHistogram": "rillet.serving.metrics",
    "BodyTooLargeError": "rillet.serving.errors",
    "DeadlineError": "rillet.serving.errors",
    "Engine": "rillet.serving.engine",
    "FeatureLog": "rillet.serving.feature_log",
    "FeatureRecorder": "rillet.serving.feature_log",
    "InferRequest": "rillet.serving.protocol",
    "InvalidRequestError": "rillet.serving.errors",
    "MemoryFeatureLog": "rillet.serving.feature_log",
    "NotReadyError": "rillet.serving.errors",
    "Predictor": "rillet.serving.predictor",
    "ProgramError": "rillet.serving.errors",
    "QueueFullError": "rillet.serving.errors",
    "RequestError": "rillet.serving.errors",
    "RequestLayout": "rillet.serving.features",
    "ScoreRequest": "rillet.serving.features",
    "Scored": "rillet.serving.engine",
    "ScoringError": "rillet.serving.errors",
    "ServedModel": "rillet.serving.engine",
    "ServingConfig": "rillet.serving.config",
    "ServingError": "rillet.serving.errors",
    "ServingMetrics": "rillet.serving.metrics",
    "UnknownModelError": "rillet.serving.errors",
    "format_infer_response": "rillet.serving.protocol",
    "geometric_buckets": "rillet.serving.metrics",
    "parse_infer_request": "rillet.serving.protocol",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
