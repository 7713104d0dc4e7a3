"""The online trainer: models, batches, steps, quality as served, checkpoints and export.

Configuration and errors load at once, torch and numba only with what needs them, so that reading a
configuration file stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rillet.trainer.config import ModelConfig, TrainerConfig
from rillet.trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError

if TYPE_CHECKING:
    from rillet.trainer.batch import Batch, BatchAssembler, Positions
    from rillet.trainer.checkpoint import Checkpoint, CheckpointStore
    from rillet.trainer.evaluation import Metrics, ScoreHistogram
    from rillet.trainer.export import dense_state, export_program
    from rillet.trainer.learner import Learner, StepResult
    from rillet.trainer.list_source import ListSource
    from rillet.trainer.model_checks import check_model
    from rillet.trainer.models import DeepFM, LogisticRegression, build_model
    from rillet.trainer.online import Counters, OnlineTrainer, Restored
    from rillet.trainer.reader import BadRecord, BlockReader, ExampleSource, RawRecord, ReadBlock
    from rillet.trainer.served_quality import KnownQuality, ServedQuality

__all__ = [
    "BadRecord",
    "Batch",
    "BatchAssembler",
    "BlockReader",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "CorruptCheckpointError",
    "Counters",
    "DeepFM",
    "ExampleSource",
    "KnownQuality",
    "Learner",
    "ListSource",
    "LogisticRegression",
    "Metrics",
    "ModelConfig",
    "ModelError",
    "OnlineTrainer",
    "Positions",
    "RawRecord",
    "ReadBlock",
    "Restored",
    "ScoreHistogram",
    "ServedQuality",
    "StepResult",
    "TrainerConfig",
    "TrainerError",
    "build_model",
    "check_model",
    "dense_state",
    "export_program",
]

_LAZY = {
    "BadRecord": "rillet.trainer.reader",
    "Batch": "rillet.trainer.batch",
    "BatchAssembler": "rillet.trainer.batch",
    "BlockReader": "rillet.trainer.reader",
    "Checkpoint": "rillet.trainer.checkpoint",
    "CheckpointStore": "rillet.trainer.checkpoint",
    "Counters": "rillet.trainer.online",
    "DeepFM": "rillet.trainer.models",
    "ExampleSource": "rillet.trainer.reader",
    "KnownQuality": "rillet.trainer.served_quality",
    "Learner": "rillet.trainer.learner",
    "ListSource": "rillet.trainer.list_source",
    "LogisticRegression": "rillet.trainer.models",
    "Metrics": "rillet.trainer.evaluation",
    "OnlineTrainer": "rillet.trainer.online",
    "Positions": "rillet.trainer.batch",
    "RawRecord": "rillet.trainer.reader",
    "ReadBlock": "rillet.trainer.reader",
    "Restored": "rillet.trainer.online",
    "ScoreHistogram": "rillet.trainer.evaluation",
    "ServedQuality": "rillet.trainer.served_quality",
    "StepResult": "rillet.trainer.learner",
    "build_model": "rillet.trainer.models",
    "check_model": "rillet.trainer.model_checks",
    "dense_state": "rillet.trainer.export",
    "export_program": "rillet.trainer.export",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
