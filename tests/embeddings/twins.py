"""What the kernels are checked against: the same formulas in plain NumPy and Python, slow and obvious."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rillet.embeddings import EmbeddingTable, TableConfig
from rillet.schemas import FeatureSpec

#: all that a table's rows can be stepped by
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "none": {"optimizer": "none"},
    "adagrad": {"optimizer": "adagrad", "accumulator_half_life_s": 60.0},
    "ftrl": {"optimizer": "ftrl", "accumulator_half_life_s": 60.0, "l1": 0.1},
    "lazy_adam": {"optimizer": "lazy_adam"},
    "amsgrad": {"optimizer": "lazy_adam", "amsgrad": True},
}
#: between two steps, so that the weights of forward decay begin anew now and then
STEP_MS = 400_000

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """splitmix64's finalizer on Python integers."""
    x = (value + _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def saved_rows(table: EmbeddingTable) -> npt.NDArray[np.float32]:
    """All rows with their slots, float32[n, width], in ascending order of fid."""
    state = table.state()
    rows: npt.NDArray[np.float32] = state["rows"][np.argsort(state["fids"])].astype(np.float32)
    return rows


def unmix(hashed: int) -> int:
    """The value that :func:`mix` turns into ``hashed``: to make fids that crowd into one place."""

    def unshift(x: int, by: int) -> int:
        result = x
        while by < 64:
            result = x ^ (result >> by) if by == 64 else result ^ (result >> by)
            by *= 2
        return result

    x = unshift(hashed, 31)
    x = (x * pow(0x94D049BB133111EB, -1, 1 << 64)) & _MASK
    x = unshift(x, 27)
    x = (x * pow(0xBF58476D1CE4E5B9, -1, 1 << 64)) & _MASK
    x = unshift(x, 30)
    return (x - _GAMMA) & _MASK


def crowded_fids(count: int, prefix_bits: int, slot: int) -> npt.NDArray[np.int64]:
    """Positive fids whose hashes begin with ``prefix_bits`` zeros and share the home slot of their segment."""
    found: list[int] = []
    middle = 0
    while len(found) < count:
        middle += 1
        assert middle < 1 << (52 - prefix_bits)
        fid = unmix((middle << 12) | slot)
        if 0 < fid < 1 << 63:
            found.append(fid)
    return np.array(found, np.int64)


def initial_row(fid: int, dim: int, config: TableConfig) -> npt.NDArray[np.float32]:
    """The embedding that a new row starts with."""
    row = np.zeros(dim, np.float32)
    start = mix(fid ^ mix(config.seed))
    for column in range(1, dim):
        unit = np.float32((mix((start + column) & _MASK) >> 40) * 2.0**-23) - np.float32(1)
        row[column] = unit * np.float32(config.init_scale)
    return row


def pooled(rows: npt.NDArray[np.float32], lengths: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Mean of each segment of rows, zeros for an empty one."""
    out = np.zeros((len(lengths), rows.shape[1]))
    start = 0
    for segment, length in enumerate(lengths.tolist()):
        if length:
            out[segment] = rows[start : start + length].astype(np.float64).sum(axis=0) / length
        start += length
    return out


def summed(
    fids: npt.NDArray[np.int64], lengths: npt.NDArray[np.uint16], grad: npt.NDArray[np.float32]
) -> dict[int, npt.NDArray[np.float64]]:
    """Gradient of each distinct fid but the padding."""
    out: dict[int, npt.NDArray[np.float64]] = {}
    start = 0
    for segment, length in enumerate(lengths.tolist()):
        for fid in fids[start : start + length].tolist():
            if fid:
                share = grad[segment].astype(np.float64) / length
                out[fid] = out[fid] + share if fid in out else share
        start += length
    return out


class Adagrad:
    """One row's Adagrad in float64; its sum is made smaller as time passes."""

    def __init__(self, row: npt.NDArray[Any], config: TableConfig) -> None:
        self.row = row.astype(np.float64)
        self.config = config
        self.total = np.full(len(row), config.initial_accumulator)
        self.seen_ms = 0

    def forget(self, now_ms: int) -> None:
        start, half_life_ms = self.config.initial_accumulator, 1000 * self.config.accumulator_half_life_s
        if half_life_ms and now_ms > self.seen_ms:
            self.total = start + (self.total - start) * 0.5 ** ((now_ms - self.seen_ms) / half_life_ms)
            self.seen_ms = now_ms

    def step(self, g: npt.NDArray[np.float64], now_ms: int = 0) -> None:
        config = self.config
        self.forget(now_ms)
        self.total += g * g
        self.row *= 1 - config.learning_rate * config.weight_decay
        self.row -= config.learning_rate * g / (np.sqrt(self.total) + config.eps)


class Ftrl(Adagrad):
    """One row of McMahan et al. 2013, algorithm 1, in float64: z and n are the state, the weight follows from them.

    What is added to it: z begins where the weight is the initial one, and stays with the weight when n decays.
    """

    def __init__(self, row: npt.NDArray[Any], config: TableConfig) -> None:
        super().__init__(row, config)
        self.z = self._z_of_row()

    def step(self, g: npt.NDArray[np.float64], now_ms: int = 0) -> None:
        config = self.config
        self.forget(now_ms)
        self.z = np.where(self.row == 0, self.z, self._z_of_row())
        root = np.sqrt(self.total)
        self.total += g * g
        sigma = (np.sqrt(self.total) - root) / config.learning_rate
        self.z += g - sigma * self.row
        weight = -(self.z - np.sign(self.z) * config.l1) / self._strength()
        self.row = np.where(abs(self.z) <= config.l1, 0.0, weight)

    def _strength(self) -> npt.NDArray[np.float64]:
        config = self.config
        return (config.eps + np.sqrt(self.total)) / config.learning_rate + config.l2

    def _z_of_row(self) -> npt.NDArray[np.float64]:
        return -self.row * self._strength() - np.sign(self.row) * self.config.l1


class LazyAdam:
    """One row's Adam in float64."""

    def __init__(self, row: npt.NDArray[Any], config: TableConfig) -> None:
        self.row = row.astype(np.float64)
        self.config = config
        self.mean = np.zeros(len(row))
        self.square = np.zeros(len(row))
        self.largest = np.zeros(len(row))
        self.steps = 0

    def step(self, g: npt.NDArray[np.float64], now_ms: int = 0) -> None:
        config = self.config
        self.steps += 1
        self.mean = config.beta1 * self.mean + (1 - config.beta1) * g
        self.square = config.beta2 * self.square + (1 - config.beta2) * g * g
        self.largest = np.maximum(self.largest, self.square)
        mean = self.mean / (1 - config.beta1**self.steps)
        square = (self.largest if config.amsgrad else self.square) / (1 - config.beta2**self.steps)
        self.row *= 1 - config.learning_rate * config.weight_decay
        self.row -= config.learning_rate * mean / (np.sqrt(square) + config.eps)


TWINS = {"adagrad": Adagrad, "lazy_adam": LazyAdam, "ftrl": Ftrl}


def cross_fid(number: int, left: int, right: int) -> int:
    """The fid of a pair of whole fids in the cross with that slot number."""
    return (number << 48) | (mix((mix(left) + right) & _MASK) >> 16)


def row_with_crosses(spec: FeatureSpec, columns: dict[str, list[int]]) -> list[list[int]]:
    """Fids of each segment of one row: slots, then crosses. ``columns`` has each slot's fids."""
    segments = [columns[slot.name] for slot in spec.slots]
    for cross in spec.crosses:
        left, right = (columns[name] for name in cross.slots)
        segments.append([cross_fid(cross.slot, a, b) for a in left for b in right][: cross.max_values])
    return segments
