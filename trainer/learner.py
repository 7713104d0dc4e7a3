"""One training step: gather, forward, loss, backward, rows updated in the table, dense part by Adam, bias by Adagrad.

It knows nothing of queues, offsets or files. Its logits are made before the update, and are no measure of quality all the
same: other rows of the same request may have been learned from already (``docs/quality.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rillet.embeddings import EmbeddingTable, GradientError, TableConfig
from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import Bools, Float32s
from rillet.trainer.adam import Adam, Arrays
from rillet.trainer.batch import Batch
from rillet.trainer.bias import BiasAdagrad
from rillet.trainer.config import ModelConfig
from rillet.trainer.dense_inputs import DenseStatistics
from rillet.trainer.loss import sampled_bce
from rillet.trainer.models import build_model, known_statistics


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step saw and did."""

    #: float32[n, T], predicted before the update
    logits: Float32s
    #: mean loss per row, in nats, corrected for sampling
    loss: float
    #: embedding rows updated; 0 when refused
    unique_rows: int
    #: the loss, a gradient or its square was not finite, so nothing was updated
    refused: bool
    #: examples whose embeddings' gradient was scaled down
    clipped_rows: int = 0
    #: the dense part's gradient was scaled down
    clipped_dense: bool = False


class Learner:
    """A model, its table and its optimiser."""

    def __init__(self, spec: FeatureSpec, model: ModelConfig, table: TableConfig) -> None:
        """
        :raises ModelError: the model cannot be built.
        """
        self.model = build_model(model, spec)
        self.table = EmbeddingTable(model.row_dim, table, track_touched=True)
        #: of the dense part, all but the bias
        inner = ((f"model.{name}", parameter) for name, parameter in self.model.model.named_parameters())
        self.optimizer = Adam(
            inner, model.dense_learning_rate, weight_decay=model.dense_weight_decay, amsgrad=model.dense_amsgrad
        )
        self.bias_optimizer = BiasAdagrad(self.model.bias, model.bias_learning_rate, model.bias_half_life_s)
        self._dense_statistics = None if self.model.dense is None else DenseStatistics(self.model.dense)
        self._parameters = list(self.model.parameters())
        self._max_row_gradient, self._max_dense_gradient = model.max_row_gradient, model.max_dense_gradient
        self._segments = spec.segments

    def step(
        self,
        batch: Batch,
        now_ms: int,
        decay_ms: int,
        row_step_factor: float = 1.0,
        dense_step_factor: float = 1.0,
        likelihood_share: float = 1.0,
    ) -> StepResult:
        """Learns from a batch, or refuses it and leaves all rows, weights, buffers and optimiser state as they were.

        :param now_ms: stamped on the rows as last seen; event time, so that a replay does the same.
        :param decay_ms: what the optimisers' sums decay by, see :class:`rillet.trainer.event_clock.EventClock`.
        :param row_step_factor: of the step size of embedding rows.
        :param dense_step_factor: of that of the dense part, the bias not included.
        :param likelihood_share: see :func:`~rillet.trainer.loss.sampled_bce`.
        """
        rows = self.table.find_or_insert(batch.fids, now_ms)
        pooled = self.table.gather_pooled(rows, batch.lengths)
        n, segments = len(batch), self._segments
        # Batch normalisation changes its buffers while predicting, before it's known whether the batch is sound.
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with known_statistics(self.model, n):
            logits, loss, embeddings = self._gradients(batch, pooled, likelihood_share)
        predicted: Float32s = logits.detach().numpy()
        value = loss.item() / n
        refused = StepResult(predicted, value, 0, True)
        if embeddings.grad is None or not math.isfinite(value) or not self._buffers_sound(buffers):
            return self._undone(refused, buffers)
        gradient = embeddings.grad.numpy().reshape(n, -1)
        row_squares = np.einsum("ij,ij->i", gradient, gradient)
        dense_square = sum(map(_square, self._parameters))
        # Squares of float32 have to stay finite: a weight whose sum of squares has become inf never moves again.
        if not math.isfinite(float(row_squares.sum())) or not math.isfinite(dense_square):
            return self._undone(refused, buffers)
        clipped_rows = self._clip_rows(gradient, row_squares)
        clipped_dense = self._clip_dense(dense_square, n)
        try:
            unique = self.table.apply_gradients(
                rows, batch.lengths, gradient.reshape(n * segments, -1), decay_ms, step_factor=row_step_factor
            )
        except GradientError:
            return self._undone(refused, buffers)
        self.optimizer.step(dense_step_factor)
        self.bias_optimizer.step(decay_ms)
        # After the step: a batch that is refused has no say, and none of a batch's rows depends on the others.
        if self._dense_statistics is not None:
            self._dense_statistics.update(batch.dense, decay_ms)
        return StepResult(predicted, value, unique, False, clipped_rows, clipped_dense)

    def unsound(self, batch: Batch) -> Bools:
        """bool[n], True for the rows whose own logits or gradient are not finite: nothing can be learned with them.

        The model is evaluated for it, not trained, so that statistics of the batch do not spread one row's fault.
        """
        pooled = self.table.gather_pooled(self.table.find(batch.fids), batch.lengths)
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            logits, _, embeddings = self._gradients(batch, pooled)
        finally:
            for module in training:
                module.training = True
        found: Bools = ~np.isfinite(logits.detach().numpy()).all(axis=1)
        if embeddings.grad is not None:
            gradient = embeddings.grad.numpy().reshape(len(batch), -1)
            found |= ~np.isfinite(np.einsum("ij,ij->i", gradient, gradient))
        return found

    def optimizer_state(self) -> Arrays:
        """Moments, sums of squares and step counts of the dense part's optimisers by parameter name; dense statistics."""
        statistics = {} if self._dense_statistics is None else self._dense_statistics.state()
        return self.optimizer.state() | self.bias_optimizer.state() | statistics

    def load(self, dense: Arrays, optimizer: Arrays, table: EmbeddingTable) -> None:
        """Replaces everything that was learned; learning rates stay as configured."""
        self.model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in dense.items()})
        self.optimizer.load_state(optimizer)
        self.bias_optimizer.load_state(optimizer)
        if self._dense_statistics is not None:
            self._dense_statistics.load_state(optimizer)
        self.table = table

    def _gradients(
        self, batch: Batch, pooled: Float32s, likelihood_share: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, the summed loss, and the embeddings float32[n, S, E] with their gradient; sets those of the parameters.

        :param pooled: float32[n * S, E].
        """
        embeddings = torch.from_numpy(pooled.reshape(len(batch), self._segments, -1)).requires_grad_()
        logits = self.model(embeddings, torch.from_numpy(batch.dense))
        loss = sampled_bce(
            logits,
            torch.from_numpy(batch.labels.astype(np.float32)),
            torch.from_numpy(batch.mask.astype(np.float32)),
            torch.from_numpy(batch.sampling_rate),
            torch.from_numpy(batch.exposure),
            torch.from_numpy(batch.late),
            likelihood_share,
        )
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return logits, loss, embeddings

    def _buffers_sound(self, before: list[torch.Tensor]) -> bool:
        """Whether no statistics ran out of range; constants that are infinite on purpose stay as they are."""
        return all(
            torch.equal(torch.isfinite(buffer), torch.isfinite(old))
            for buffer, old in zip(self.model.buffers(), before, strict=True)
        )

    def _undone(self, refused: StepResult, buffers: list[torch.Tensor]) -> StepResult:
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.table.take_back()
        return refused

    def _clip_rows(self, gradient: Float32s, squares: Float32s) -> int:
        """Scales down the rows of ``gradient`` float32[n, S * E] that are too long; ``squares`` are of their norms."""
        limit = self._max_row_gradient
        if squares.max() <= limit * limit:
            return 0
        over = squares > limit * limit
        gradient[over] *= (limit / np.sqrt(squares[over]))[:, None].astype(np.float32)
        return int(np.count_nonzero(over))

    def _clip_dense(self, square: float, examples: int) -> bool:
        """Scales the gradients of all parameters down together; ``square`` is of their norm."""
        # The loss is a sum over the batch, the bound is of the mean: it holds for any batch size.
        norm, limit = math.sqrt(square), self._max_dense_gradient * examples
        if norm <= limit:
            return False
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)
        return True


def _square(parameter: torch.Tensor) -> float:
    """Sum of the squares of a parameter's gradient; 0 where it was not used."""
    if parameter.grad is None:
        return 0.0
    flat = parameter.grad.reshape(-1)
    # A dot product makes no array of the squares: half the time of a step's checks.
    return torch.dot(flat, flat).item()
