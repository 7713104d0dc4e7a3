"""What range the dense features of the newest rows have: a value far out of it says nothing, and is replaced.

A single such value takes over the weights of its feature, and the statistics of batch normalisation, for all other rows.
The range is learned from the newest rows as they come, so a feature that changes its unit is back after some hundred rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rillet.schemas.arrays import AnyArray, Float32s, Float64s, Int64s

#: newest rows that the ranges are of, how few are enough, and rows after which they are looked at again
WINDOW_ROWS = 512
_FEWEST_ROWS = 32
_EVERY_ROWS = 2_048
#: the lowest and the highest share of values that have no say: so many may be absurd on either side
_TAIL = 0.1


class DenseRanges:
    """Medians of dense features, and how far from them a value may be.

    >>> import numpy as np
    >>> ranges = DenseRanges(1, spreads=100)
    >>> hours = np.linspace(0, 24, 40, dtype=np.float32)[:, None]
    >>> hours[7] = 1e6
    >>> replaced, counts = ranges.replace(hours)
    >>> [round(hour, 1) for hour in replaced[6:9, 0].tolist()], counts.tolist()
    ([3.7, 12.9, 4.9], [1])
    """

    def __init__(self, features: int, spreads: float) -> None:
        """
        :param features: Dd.
        :param spreads: how far from its median a value may be, in distances from there to the tenth or the ninetieth
            percentile, the larger one; inf = any.
        """
        self._spreads = spreads
        self._window: Float32s = np.zeros((WINDOW_ROWS, features), np.float32)
        #: rows so far, and at which the ranges are due
        self._rows, self._due = 0, _FEWEST_ROWS
        self._median: Float32s = np.zeros(features, np.float32)
        self._low: Float32s = np.full(features, -np.inf, np.float32)
        self._high: Float32s = np.full(features, np.inf, np.float32)

    def replace(self, dense: Float32s) -> tuple[Float32s, Int64s]:
        """Dense features float32[n, Dd] with the median for what is out of range, and their number int64[Dd] by feature.

        The same array where none is. A feature nine tenths of which are one value has any range: the others may be rare
        and right.
        """
        counts = np.zeros(dense.shape[1], np.int64)
        if not dense.size or not np.isfinite(self._spreads):
            return dense, counts
        self._remember(dense)
        if self._rows >= self._due:
            self._learn()
        if (dense.min(axis=0) >= self._low).all() and (dense.max(axis=0) <= self._high).all():
            return dense, counts
        out = (dense < self._low) | (dense > self._high)
        counts += np.count_nonzero(out, axis=0)
        if counts.max() > _TAIL * len(dense):
            # So many are rather another unit than absurd.
            self._due = self._rows
        return np.where(out, self._median, dense), counts

    def state(self) -> dict[str, AnyArray]:
        """All that :meth:`load_state` needs."""
        progress = np.array([self._rows, self._due], np.int64)
        return {"window": self._window, "rows": progress, "range": np.stack([self._median, self._low, self._high])}

    def load_state(self, arrays: Mapping[str, AnyArray]) -> None:
        """Goes on from :meth:`state`."""
        self._window = np.array(arrays["window"])
        self._rows, self._due = arrays["rows"].tolist()
        self._median, self._low, self._high = np.array(arrays["range"])

    def _remember(self, dense: Float32s) -> None:
        newest = dense[-WINDOW_ROWS:]
        at = self._rows % WINDOW_ROWS
        room = WINDOW_ROWS - at
        self._window[at : at + len(newest)] = newest[:room]
        self._window[: max(len(newest) - room, 0)] = newest[room:]
        self._rows += len(newest)

    def _learn(self) -> None:
        low, median, high = tenths_and_median(self._window[: self._rows])
        reach = self._spreads * np.maximum(median - low, high - median)
        reach[reach == 0] = np.inf
        self._median = median.astype(np.float32)
        with np.errstate(over="ignore"):
            self._low, self._high = (median - reach).astype(np.float32), (median + reach).astype(np.float32)
        self._due = min(2 * self._rows, self._rows + _EVERY_ROWS)


def tenths_and_median(rows: Float32s) -> tuple[Float64s, Float64s, Float64s]:
    """Tenth percentile, median and ninetieth percentile of each column of float32[n, Dd], float64[Dd] each."""
    first = int(_TAIL * len(rows))
    ranks = (first, len(rows) // 2, len(rows) - 1 - first)
    low, median, high = np.partition(rows, ranks, axis=0)[list(ranks)].astype(np.float64)
    return low, median, high
