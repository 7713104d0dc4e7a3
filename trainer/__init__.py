"""The online trainer: models, batches, steps, progressive validation, checkpoints and export.

Configuration and errors load at once, torch and numba only with what needs them, so that reading a
configuration file stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainer.config import ModelConfig, TrainerConfig
from trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError

if TYPE_CHECKING:
    from trainer.batch import Batch, BatchAssembler, Positions
    from trainer.checkpoint import Checkpoint, CheckpointStore
    from trainer.evaluation import Metrics, ScoreHistogram, WindowedMetrics
    from trainer.export import dense_state, export_program
    from trainer.learner import Learner, StepResult
    from trainer.models import DeepFM, LogisticRegression, build_model
    from trainer.online import Counters, Fresh, OnlineTrainer, Restored
    from trainer.reader import BlockReader, ExampleSource, RawRecord, ReadBlock

__all__ = [
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
    "Fresh",
    "Learner",
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
    "StepResult",
    "TrainerConfig",
    "TrainerError",
    "WindowedMetrics",
    "build_model",
    "dense_state",
    "export_program",
]

_LAZY = {
    "Batch": "trainer.batch",
    "BatchAssembler": "trainer.batch",
    "BlockReader": "trainer.reader",
    "Checkpoint": "trainer.checkpoint",
    "CheckpointStore": "trainer.checkpoint",
    "Counters": "trainer.online",
    "DeepFM": "trainer.models",
    "ExampleSource": "trainer.reader",
    "Fresh": "trainer.online",
    "Learner": "trainer.learner",
    "LogisticRegression": "trainer.models",
    "Metrics": "trainer.evaluation",
    "OnlineTrainer": "trainer.online",
    "Positions": "trainer.batch",
    "RawRecord": "trainer.reader",
    "ReadBlock": "trainer.reader",
    "Restored": "trainer.online",
    "ScoreHistogram": "trainer.evaluation",
    "StepResult": "trainer.learner",
    "WindowedMetrics": "trainer.evaluation",
    "build_model": "trainer.models",
    "dense_state": "trainer.export",
    "export_program": "trainer.export",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
