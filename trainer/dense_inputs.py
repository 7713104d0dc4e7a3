"""Dense features as a model takes them: transformed, then standardised by the mean and deviation learned of each.

Both are part of the model: records hold raw values, and trainer, backtest, replica and server compute the same. Mean and
deviation are of rows that were learned from before, never of the batch at hand as in batch normalisation: a row's score
depends on no other row. ``docs/decisions/0014`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rillet.schemas import NO_TIME_MS, DenseFeature
from rillet.schemas.arrays import AnyArray, Float32s, Float64s
from rillet.trainer.dense_ranges import tenths_and_median

#: deviations from the mean beyond which a value is taken for one at the bound
LIMIT = 10.0
#: rows that mean and deviation are of, how few are enough, and how many new ones among them leave them as they are
SAMPLE_ROWS = 2_048
_FEWEST_ROWS = 32
_MOST_NEW_ROWS = 64
#: event time after which a row has half a new row's chance to be in the sample
_HALF_LIFE_MS = 7 * 86_400_000
#: deviations below this share of the mean are rounding of float32, and below the second, out of its range
_ROUNDING, _SMALLEST = 1e-6, 1e-30


class DenseInput(nn.Module):
    """(transform(x) - mean) * scale, bounded; 0 for all values of a feature while its scale is 0."""

    mean: Tensor
    #: 1 / standard deviation; 0 while none is known, and for a constant feature
    scale: Tensor
    logarithmic: Tensor

    def __init__(self, features: Sequence[DenseFeature]) -> None:
        """
        :param features: Dd.
        """
        super().__init__()
        self._any_logarithmic = any(feature.transform == "log1p" for feature in features)
        # Of the spec and not learned, so it is in the exported program and not among its weights.
        logarithmic = torch.tensor([feature.transform == "log1p" for feature in features])
        self.register_buffer("logarithmic", logarithmic, persistent=False)
        self.register_buffer("mean", torch.zeros(len(features)))
        self.register_buffer("scale", torch.zeros(len(features)))

    def forward(self, dense: Tensor) -> Tensor:
        """Raw values float32[n, Dd] -> float32[n, Dd] within ±LIMIT."""
        return ((self.transformed(dense) - self.mean) * self.scale).clamp(-LIMIT, LIMIT)

    def transformed(self, dense: Tensor) -> Tensor:
        """Raw values float32[n, Dd] -> float32[n, Dd], before they are standardised."""
        if not self._any_logarithmic:
            return dense
        return torch.where(self.logarithmic, dense.sign() * dense.abs().log1p(), dense)


class DenseStatistics:
    """Learns mean and deviation of a :class:`DenseInput` from a sample of the rows learned from.

    Of a sample, and with far values drawn in, because moments of all rows would remember a single absurd one for good. Its
    rows are spread over all that were learned from, later over the newest ten days or so of event time: what differs by hour
    or weekday has to stay a difference.
    """

    def __init__(self, module: DenseInput) -> None:
        self._module = module
        #: transformed values, of which each new row takes the oldest one's place
        self._sample: Float32s = np.zeros((SAMPLE_ROWS, len(module.mean)), np.float32)
        #: rows that were taken into it, and at which mean and deviation are due
        self._taken, self._due = 0, _FEWEST_ROWS
        #: rows learned from, halved with event time
        self._weight = 0.0
        #: of the next row that is taken, how much has come
        self._fraction = 0.0
        self._newest_ms = NO_TIME_MS
        #: whether rows of the sample have no value of a feature, NaN: it was added to the spec since
        self._gaps = False

    @torch.no_grad()
    def update(self, dense: Float32s, now_ms: int) -> None:
        """Takes in rows that were learned from.

        :param dense: raw values float32[n, Dd], finite.
        :param now_ms: event time; one before that of an earlier call counts as that one's.
        """
        now_ms = max(now_ms, self._newest_ms)
        if self._newest_ms != NO_TIME_MS:
            self._weight *= 2.0 ** ((self._newest_ms - now_ms) / _HALF_LIFE_MS)
        self._newest_ms = now_ms
        self._weight += len(dense)
        if self._gaps:
            self._fill_gaps(dense)
        # By a running fraction, and not by chance: a replay takes the same rows.
        share = min(SAMPLE_ROWS / self._weight, 1.0)
        progress = self._fraction + share * np.arange(len(dense) + 1)
        self._fraction = float(progress[-1] % 1)
        chosen = dense[np.diff(np.floor(progress)) > 0]
        if not len(chosen):
            return
        at = (self._taken + np.arange(len(chosen))) % SAMPLE_ROWS
        self._sample[at] = self._module.transformed(torch.from_numpy(chosen)).numpy()
        self._taken += len(chosen)
        if self._taken >= self._due:
            self._learn()

    def state(self) -> dict[str, AnyArray]:
        """``dense.sample``, ``dense.progress`` and ``dense.counts``; mean and scale are weights of the model."""
        return {
            "dense.sample": self._sample,
            "dense.progress": np.array([self._weight, self._fraction]),
            "dense.counts": np.array([self._taken, self._due, self._newest_ms], np.int64),
        }

    def load_state(self, arrays: Mapping[str, AnyArray]) -> None:
        """Goes on from :meth:`state`."""
        self._sample = np.array(arrays["dense.sample"])
        self._weight, self._fraction = arrays["dense.progress"].tolist()
        self._taken, self._due, self._newest_ms = arrays["dense.counts"].tolist()
        self._gaps = bool(np.isnan(self._sample[: self._taken]).any())

    def _fill_gaps(self, dense: Float32s) -> None:
        """Takes the next rows for those that have no value: the sample is so slow that a feature would be 0 for days."""
        sample, values = self._sample[: self._taken], self._module.transformed(torch.from_numpy(dense))
        for column in np.flatnonzero(np.isnan(sample).any(axis=0)).tolist():
            gaps = np.flatnonzero(np.isnan(sample[:, column]))[: len(values)]
            sample[gaps, column] = values[: len(gaps), column].numpy()
        self._gaps = bool(np.isnan(sample).any())
        self._learn()

    def _learn(self) -> None:
        rows = self._sample[: self._taken]
        unknown = np.isnan(rows)
        if unknown.any():
            # Of a feature that has been added since, the older rows have no value.
            columns = [_moments(column[~gap][:, None]) for column, gap in zip(rows.T, unknown.T, strict=True)]
            mean, deviation = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        else:
            mean, deviation = _moments(rows)
        known = deviation > np.maximum(_ROUNDING * np.abs(mean), _SMALLEST)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=known)
        self._module.mean.copy_(torch.from_numpy(mean))
        self._module.scale.copy_(torch.from_numpy(scale))
        # Often while the sample is small: what is known of a feature changes fast then.
        self._due = self._taken + min(max(self._taken // 8, 1), _MOST_NEW_ROWS)


def _moments(rows: Float32s) -> tuple[Float64s, Float64s]:
    """Mean and standard deviation of each column, far values drawn in; 0 while there are too few rows."""
    if len(rows) < _FEWEST_ROWS:
        return np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    low, median, high = tenths_and_median(rows)
    reach = LIMIT * np.maximum(median - low, high - median)
    # Where nine tenths are one value the others may be rare and right.
    reach[reach == 0] = np.inf
    values = np.clip(rows.astype(np.float64), median - reach, median + reach)
    return values.mean(axis=0), values.std(axis=0)
