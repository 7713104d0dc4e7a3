"""Serving: the predictor, the auto-batcher, and the Open Inference Protocol over HTTP in front of them.

What imports quickly is exported here. Whoever runs a server imports ``rillet.serving.program`` and
``rillet.serving.live_model`` (torch), ``rillet.serving.app``, ``server`` and ``service`` (the web stack).
"""

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
