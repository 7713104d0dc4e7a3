"""The online trainer: models, batches, steps, progressive validation, checkpoints and export."""

from trainer.batch import Batch, BatchAssembler, Positions
from trainer.checkpoint import Checkpoint, CheckpointStore
from trainer.config import ModelConfig, TrainerConfig
from trainer.errors import CheckpointError, CorruptCheckpointError, ModelError, TrainerError
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
