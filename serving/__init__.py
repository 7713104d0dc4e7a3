"""Serving: the predictor, the auto-batcher and the Open Inference Protocol over HTTP in front of them.

Exported here is what imports quickly; ``serving.program`` (torch), ``serving.app`` and ``serving.server`` (the
web stack) and ``serving.live_model`` are imported by whoever runs a server.
"""

from serving.config import ServingConfig
from serving.engine import Engine, Scored, ServedModel
from serving.errors import (
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
from serving.feature_log import FeatureLog, FeatureRecorder, MemoryFeatureLog
from serving.features import RequestLayout, ScoreRequest
from serving.metrics import ArrayHistogram, ServingMetrics, geometric_buckets
from serving.predictor import Predictor
from serving.protocol import InferRequest, format_infer_response, parse_infer_request

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
