"""Slots of a feature spec, and how their raw values become fids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rillet.schemas.arrays import AnyArray, Int64s
from rillet.schemas.fid import make_fids, token_values

SlotKind = Literal["id", "token", "number", "history"]


@dataclass(frozen=True, slots=True)
class History:
    """What a slot of kind ``history`` holds: values of the items on which ``action`` was taken, newest first.

    :param of: item slot whose values it holds, under the history's own slot number.
    :param action: on an impression, puts that impression's values in; no task needs to ask for it.
    :param by: context slot with one value that says whose history it is.
    :param max_age_ms: values put in longer than this before the request are left out; 0 for any age.
    """

    of: str
    action: str
    by: str
    max_age_ms: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One categorical feature.

    kind ``id`` keeps integers below 2**48 as they are, ``token`` hashes text, ``number`` finds the
    quantile bin of a number; ``history`` holds values of another slot, hashed as that one's
    (:class:`History`, :meth:`FeatureSpec.value_slot`).
    """

    name: str
    slot: int
    kind: SlotKind
    max_values: int = 1
    bins: tuple[float, ...] = ()
    history: History | None = None

    @property
    def ragged(self) -> bool:
        """Whether a row has 0 to ``max_values`` values instead of exactly one."""
        return self.max_values > 1 or self.history is not None

    def fids(self, values: Sequence[Any] | AnyArray) -> Int64s:
        """Fids of raw values, int64[n].

        Values are taken as they are or not at all: 7.9 is no id, and neither None nor a list is a token, since whatever
        became of them would be learned.

        :param values: integers for kind ``id``, text or integers for ``token``, numbers for ``number``; n of them.
        :raises ValueError: a value that the kind cannot take, or the kind is ``history``, whose values
            :meth:`FeatureSpec.value_slot` takes.

        >>> Slot("shelf", 17, "token").fids(["drama", None])
        Traceback (most recent call last):
        ...
        ValueError: slot shelf: None is neither text nor an integer
        """
        if self.history is not None:
            raise ValueError(
                f"slot {self.name}: values of a history are hashed as those of slot {self.history.of}:"
                " call spec.value_slot(slot).fids"
            )
        if self.kind == "token":
            return make_fids(self.slot, token_values(self._text(value) for value in values))
        if np.ndim(values) != 1:
            raise ValueError(f"slot {self.name}: {np.ndim(values)} dimensions, expected one value per row")
        if self.kind == "number":
            numbers = np.asarray(values, np.float64)
            if not np.isfinite(numbers).all():
                raise ValueError(f"slot {self.name}: a number is not finite")
            return make_fids(self.slot, np.searchsorted(np.asarray(self.bins), numbers, side="right"))
        if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
            return make_fids(self.slot, values)
        return make_fids(self.slot, np.array([self._integer(value) for value in values], np.int64))

    def _integer(self, value: Any) -> int:
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return int(value)
        raise ValueError(f"slot {self.name}: {value!r:.80} is no integer")

    def _text(self, value: Any) -> str:
        if isinstance(value, str) or (isinstance(value, int | np.integer) and not isinstance(value, bool)):
            return str(value)
        raise ValueError(f"slot {self.name}: {value!r:.80} is neither text nor an integer")


def quantile_bins(values: npt.ArrayLike, count: int) -> tuple[float, ...]:
    """Inner edges of ``count`` equally filled bins, for a slot of kind ``number``; repeated edges are merged."""
    edges = np.quantile(np.asarray(values, np.float64), np.linspace(0, 1, count + 1)[1:-1])
    return tuple(float(edge) for edge in np.unique(edges))
