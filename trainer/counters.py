"""What an online trainer has counted, and what it was restored from: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rillet.trainer.screening import Reason


@dataclass(slots=True)
class Counters:
    """What happened since the very first example; travels in checkpoints."""

    batches: int = 0
    partial_batches: int = 0
    #: learned from; refused ones are not among them
    rows: int = 0
    positive_rows: int = 0
    #: rows that were not learned from, by :class:`rillet.trainer.screening.Reason`
    refused_rows: dict[str, int] = field(default_factory=lambda: {reason.value: 0 for reason in Reason})
    #: batches learned from in parts, since the loss or a gradient of the whole was not finite
    split_batches: int = 0
    #: rows of tasks of an accepted feature spec that ours does not have: nothing is learned from them
    other_task_rows: int = 0
    #: rows whose embeddings' gradient was scaled down to ``max_row_gradient``
    clipped_rows: int = 0
    #: steps whose dense gradient was scaled down to ``max_dense_gradient``
    clipped_steps: int = 0
    #: dense values far out of their feature's range, for which its median was learned, by feature
    replaced_dense: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a run was restored from."""

    version: int
    #: what :meth:`rillet.trainer.OnlineTrainer.save_point` was given to keep
    extra: dict[str, Any]
