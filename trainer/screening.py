"""Which rows of a batch are absurd, and so are not learned from: each is found and named on its own.

A feature store would hold such bounds as the domain of a feature (TensorFlow Data Validation's ``float_domain``); trainers
of embedding tables clip gradients instead, which bounds the harm but lets the other rows of the batch suffer. Here are
both: rows out of bounds are taken out before the step, and what is within them is clipped (:mod:`rillet.trainer.learner`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from rillet.schemas import FeatureSpec, RecordError, encode
from rillet.trainer.batch import Batch
from rillet.trainer.config import TrainerConfig
from rillet.trainer.reader import BadRecord, RawRecord

#: largest finite float32
_LARGEST = (2 - 2.0**-23) * 2.0**127


class Reason(StrEnum):
    """Why a row was refused; names the counters."""

    #: a dense feature is not finite, or further from 0 than ``max_dense``
    DENSE = "dense"
    #: its loss, a gradient or its square is not finite
    UNLEARNABLE = "unlearnable"


class RefusedRow(NamedTuple):
    """A row of a batch that is not learned from, and why."""

    #: index in the batch
    row: int
    reason: Reason
    #: field and value
    problem: str


class Screen:
    """Finds the rows whose numbers are out of bounds."""

    def __init__(self, spec: FeatureSpec, config: TrainerConfig) -> None:
        self._dense = spec.dense_names
        self._max_dense = min(config.max_dense, _LARGEST)

    def refused(self, batch: Batch) -> list[RefusedRow]:
        """The rows of a batch out of bounds, in order, each once; of a sound batch none, after two passes over a column."""
        dense, limit = batch.dense, self._max_dense
        # Written so that NaN is out of bounds.
        if not dense.size or (dense.max() <= limit and dense.min() >= -limit):
            return []
        out = ~(np.abs(dense) <= limit)
        rows = np.flatnonzero(out.any(axis=1))
        # A row is named by its first such column: a feature in another unit may have put out all of them.
        return [
            RefusedRow(
                row,
                Reason.DENSE,
                f"dense {self._dense[column]} is {dense[row, column]:g}, further from 0 than max_dense {limit:g}",
            )
            for row, column in zip(rows.tolist(), out[rows].argmax(axis=1).tolist(), strict=True)
        ]


def as_bad_record(batch: Batch, refused: RefusedRow) -> BadRecord:
    """The row as a record of its own, which can be sent to the topic once what is wrong with it was mended."""
    partition, offset, row, block = batch.origin(refused.row)
    # The joiner's keys: a row that is sent again goes where the rows of its bucket go.
    record = RawRecord(partition, offset, encode(block), str(block.bucket).encode())
    return BadRecord(record, RecordError(f"row {row}: {refused.problem}"), row)
