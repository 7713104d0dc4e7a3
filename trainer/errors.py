"""What can go wrong in the trainer.

RilletError
└── TrainerError
    ├── ModelError             a model that cannot be built, or whose loss or weights are not finite
    └── CheckpointError        a checkpoint that cannot be used
        └── CorruptCheckpointError  its files are not what its manifest says
"""

from __future__ import annotations

from rillet.schemas import RilletError


class TrainerError(RilletError):
    """Root of the trainer's errors."""


class ModelError(TrainerError):
    """The model cannot be built from its configuration, or its loss or a weight is no longer a number."""


class CheckpointError(TrainerError):
    """The checkpoint is intact but of another model, spec or table."""


class CorruptCheckpointError(CheckpointError):
    """A file of the checkpoint is missing or differs from its manifest."""
