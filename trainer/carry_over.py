"""A checkpoint of a model on one feature spec as one of the same model on another: everything is carried over by name.

Embeddings need nothing, since they are found by fid. Of the dense part the weights, and what their optimisers remember, keep
their places along the axes of segments, dense features and tasks; what is new starts at its initial weights, what is gone
is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import AnyArray, Int64s
from rillet.trainer.checkpoint import Arrays
from rillet.trainer.config import ModelConfig

#: prefixes of the arrays of progress in a checkpoint: quality, ranges of dense features, rows that were learned from
QUALITY, RANGES, LEARNED = "quality.", "ranges.", "learned."
_SAMPLE = "dense.sample"

#: what lies along each axis of an array of the dense part: a key of the places below, or None where it is the same
_Axes = tuple[str | None, ...]


class CarryOver:
    """From a spec to another, for one kind of model."""

    def __init__(self, old: FeatureSpec, new: FeatureSpec, model: ModelConfig) -> None:
        self._old, self._new, self._kind = old, new, model.kind
        segments, dense = _places(_segments(old), _segments(new)), _places(_dense(old), _dense(new))
        width = model.row_dim - 1
        latent = np.where(segments[:, None] < 0, -1, segments[:, None] * width + np.arange(width)).reshape(-1)
        inputs = np.where(dense < 0, -1, dense + len(_segments(old)) * width)
        #: by axis, int64: the place in the old array of each place in the new one, -1 where it is new
        self._places: dict[str, Int64s] = {
            "tasks": _places([task.name for task in old.tasks], [task.name for task in new.tasks]),
            "dense": dense,
            "inputs": np.concatenate([latent, inputs]),
        }
        last = 2 * len(model.hidden)
        self._axes: dict[str, _Axes] = {
            "bias": ("tasks",),
            "dense.mean": ("dense",),
            "dense.scale": ("dense",),
            "model.scale": ("tasks",),
            "model.dense_weight": ("dense", "tasks"),
            "model.linear.scale": ("tasks",),
            "model.linear.dense_weight": ("dense", "tasks"),
            "model.fm_scale": ("tasks",),
            f"model.network.{last}.weight": ("tasks", None),
            "model.network.0.weight": (None, "inputs") if last else ("tasks", "inputs"),
        }
        self._same_shape = _segments(old) == _segments(new) and all(map(_unchanged, self._places.values()))

    @property
    def inner_starts_anew(self) -> bool:
        """Whether the dense part of the model starts anew, but for the bias: of a user's own model the axes are not known."""
        return ":" in self._kind and not self._same_shape

    def files(self, old: Mapping[str, Arrays], fresh: Mapping[str, Arrays]) -> dict[str, Arrays]:
        """The files of the checkpoint, as a trainer on the new spec restores them.

        :param fresh: ``dense``, ``optimizer`` and ``progress`` of such a trainer before its first example.
        """
        return {
            **old,
            "dense": self._dense_part(old["dense"], fresh["dense"]),
            "optimizer": self._dense_part(old["optimizer"], fresh["optimizer"]),
            "progress": self._progress(old["progress"], fresh["progress"]),
        }

    def _dense_part(self, old: Arrays, fresh: Arrays) -> Arrays:
        return {name: self._carried(name, old.get(name), array) for name, array in fresh.items()}

    def _carried(self, name: str, old: AnyArray | None, fresh: AnyArray) -> AnyArray:
        """:param name: of a weight, or of what an optimiser keeps of it: ``WEIGHT.KEY``."""
        if old is None or (name.startswith("model.") and self.inner_starts_anew):
            return fresh
        if name == _SAMPLE:
            # Of a feature that is new nothing is known, which NaN says.
            return _along((None, self._places["dense"]), old, np.full_like(fresh, np.nan))
        axes = self._axes.get(name) or self._axes.get(name.rpartition(".")[0]) or ()
        # One number for all of a weight, such as the count of steps.
        if not fresh.ndim:
            axes = ()
        return _along([None if axis is None else self._places[axis] for axis in axes], old, fresh)

    def _progress(self, old: Arrays, fresh: Arrays) -> Arrays:
        dropped = [QUALITY, *([] if self._same_shape else [LEARNED])]
        if self._old.dense_names != self._new.dense_names:
            dropped.append(RANGES)
        progress = {name: array for name, array in old.items() if not name.startswith(tuple(dropped))}
        progress |= {name: array for name, array in fresh.items() if name.startswith(tuple(dropped))}
        for task, was in enumerate(self._places["tasks"].tolist()):
            prefix = f"{QUALITY}{was}."
            progress |= {
                f"{QUALITY}{task}.{name.removeprefix(prefix)}": array
                for name, array in old.items()
                if name.startswith(prefix)
            }
        return progress


def _along(places: Sequence[Int64s | None], old: AnyArray, fresh: AnyArray) -> AnyArray:
    """``fresh`` with what ``old`` has of it.

    :param places: for each of the first axes, see :attr:`CarryOver._places`; None for one that is the same.
    """
    if not places:
        return old
    out: Any = fresh.copy()
    whole = [np.arange(size) for size in fresh.shape]
    to = [axis if at is None else np.flatnonzero(at >= 0) for axis, at in zip(whole, places, strict=True)]
    of = [axis if at is None else at[at >= 0] for axis, at in zip(whole, places, strict=True)]
    out[np.ix_(*to)] = old[np.ix_(*of)]
    carried: AnyArray = out
    return carried


def _segments(spec: FeatureSpec) -> list[Any]:
    return [(slot.name, slot.slot) for slot in spec.slots] + [(cross.name, cross.slot) for cross in spec.crosses]


def _dense(spec: FeatureSpec) -> list[Any]:
    """With another transform a feature is another number to the model."""
    return [(dense.name, dense.transform) for dense in spec.dense]


def _places(old: Sequence[Any], new: Sequence[Any]) -> Int64s:
    known = {key: at for at, key in enumerate(old)}
    return np.array([known.get(key, -1) for key in new], np.int64)


def _unchanged(places: Int64s) -> bool:
    return bool((places == np.arange(len(places))).all())
