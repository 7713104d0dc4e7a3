"""Scores batches: fids to rows, pooled rows to embeddings, embeddings to logits. Knows no queue and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rillet.embeddings import CrossColumns
from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import Float32s, Int64s, UInt16s
from rillet.serving.errors import ScoringError
from rillet.serving.features import ScoreRequest


class Table(Protocol):
    """The part of ``rillet.embeddings.EmbeddingTable`` that scoring reads."""

    def find(self, fids: Int64s, /) -> Int64s:
        """Row numbers int64[F] of fids int64[F], -1 for unknown ones."""

    def gather_pooled(self, rows: Int64s, lengths: UInt16s | None, /) -> Float32s:
        """Mean rows float32[segments, E]; unknown rows read as zeros."""


class Program(Protocol):
    """The part of :class:`rillet.serving.program.DenseProgram` that scoring calls."""

    def __call__(self, embeddings: Float32s, dense: Float32s) -> Float32s: ...


class Predictor:
    """Context slots and their crosses are gathered once per request and repeated over its candidates."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._segments = spec.segments
        self._context = CrossColumns.of_context(spec)
        self._candidates = CrossColumns.of_candidates(spec)
        self._dense_width = len(spec.dense)
        #: fids looked up so far, and those of them that the table did not know
        self.fids = 0
        self.unknown_fids = 0

    def score(self, table: Table, program: Program, requests: Sequence[ScoreRequest]) -> list[Float32s]:
        """Logits float32[rows, T] of each request; row numbers do not outlive the call.

        Those of a request with an absurd number may not be finite (:func:`check_logits`), which the others do not feel.
        """
        counts = np.array([request.rows for request in requests])
        total = int(counts.sum())
        of_requests = (
            np.concatenate([request.context_fids for request in requests]),
            _joined([request.context_lengths for request in requests]),
        )
        context_fids, context_lengths = self._context.add(*of_requests, len(requests))
        fids, lengths = self._candidates.add_sharing(
            np.concatenate([request.item_fids for request in requests]),
            _joined([request.item_lengths for request in requests]),
            counts,
            *of_requests,
        )
        split = len(context_fids)
        rows = table.find(np.concatenate([context_fids, fids]))
        self.fids += len(rows)
        self.unknown_fids += int(np.count_nonzero(rows < 0))
        candidates = table.gather_pooled(rows[split:], lengths)
        width = candidates.shape[1]
        embeddings = np.empty((total, self._segments, width), np.float32)
        _place(candidates.reshape(total, -1, width), self._candidates, embeddings)
        if self._context.segments:
            context = table.gather_pooled(rows[:split], context_lengths)
            _place(np.repeat(context.reshape(len(requests), -1, width), counts, axis=0), self._context, embeddings)
        dense = np.concatenate([request.dense for request in requests]).reshape(total, self._dense_width)
        logits = program(embeddings, dense)
        ends = np.cumsum(counts).tolist()
        return [logits[end - request.rows : end] for end, request in zip(ends, requests, strict=True)]


def check_logits(logits: Float32s) -> Float32s:
    """The logits of one request, as they are.

    :raises ScoringError: one of them is not finite.
    """
    if not np.isfinite(logits).all():
        raise ScoringError(
            "the model gave a logit that is not finite: is a dense feature of the request absurdly large?"
        )
    return logits


def _place(part: Float32s, columns: CrossColumns, embeddings: Float32s) -> None:
    """Writes float32[n, columns, E] to the segments of ``embeddings`` that its columns are."""
    slots = columns.slots
    embeddings[:, columns.segments[0] : columns.segments[0] + slots] = part[:, :slots]
    for column, segment in enumerate(columns.segments[slots:], slots):
        embeddings[:, segment] = part[:, column]


def _joined(lengths: list[UInt16s | None]) -> UInt16s | None:
    # All requests are of one spec: either all sides are ragged or none is.
    present: list[UInt16s] = [array for array in lengths if array is not None]
    return np.concatenate(present) if present else None
