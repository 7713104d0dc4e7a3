"""How many bytes an example block has at most, before it is made: what its rows and its requests add."""

from __future__ import annotations

from collections.abc import Sequence

from rillet.schemas.arrays import Int64s
from rillet.schemas.records import FeatureEvent
from rillet.schemas.slots import Slot

#: header, spec hash, bucket, and the lengths of the columns
_HEAD_BYTES = 256
#: columns of a row that every spec has: request index, impression id, rate, kind, four times
_ROW_BYTES = 4 + 8 + 4 + 1 + 4 * 8


class BlockSizes:
    """Encoded sizes under one spec; never less than they turn out to be."""

    head_bytes = _HEAD_BYTES

    def __init__(self, context: Sequence[Slot], item: Sequence[Slot], dense: int, tasks: int) -> None:
        """
        :param dense: Dd, dense features.
        :param tasks: T.
        """
        self._context_lengths = 2 * len(context)
        #: of a row without its fids; labels, mask and served logits are per task
        self._row = _ROW_BYTES + 2 * len(item) + 4 * dense + 6 * tasks
        #: of the largest row that the slots allow
        self.widest_row = self._row + 8 * sum(slot.max_values for slot in item)

    def rows(self, fids: Int64s) -> Int64s:
        """Of rows with so many item fids each, int64[n]."""
        return self._row + 8 * fids

    def request(self, event: FeatureEvent) -> int:
        """Of what is in a block once per request."""
        return 16 + self._context_lengths + 8 * len(event.context_fids) + len(event.request_id.encode())
