"""The online trainer: models, batches, steps, quality as served, checkpoints and export.

Configuration and errors load at once, torch and numba only with what needs them, so that reading a
configuration file stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rillet.schemas.lazy import lazy_names
from rillet.trainer.config import ModelConfig, TrainerConfig
from rillet.trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError

if TYPE_CHECKING:
    from rillet.trainer.batch import Batch, BatchAssembler, Positions
    from rillet.trainer.checkpoint import Checkpoint, CheckpointStore
    from rillet.trainer.counters import Counters, Restored
    from rillet.trainer.evaluation import Metrics, ScoreHistogram
    from rillet.trainer.export import dense_state, export_program
    from rillet.trainer.learner import Learner, StepResult
    from rillet.trainer.list_source import ListSource
    from rillet.trainer.model_checks import check_model
    from rillet.trainer.models import DeepFM, LogisticRegression, build_model
    from rillet.trainer.online import OnlineTrainer
    from rillet.trainer.reader import BadRecord, BlockReader, ExampleSource, RawRecord, ReadBlock
    from rillet.trainer.save_point import SavePoint
    from rillet.trainer.screening import Reason
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
    "Reason",
    "Restored",
    "SavePoint",
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

__getattr__ = lazy_names(
    __name__,
    {
        "rillet.trainer.batch": ["Batch", "BatchAssembler", "Positions"],
        "rillet.trainer.checkpoint": ["Checkpoint", "CheckpointStore"],
        "rillet.trainer.counters": ["Counters", "Restored"],
        "rillet.trainer.evaluation": ["Metrics", "ScoreHistogram"],
        "rillet.trainer.export": ["dense_state", "export_program"],
        "rillet.trainer.learner": ["Learner", "StepResult"],
        "rillet.trainer.list_source": ["ListSource"],
        "rillet.trainer.model_checks": ["check_model"],
        "rillet.trainer.models": ["DeepFM", "LogisticRegression", "build_model"],
        "rillet.trainer.online": ["OnlineTrainer"],
        "rillet.trainer.reader": ["BadRecord", "BlockReader", "ExampleSource", "RawRecord", "ReadBlock"],
        "rillet.trainer.save_point": ["SavePoint"],
        "rillet.trainer.screening": ["Reason"],
        "rillet.trainer.served_quality": ["KnownQuality", "ServedQuality"],
    },
)
