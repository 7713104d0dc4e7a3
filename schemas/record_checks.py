"""Whether records are what a feature spec describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from rillet.schemas.arrays import Int64s, UInt16s
from rillet.schemas.block_sizes import BlockSizes
from rillet.schemas.errors import RecordError, SpecMismatchError, TimeUnitError
from rillet.schemas.fid import VALUE_BITS
from rillet.schemas.records import (
    LABEL_OF_KIND,
    MAX_BLOCK_BYTES,
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    LabelKind,
)
from rillet.schemas.slots import Slot

#: widths of requests whose slot patterns are kept
_MAX_PATTERNS = 256
#: context and items of requests that have no more than so many bytes give rows that fit into a block
_LARGE_BYTES = MAX_BLOCK_BYTES // 2
#: the unit of a time that can be meant in another one is not guessed before this
_YEAR_2001_MS = 1_000_000_000_000
#: milliseconds below this may be seconds
_SECONDS_UNTIL = MAX_TIME_MS // 1_000


class RecordChecks:
    """The checks of one feature spec."""

    def __init__(
        self,
        name: str,
        spec_hash: int,
        sides: Mapping[str, Sequence[Slot]],
        dense: int,
        tasks: int,
        block_sizes: BlockSizes,
    ) -> None:
        """
        :param sides: slots of ``context`` and ``item``.
        :param dense: Dd, dense features.
        :param tasks: T.
        """
        self._name, self._hash, self._dense, self._tasks = name, spec_hash, dense, tasks
        self._block_sizes = block_sizes
        #: slot numbers, and fewest and most values, of each side's columns
        self._sides = {
            side: (
                np.array([s.slot for s in slots], np.int64),
                np.array([0 if s.ragged else 1 for s in slots], np.int64),
                np.array([s.max_values for s in slots], np.int64),
            )
            for side, slots in sides.items()
        }
        # Requests of one application have few different widths, and making these costs more than the comparison.
        self._known_columns: dict[tuple[str, int], _Columns] = {}

    def feature(self, event: FeatureEvent) -> None:
        """See :meth:`rillet.schemas.FeatureSpec.check_feature`."""
        self._check_hash(event.spec_hash)
        impressions = len(event.impression_ids)
        if impressions == 0:
            raise RecordError("impression_ids: the request has no impressions")
        if len(set(event.impression_ids.tolist())) != impressions:
            raise RecordError("impression_ids: an id stands twice in the request")
        self._check_fids("context", event.context_fids, event.context_lengths, 1)
        self._check_fids("item", event.item_fids, event.item_lengths, impressions)
        if len(event.dense) != impressions * self._dense:
            raise RecordError(f"dense: {len(event.dense)} numbers, expected {impressions} x {self._dense}")
        if len(event.dense) and np.count_nonzero(np.isfinite(event.dense)) < len(event.dense):
            raise RecordError("dense: a number is not finite")
        if event.served_logits is not None and len(event.served_logits) != impressions * self._tasks:
            raise RecordError(
                f"served_logits: {len(event.served_logits)} numbers, expected {impressions} x {self._tasks}"
            )
        if event.exposed is not None:
            if len(event.exposed) != impressions:
                raise RecordError(f"exposed: {len(event.exposed)} values, expected {impressions}")
            if event.exposed.max() > 1:
                raise RecordError("exposed: a value is neither 0 nor 1")
        _check_time(event.event_time_ms)
        if 8 * (len(event.context_fids) + len(event.item_fids)) + len(event.request_id) > _LARGE_BYTES:
            self._check_rows_fit(event)

    def action(self, event: ActionEvent) -> None:
        """See :meth:`rillet.schemas.FeatureSpec.check_action`."""
        _check_time(event.event_time_ms)
        if event.value is not None and not np.isfinite(event.value):
            raise RecordError("value: not finite")

    def block(self, block: ExampleBlock) -> None:
        """See :meth:`rillet.schemas.FeatureSpec.check_block`."""
        self._check_hash(block.spec_hash)
        n, tasks = len(block), self._tasks
        expected = {
            "request_index": n,
            "dense": n * self._dense,
            "labels": n * tasks,
            "mask": n * tasks,
            "sampling_rate": n,
            "label_kind": n,
            "feature_time_ms": n,
            "action_time_ms": n,
            "feature_ingest_ms": n,
            "action_ingest_ms": n,
        }
        for name, length in expected.items():
            if len(getattr(block, name)) != length:
                raise RecordError(f"{name}: {len(getattr(block, name))} values, expected {length}")
        self._check_fids("context", block.context_fids, block.context_lengths, len(block.request_ids))
        self._check_fids("item", block.item_fids, block.item_lengths, n)
        if n and (block.labels.max() > 1 or block.mask.max() > 1):
            raise RecordError("labels, mask: a value is neither 0 nor 1")
        if n and block.label_kind.max() >= len(LABEL_OF_KIND):
            raise RecordError(f"label_kind: {block.label_kind.max()} is none of 0 to {len(LABEL_OF_KIND) - 1}")
        contrary = block.labels.reshape(n, tasks).any(axis=1) != LABEL_OF_KIND[block.label_kind]
        if contrary.any():
            at = int(contrary.argmax())
            kind, label = LabelKind(block.label_kind[at]).name, int(block.labels.reshape(n, tasks)[at].max())
            raise RecordError(f"label_kind: row {at} is {kind} and has label {label}")
        for name, lowest in (("feature_time_ms", 0), ("action_time_ms", NO_TIME_MS)):
            times = getattr(block, name)
            if n and (times.min() < lowest or times.max() >= MAX_TIME_MS):
                raise RecordError(f"{name}: a time is before 1970 or after 2105")
        if n and not ((block.sampling_rate > 0).all() and (block.sampling_rate <= 1).all()):
            raise RecordError("sampling_rate: a rate is not in (0, 1]")
        if n and (block.request_index.min() < 0 or block.request_index.max() >= len(block.request_ids)):
            raise RecordError("request_index: points outside request_ids")
        if block.served_logits is not None and len(block.served_logits) != n * tasks:
            raise RecordError(f"served_logits: {len(block.served_logits)} numbers, expected {n} x {tasks}")

    def _check_rows_fit(self, event: FeatureEvent) -> None:
        """Each row of the request has to fit into a block, alone."""
        n, sizes = len(event.impression_ids), self._block_sizes
        lengths = event.item_lengths
        fids = np.full(n, len(event.item_fids) // n) if lengths is None else lengths.reshape(n, -1).sum(1, np.int64)
        largest = int(fids.argmax())
        row_bytes = sizes.head_bytes + sizes.request(event) + int(sizes.rows(fids[largest : largest + 1])[0])
        if row_bytes > MAX_BLOCK_BYTES:
            raise RecordError(
                f"context_fids, item_fids: an example of impression {event.impression_ids[largest]} would have {row_bytes} "
                f"bytes, of which {sizes.request(event)} are context and request_id; at most {MAX_BLOCK_BYTES} can be written"
            )

    def _check_hash(self, spec_hash: int) -> None:
        if spec_hash != self._hash:
            raise SpecMismatchError(
                f"spec_hash: written under feature spec {spec_hash:#x}, ours is {self._hash:#x} ({self._name}); name the file of"
                " that spec in also_accepts of rillet.toml, or deploy the same spec to both",
                spec_hash,
            )

    def _check_fids(self, side: str, fids: Int64s, lengths: UInt16s | None, rows: int) -> None:
        # Runs for every record: count_nonzero costs a third of any() on arrays this short, and the slot of a fid is
        # read as its upper 16 bits instead of being shifted out.
        columns = self._columns(side, rows)
        expected = columns.slots
        if lengths is None:
            if len(fids) != len(expected):
                raise RecordError(f"{side} fids: {len(fids)} values, expected {rows} x {columns.width}")
            packed = columns.packed
        else:
            if len(lengths) != len(expected):
                raise RecordError(f"{side} lengths: {len(lengths)} values, expected {rows} x {columns.width}")
            # Unsigned: a length below the smallest becomes a large number.
            if np.count_nonzero(lengths - columns.fewest > columns.spread):
                self._refuse_lengths(side, lengths.reshape(rows, -1))
            expected = expected.repeat(lengths)
            if len(fids) != len(expected):
                raise RecordError(f"{side} fids: {len(fids)} values, lengths ask for {len(expected)}")
            packed = expected.tobytes()
        found = np.ascontiguousarray(fids).view(np.uint16)[3::4]
        if found.tobytes() != packed:
            at = int((found != expected).argmax())
            raise RecordError(
                f"{side} fids: value {at} is of slot {fids[at] >> VALUE_BITS}, expected slot {expected[at]}"
            )

    def _refuse_lengths(self, side: str, counts: UInt16s) -> NoReturn:
        if (counts > self._sides[side][2]).any():
            raise RecordError(f"{side} lengths: a slot has more values than its max_values")
        raise RecordError(f"{side} lengths: a slot with one value per row has none")

    def _columns(self, side: str, rows: int) -> _Columns:
        """What ``rows`` rows with one value per slot look like."""
        known = self._known_columns.get((side, rows))
        if known is None:
            if len(self._known_columns) >= _MAX_PATTERNS:
                self._known_columns.clear()
            numbers, fewest, most = self._sides[side]
            slots = np.tile(numbers.astype("<u2"), rows)
            known = self._known_columns[side, rows] = _Columns(
                len(numbers),
                slots,
                slots.tobytes(),
                np.tile(fewest.astype(np.uint16), rows),
                np.tile((most - fewest).astype(np.uint16), rows),
            )
        return known


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Slots of some rows, one after the other: how many per row, their numbers, fewest values, and how many more."""

    width: int
    slots: UInt16s
    #: the same as bytes
    packed: bytes
    fewest: UInt16s
    spread: UInt16s


def _check_time(event_time_ms: int) -> None:
    if _SECONDS_UNTIL <= event_time_ms < MAX_TIME_MS:
        return
    for unit, scaled in (
        ("seconds", event_time_ms * 1_000),
        ("microseconds", event_time_ms // 1_000),
        ("nanoseconds", event_time_ms // 1_000_000),
    ):
        if _YEAR_2001_MS <= scaled < MAX_TIME_MS:
            raise TimeUnitError(
                f"event_time_ms: {event_time_ms} looks like {unit}, it has to be milliseconds since 1970: {scaled}"
            )
    if not 0 <= event_time_ms < MAX_TIME_MS:
        raise RecordError(f"event_time_ms: {event_time_ms} is before 1970 or after 2105")
