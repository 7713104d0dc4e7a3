"""The feature spec: one TOML file that says what is logged, trained on and served.

It names the slots of a request (context) and of each impression (item), how a raw value becomes a
fid, the dense features, the tasks with their label windows and sampling rates, and the crosses of slots that a model
reads besides. Its hash travels in every record; a reader with another hash refuses the record instead of mixing meanings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from rillet.schemas.arrays import AnyArray, Int64s, UInt16s
from rillet.schemas.crosses import Cross
from rillet.schemas.errors import RecordError, SpecMismatchError, TimeUnitError
from rillet.schemas.fid import VALUE_BITS, make_fids, token_values
from rillet.schemas.records import (
    LABEL_OF_KIND,
    MAX_TIME_MS,
    NO_TIME_MS,
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    LabelKind,
)

Kind = Literal["id", "token", "number", "history"]
LatePolicy = Literal["drop", "emit"]
Transform = Literal["none", "log1p"]
#: When the rows of a pair (an impression and a task) go out:
#: ``positives_first``: a positive with its action, a negative once the window has closed;
#: ``aligned``: either once the window has closed;
#: ``immediate``: every sampled impression at once as a provisional negative, an action as its correction.
LabelMode = Literal["positives_first", "aligned", "immediate"]
#: of the records, part of every spec's hash: raised with every change of what they mean
SCHEMA_VERSION = 2
#: widths of requests whose slot patterns are kept
_MAX_PATTERNS = 256
#: the unit of a time that can be meant in another one is not guessed before this
_YEAR_2001_MS = 1_000_000_000_000
#: milliseconds below this may be seconds
_SECONDS_UNTIL = MAX_TIME_MS // 1_000


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
    kind: Kind
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


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """A number per candidate.

    Records hold it as it is. A model transforms it (``log1p`` is sign(x) ln(1 + abs(x)), for numbers of any sign) and
    standardises what comes out by what it has learned of the feature, wherever it is trained and served.
    """

    name: str
    transform: Transform = "none"


@dataclass(frozen=True, slots=True)
class Task:
    """One label: the action that makes it positive, and how long after the impression it may come.

    A negative is kept with probability ``negative_rate``. An action within its window that arrives after
    the window was closed is late: ``drop`` counts it, ``emit`` sends a late positive. An action may
    lie up to ``early_ms`` before its impression by its event time, because two machines' clocks differ; one
    that lies further before it is no positive. ``labels`` says when the rows of a pair go out
    (:data:`LabelMode`). ``docs/join.md`` is the exact definition.
    """

    name: str
    action: str
    window_ms: int
    negative_rate: float = 1.0
    late: LatePolicy = "drop"
    early_ms: int = 5_000
    labels: LabelMode = "immediate"


@dataclass(frozen=True)
class FeatureSpec:
    """Slots, dense features and tasks. Column order everywhere: context slots, then item slots, as declared."""

    name: str
    context: tuple[Slot, ...]
    item: tuple[Slot, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[Task, ...]
    sampling_seed: int = 0
    crosses: tuple[Cross, ...] = ()

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Context slots, then item slots: the S columns of an example."""
        return self.context + self.item

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the dense features, as declared."""
        return tuple(dense.name for dense in self.dense)

    @property
    def segments(self) -> int:
        """Embedding segments of a model's input: one per slot, then one per cross, as declared."""
        return len(self.slots) + len(self.crosses)

    @property
    def ragged(self) -> bool:
        """Whether any slot takes another number of values than one, so that lengths are stored."""
        return any(slot.ragged for slot in self.slots)

    @property
    def width(self) -> int:
        """Columns of the padded request tensor: every slot at its ``max_values``."""
        return sum(slot.max_values for slot in self.slots)

    @property
    def histories(self) -> tuple[Slot, ...]:
        """The context slots of kind ``history``."""
        return tuple(slot for slot in self.context if slot.history is not None)

    def without_histories(self) -> FeatureSpec:
        """The spec without its histories and their crosses: what is left when nobody keeps any."""
        left_out = {slot.name for slot in self.histories}
        return replace(
            self,
            context=tuple(slot for slot in self.context if slot.history is None),
            crosses=tuple(cross for cross in self.crosses if left_out.isdisjoint(cross.slots)),
        )

    def value_slot(self, slot: Slot) -> Slot:
        """The slot that makes fids of raw values of ``slot``: itself, or for a history the slot it is of, renumbered.

        >>> film = Slot("film", 16, "token")
        >>> seen = Slot("seen", 6, "history", 20, history=History(of="film", action="watch", by="user"))
        >>> spec = FeatureSpec("films", (Slot("user", 1, "id"), seen), (film,), (), ())
        >>> spec.value_slot(seen)
        Slot(name='seen', slot=6, kind='token', max_values=20, bins=(), history=None)
        """
        if slot.history is None:
            return slot
        of = next(item for item in self.item if item.name == slot.history.of)
        return replace(of, name=slot.name, slot=slot.slot, max_values=slot.max_values)

    @property
    def canonical_json(self) -> str:
        """What :attr:`hash` is of: all but crosses and transforms, keys sorted, no white space, ASCII alone."""
        recorded = asdict(self, dict_factory=_present)
        del recorded["crosses"]
        recorded["dense"] = list(self.dense_names)
        return _canonical({"schema_version": SCHEMA_VERSION, **recorded})

    @cached_property
    def hash(self) -> int:
        """Of all that decides what records hold: all but crosses and transforms, which a model makes of records.

        The first 15 hexadecimal digits of the SHA-256 of :attr:`canonical_json`: not negative in a signed integer of
        64 bits, and the same digits in every language.
        """
        return _hash_of(self.canonical_json)

    @cached_property
    def model_hash(self) -> int:
        """Of all that decides what a model reads: :attr:`hash`, crosses and transforms; equal to it without them."""
        derived: dict[str, Any] = {}
        if self.crosses:
            derived["crosses"] = [asdict(cross) for cross in self.crosses]
        if transforms := {dense.name: dense.transform for dense in self.dense if dense.transform != "none"}:
            derived["transforms"] = transforms
        return _hash_of(_canonical({"spec": self.hash, **derived})) if derived else self.hash

    @cached_property
    def _sides(self) -> dict[str, tuple[Int64s, Int64s, Int64s]]:
        """Slot numbers, and fewest and most values, of each side's columns."""
        sides = {"context": self.context, "item": self.item, "example": self.slots}
        return {
            side: (
                np.array([s.slot for s in slots], np.int64),
                np.array([0 if s.ragged else 1 for s in slots], np.int64),
                np.array([s.max_values for s in slots], np.int64),
            )
            for side, slots in sides.items()
        }

    def encode_side(
        self, side: Literal["context", "item"], columns: Mapping[str, Sequence[Any] | AnyArray]
    ) -> tuple[Int64s, UInt16s | None]:
        """Raw columns of r rows to packed fids (row after row) and lengths.

        :param columns: slot name to r values; r sequences of values for a ragged slot. Those of a history are values of
            the slot that it is of, newest first.
        :returns: fids int64[F] and lengths uint16[r x slots of the side], None when no slot of the side is ragged.
        :raises RecordError: a column is missing, of another length, or holds a value out of its range.
        """
        slots = self.context if side == "context" else self.item
        flat: list[Int64s] = []
        counts: list[Int64s] = []
        rows = -1
        for slot in slots:
            if slot.name not in columns:
                raise RecordError(f"{side} column {slot.name} is missing")
            values = columns[slot.name]
            if isinstance(values, str | bytes):
                raise RecordError(f"{side} column {slot.name} is text, expected one value per row")
            if rows not in (-1, len(values)):
                raise RecordError(f"{side} column {slot.name} has {len(values)} rows, the others {rows}")
            rows = len(values)
            try:
                if not slot.ragged:
                    flat.append(slot.fids(values))
                    counts.append(np.ones(rows, np.int64))
                else:
                    if any(isinstance(row, str | bytes | Mapping) for row in values):
                        raise ValueError("a row is text or a mapping, expected a sequence of values")
                    lengths = np.fromiter((len(v) for v in values), np.int64, rows)
                    if rows and lengths.max() > slot.max_values:
                        raise ValueError(f"{lengths.max()} values, max_values is {slot.max_values}")
                    flat.append(self.value_slot(slot).fids([v for row in values for v in row]))
                    counts.append(lengths)
            except (ValueError, TypeError, OverflowError) as error:
                raise RecordError(f"{side} column {slot.name}: {error}") from error
        if not slots:
            return np.empty(0, np.int64), None
        lengths_2d = np.stack(counts, axis=1)
        # Values lie column after column; a stable sort by row brings them to row after row, slots in order.
        row_of = np.concatenate([np.repeat(np.arange(rows), count) for count in counts])
        fids = np.concatenate(flat)[np.argsort(row_of, kind="stable")]
        ragged = any(slot.ragged for slot in slots)
        return fids, lengths_2d.astype(np.uint16).reshape(-1) if ragged else None

    def check_feature(self, event: FeatureEvent) -> None:
        """Refuses an event that this spec does not describe.

        :raises SpecMismatchError: written under another spec.
        :raises RecordError: a column of the wrong width, a fid in a wrong slot, a number that is not finite.
        """
        self._check_hash(event.spec_hash)
        impressions = len(event.impression_ids)
        if impressions == 0:
            raise RecordError("impression_ids: the request has no impressions")
        if len(set(event.impression_ids.tolist())) != impressions:
            raise RecordError("impression_ids: an id stands twice in the request")
        self._check_fids("context", event.context_fids, event.context_lengths, 1)
        self._check_fids("item", event.item_fids, event.item_lengths, impressions)
        if len(event.dense) != impressions * len(self.dense):
            raise RecordError(f"dense: {len(event.dense)} numbers, expected {impressions} x {len(self.dense)}")
        if len(event.dense) and np.count_nonzero(np.isfinite(event.dense)) < len(event.dense):
            raise RecordError("dense: a number is not finite")
        if event.served_logits is not None and len(event.served_logits) != impressions * len(self.tasks):
            raise RecordError(
                f"served_logits: {len(event.served_logits)} numbers, expected {impressions} x {len(self.tasks)}"
            )
        _check_time(event.event_time_ms)

    def check_action(self, event: ActionEvent) -> None:
        """Refuses an action with impossible numbers; an action that no task asks for is not an error.

        :raises RecordError: a time before 1970 or after 2105, or a value that is not finite.
        """
        _check_time(event.event_time_ms)
        if event.value is not None and not np.isfinite(event.value):
            raise RecordError("value: not finite")

    def check_block(self, block: ExampleBlock) -> None:
        """Refuses an example block whose columns do not fit together or this spec.

        DenseFeature numbers may be of any size, and not finite: the trainer refuses their rows alone.

        :raises SpecMismatchError: written under another spec.
        :raises RecordError: a column of the wrong length, a label that is no label, an absurd time or rate.
        """
        self._check_hash(block.spec_hash)
        n, tasks = len(block), len(self.tasks)
        expected = {
            "request_index": n,
            "dense": n * len(self.dense),
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
        self._check_fids("example", block.fids, block.lengths, n)
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

    def _check_hash(self, spec_hash: int) -> None:
        if spec_hash != self.hash:
            raise SpecMismatchError(
                f"spec_hash: written under feature spec {spec_hash:#x}, ours is {self.hash:#x} ({self.name})", spec_hash
            )

    def _check_fids(self, side: str, fids: Int64s, lengths: UInt16s | None, rows: int) -> None:
        # Runs for every record: count_nonzero costs a third of any() on arrays this short, and the slot of a fid is
        # read as its upper 16 bits instead of being shifted out.
        columns = self._columns(side, rows)
        expected = columns.slots
        if lengths is None:
            if len(fids) != len(expected):
                raise RecordError(f"{side} fids: {len(fids)} values, expected {rows} x {columns.width}")
        else:
            if len(lengths) != len(expected):
                raise RecordError(f"{side} lengths: {len(lengths)} values, expected {rows} x {columns.width}")
            # Unsigned: a length below the smallest becomes a large number.
            if np.count_nonzero(lengths - columns.fewest > columns.spread):
                self._refuse_lengths(side, lengths.reshape(rows, -1))
            expected = expected.repeat(lengths)
            if len(fids) != len(expected):
                raise RecordError(f"{side} fids: {len(fids)} values, lengths ask for {len(expected)}")
        found = np.ascontiguousarray(fids).view(np.uint16)[3::4]
        if found.tobytes() != expected.tobytes():
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
            known = self._known_columns[side, rows] = _Columns(
                len(numbers),
                np.tile(numbers.astype("<u2"), rows),
                np.tile(fewest.astype(np.uint16), rows),
                np.tile((most - fewest).astype(np.uint16), rows),
            )
        return known

    @cached_property
    def _known_columns(self) -> dict[tuple[str, int], _Columns]:
        # Requests of one application have few different widths, and making these costs more than the comparison.
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Slots of some rows, one after the other: how many per row, their numbers, fewest values, and how many more."""

    width: int
    slots: UInt16s
    fewest: UInt16s
    spread: UInt16s


def _present(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # What a slot does not have does not count: a spec without histories has the hash that it had before there were any.
    return {name: value for name, value in fields if value is not None}


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


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


def quantile_bins(values: npt.ArrayLike, count: int) -> tuple[float, ...]:
    """Inner edges of ``count`` equally filled bins, for a slot of kind ``number``; repeated edges are merged."""
    edges = np.quantile(np.asarray(values, np.float64), np.linspace(0, 1, count + 1)[1:-1])
    return tuple(float(edge) for edge in np.unique(edges))
