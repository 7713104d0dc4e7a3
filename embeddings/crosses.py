"""The fids of a feature spec's crosses, for batches of the trainer and for requests of a server alike.

What is logged has the slots alone; the crosses are derived from it here, when it is learned from and when it is scored.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rillet.embeddings import cross_kernels
from rillet.embeddings.errors import TableInputError
from rillet.embeddings.inputs import NO_LENGTHS, check_fids, check_lengths
from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import Int64s, UInt16s
from rillet.schemas.fid import VALUE_BITS

_NO_FIDS = np.empty(0, np.int64)


class CrossColumns:
    """Adds to the columns of some slots those of the crosses that can be made of them.

    ``of_examples`` has all of a row's slots and crosses. A server has the context once per request: ``of_context`` makes
    the crosses of two context slots there, and ``of_candidates`` the others, per candidate, from the context as it is.

    >>> from rillet.schemas import Cross, FeatureSpec, Slot, make_fids
    >>> spec = FeatureSpec(
    ...     "films", (Slot("recent", 1, "id", max_values=3),), (Slot("film", 2, "id"),), (), (),
    ...     crosses=(Cross("recent_film", 3, ("recent", "film"), max_values=3),),
    ... )
    >>> row = np.concatenate([make_fids(1, [7, 8]), make_fids(2, [9])])
    >>> fids, lengths = CrossColumns.of_examples(spec).add(row, np.array([2, 1], np.uint16), 1)
    >>> lengths.tolist(), (fids >> 48).tolist()
    ([2, 1, 2], [1, 1, 2, 3, 3])
    """

    def __init__(self, spec: FeatureSpec, shared_slots: int, slots: int, crosses: Iterable[int]) -> None:
        """
        :param shared_slots: leading slots of the spec that are not columns here, but that crosses may be made of.
        :param slots: the slots after these, which are the columns.
        :param crosses: which of the spec's, by index.
        """
        chosen = list(crosses)
        places = {slot.name: place for place, slot in enumerate(spec.slots)}
        pairs = [spec.crosses[index] for index in chosen]
        self._shared_slots = shared_slots
        #: the columns before those of crosses
        self.slots = slots
        self._left = np.array([places[cross.slots[0]] for cross in pairs], np.int64)
        self._right = np.array([places[cross.slots[1]] for cross in pairs], np.int64)
        self._limits = np.array([cross.max_values for cross in pairs], np.int64)
        self._tags = np.array([cross.slot << VALUE_BITS for cross in pairs], np.int64)
        #: which segment of a model's input each column is; the slots are consecutive ones
        self.segments = [*range(shared_slots, shared_slots + slots), *(len(spec.slots) + index for index in chosen)]

    @classmethod
    def of_examples(cls, spec: FeatureSpec) -> CrossColumns:
        """All slots and all crosses."""
        return cls(spec, 0, len(spec.slots), range(len(spec.crosses)))

    @classmethod
    def of_context(cls, spec: FeatureSpec) -> CrossColumns:
        """The context slots, and the crosses of two of them."""
        return cls(spec, 0, len(spec.context), _crosses_of_context(spec, True))

    @classmethod
    def of_candidates(cls, spec: FeatureSpec) -> CrossColumns:
        """The item slots, and the crosses with at least one of them; to be used with :meth:`add_sharing`."""
        return cls(spec, len(spec.context), len(spec.item), _crosses_of_context(spec, False))

    def add(self, fids: Int64s, lengths: UInt16s | None, rows: int) -> tuple[Int64s, UInt16s | None]:
        """The rows with their crosses.

        :param fids: int64[F], row after row, slots in order.
        :param lengths: uint16[rows x slots], None where each slot has one value.
        :returns: the same with every row's crosses after its slots; the arguments themselves where there are none.
        :raises TableInputError: the columns do not fit together.
        """
        if not len(self._left):
            return fids, lengths
        return self.add_sharing(fids, lengths, np.array([rows]), _NO_FIDS, None)

    def add_sharing(
        self,
        fids: Int64s,
        lengths: UInt16s | None,
        group_rows: Int64s,
        shared_fids: Int64s,
        shared_lengths: UInt16s | None,
    ) -> tuple[Int64s, UInt16s | None]:
        """The rows with their crosses, where consecutive rows share the slots before theirs.

        :param fids: int64[F], lengths: as for :meth:`add`.
        :param group_rows: int64[G], how many rows each group has.
        :param shared_fids: int64[H], shared_lengths: uint16[G x shared slots] or None, of the groups.
        :raises TableInputError: the columns do not fit together.
        """
        if not len(self._left):
            return fids, lengths
        rows = int(group_rows.sum())
        fids, shared_fids = check_fids(fids), check_fids(shared_fids)
        _check("rows", fids, lengths, rows, self.slots)
        _check("groups", shared_fids, shared_lengths, len(group_rows), self._shared_slots)
        shared = (NO_LENGTHS if shared_lengths is None else shared_lengths, self._shared_slots)
        own = (NO_LENGTHS if lengths is None else lengths, self.slots)
        crosses = (group_rows, self._left, self._right, self._limits)
        width = self.slots + len(self._left)
        out_lengths, total = None, rows * width
        if lengths is not None or shared_lengths is not None:
            out_lengths = np.empty(rows * width, np.uint16)
            total = cross_kernels.lengths_with_pairs(*shared, *own, *crosses, out_lengths)
        out = np.empty(total, np.int64)
        cross_kernels.fids_with_pairs(shared_fids, *shared, fids, *own, *crosses, self._tags, out)
        return out, out_lengths


def _crosses_of_context(spec: FeatureSpec, wanted: bool) -> list[int]:
    """Indices of the crosses that are of two context slots, or of those that are not."""
    context = {slot.name for slot in spec.context}
    return [i for i, cross in enumerate(spec.crosses) if context.issuperset(cross.slots) is wanted]


def _check(what: str, fids: Int64s, lengths: UInt16s | None, rows: int, slots: int) -> None:
    if check_lengths(lengths, len(fids)) != rows * slots:
        raise TableInputError(f"lengths: of {rows} {what} with {slots} slots, found those of {len(fids)} fids")
