"""Feature events of records of the features topic: a page with its candidates, or a single impression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from rillet.schemas import MAX_VALUE, FeatureEvent, RecordError, Slot, SpecRegistry, token_values
from rillet.schemas.arrays import Float32s, UInt8s
from rillet.sources.config import FeatureSource
from rillet.sources.errors import SourceError
from rillet.sources.new_columns import NewColumns
from rillet.sources.paths import Path, joined, shown
from rillet.sources.scores import ScoreReader
from rillet.sources.values import check_text, id_text, impression_number, missing_or, time_ms

_NUMBERS = (int, float, Decimal)
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class RawPage:
    """What a record says of one request, by the names of the feature spec; values as they were found.

    :param impressions: id of each of the N impressions, as found.
    :param impression_ids: the same as integers.
    :param context: slot name to value, a list of them for a slot of several.
    :param items: slot name to N values, or lists of them.
    :param dense: name to N numbers.
    :param scores: task to N scores, None where an impression has none.
    :param exposed: N times whether the impression was exposed; None where the source does not say.
    :param record: all of it as decoded; for messages.
    :param lacking: slots and dense features that are new to a spec that is being changed, and that the page, or one of its
        impressions, lacks; None stands for their values.
    """

    request_id: str
    event_time_ms: int
    impressions: list[Any]
    impression_ids: list[int]
    context: dict[str, Any]
    items: dict[str, list[Any]]
    dense: dict[str, list[Any]]
    scores: dict[str, list[Any]]
    record: Mapping[str, Any]
    exposed: list[Any] | None = None
    lacking: tuple[str, ...] = ()


class FeatureReader:
    """Reads decoded records of the features topic as a source says."""

    def __init__(self, specs: SpecRegistry, source: FeatureSource) -> None:
        """:raises SourceError: a slot, dense feature or task is named that none of the specs has."""
        spec = specs.current
        known = [
            name for one in (spec, *specs.others) for name in (*(slot.name for slot in one.slots), *one.dense_names)
        ]
        for name in source.slots:
            if name not in known:
                raise SourceError(
                    f"sources.features.slots.{name}: feature spec {spec.name} has no slot or dense feature of this name;"
                    f" it has {', '.join(dict.fromkeys(known))}"
                )
        self.time_path = source.time
        self._spec = spec
        self._source = source
        self._request_id = Path(source.request_id)
        self._time = Path(source.time)
        self._items = Path(source.items) if source.items else None
        self._impression_id = Path(source.impression_id)
        self._context_paths = [(slot, _path(source, slot.name)) for slot in spec.context]
        self._item_paths = [(slot, _path(source, slot.name)) for slot in spec.item]
        self._dense_paths = [(name, _path(source, name)) for name in spec.dense_names]
        self._scores = ScoreReader(specs, source)
        self._new = NewColumns(specs)
        self._exposed = Path(source.exposed) if source.exposed else None
        self._number_slots = [slot for slot in spec.slots if spec.value_slot(slot).kind == "number"]

    def read(self, value: Mapping[str, Any]) -> RawPage:
        """What the record says, by names of the spec. Lists that are not there are empty.

        :raises RecordError: something is missing or not of its kind; with its path.
        """
        source = self._source
        request_id = id_text(self._request_id.find(value), source.request_id)
        event_time_ms = time_ms(self._time.find(value), source.time_unit, source.time)
        items = [value] if self._items is None else _list_of_items(self._items.find(value), source.items)
        impressions = self._impression_id.column(items, source.items)
        numbers = self._impression_numbers(impressions)
        if len(set(numbers)) < len(numbers):
            at = _first_repeated(numbers)
            place = self._item_path(at, source.impression_id)
            raise RecordError(f"{place}: {shown(impressions[at])} stands twice in the request")
        if self._items is None:
            request_id = impression_request_id(request_id, impressions[0])
        context = {slot.name: _value(slot, path.find(value)) for slot, path in self._context_paths}
        of_items = {
            slot.name: [_value(slot, found) for found in path.column(items, source.items)]
            for slot, path in self._item_paths
        }
        dense = {name: path.column(items, source.items) for name, path in self._dense_paths}
        page = RawPage(
            request_id,
            event_time_ms,
            impressions,
            numbers,
            context,
            of_items,
            dense,
            self._scores.read(items, source.items),
            value,
            None if self._exposed is None else self._exposed.column(items, source.items),
            self._new.lacking(context, of_items, dense),
        )
        self._check_numbers(page)
        return page

    def event(self, page: RawPage) -> FeatureEvent:
        """The event, values hashed and binned by the spec.

        :raises RecordError: a value that its slot does not take; with its path.
        """
        try:
            context, context_lengths = self._new.encode_side("context", {name: [v] for name, v in page.context.items()})
            item, item_lengths = self._new.encode_side("item", page.items)
        except RecordError:
            self._refuse_value(page)
            raise
        return FeatureEvent(
            request_id=page.request_id,
            event_time_ms=page.event_time_ms,
            spec_hash=self._spec.hash,
            context_fids=context,
            context_lengths=context_lengths,
            impression_ids=np.array(page.impression_ids, np.int64),
            item_fids=item,
            item_lengths=item_lengths,
            dense=self._dense(page),
            served_logits=self._scores.logits(page.scores, self._item_path),
            exposed=self._exposures(page),
        )

    def _exposures(self, page: RawPage) -> UInt8s | None:
        """Whether each impression was exposed, uint8[N].

        :raises RecordError: neither true nor false; with its path.
        """
        if page.exposed is None:
            return None
        for at, found in enumerate(page.exposed):
            if not isinstance(found, bool):
                path = self._item_path(at, self._source.exposed)
                raise RecordError(f"{path}: {missing_or(found, 'is neither true nor false')}")
        return np.array(page.exposed, np.uint8)

    def _dense(self, page: RawPage) -> Float32s:
        """Dense features of the impressions, row after row, float32[N x Dd]."""
        if not self._dense_paths:
            return np.empty(0, np.float32)
        columns = [self._new.dense_column(name, page.dense[name]) for name, _ in self._dense_paths]
        return np.array(columns, np.float64).T.astype(np.float32).reshape(-1)

    def _impression_numbers(self, impressions: list[Any]) -> list[int]:
        path = self._source.impression_id
        try:
            if all(type(found) is str and found for found in impressions):
                # One at a time they would cost as much as all the rest of them.
                hashed: list[int] = token_values(impressions).tolist()
                return hashed
            return [impression_number(found, path) for found in impressions]
        except (RecordError, UnicodeEncodeError):
            # Names of places are made only where one is needed.
            return [impression_number(found, self._item_path(at, path)) for at, found in enumerate(impressions)]

    def _check_numbers(self, page: RawPage) -> None:
        """NumPy would read a number out of text, and take true for 1.

        :raises RecordError: a number is none.
        """
        columns = [self._new.dense_column(name, page.dense[name]) for name, _ in self._dense_paths]
        for slot in self._number_slots:
            column = page.items[slot.name] if slot.name in page.items else [page.context[slot.name]]
            if slot.name in self._new.slots:
                column = [value for value in column if value is not None]
            columns += [value if type(value) is list else [value] for value in column]
        if not all(type(one) in (float, int) and -_MAX_FLOAT32 <= one <= _MAX_FLOAT32 for c in columns for one in c):
            self._refuse_value(page)

    def _refuse_value(self, page: RawPage) -> None:
        """Finds the first value that its slot or dense feature does not take.

        :raises RecordError: there is one.
        """
        for slot, path in self._context_paths:
            value = page.context[slot.name]
            if value is None and slot.name in self._new.slots:
                continue
            if value is None:
                raise _missing("slot", slot.name, path, path.text, page.record)
            _check_value(self._spec.value_slot(slot), slot.ragged, value, path.text)
        items = [page.record] if self._items is None else self._items.find(page.record)
        for slot, path in self._item_paths:
            for index, value in enumerate(page.items[slot.name]):
                place = self._item_path(index, path.text)
                if value is None and slot.name in self._new.slots:
                    continue
                if value is None:
                    raise _missing("slot", slot.name, path, place, items[index])
                _check_value(slot, slot.ragged, value, place)
        for name, path in self._dense_paths:
            for index, value in enumerate(self._new.dense_column(name, page.dense[name])):
                place = self._item_path(index, path.text)
                if value is None:
                    raise _missing("dense feature", name, path, place, items[index])
                _check_number(value, place, _MAX_FLOAT32)

    def _item_path(self, index: int, path: str) -> str:
        return path if self._items is None else f"{self._source.items}.{index}.{path}"


def _missing(what: str, name: str, path: Path, place: str, value: Any) -> RecordError:
    """:param value: in which nothing lies at the path."""
    near = path.nearest(value)
    hint = "" if near is None else f"; {shown(near)} is there: is that meant?"
    return RecordError(
        f"{place}: is missing or null ({what} {name}; [sources.features.slots] {name} says where it lies){hint}"
    )


def _first_repeated(numbers: list[int]) -> int:
    """Index of the first number that stands before it, too."""
    seen: set[int] = set()
    for index, number in enumerate(numbers):
        if number in seen:
            return index
        seen.add(number)
    raise ValueError("no number stands twice")


def impression_request_id(request_id: str, impression: Any) -> str:
    """Id of the request that an impression without a page is: that of its event, ``|``, and the impression's as text.

    In both, ``%`` is written ``%25`` and ``|`` is written ``%7C``, so that two pairs of ids never give the same one. The
    integer 42 and the text "42" are the same part of it.

    >>> impression_request_id("p7", 42), impression_request_id("p|7", "5%")
    ('p7|42', 'p%7C7|5%25')
    """
    return f"{_escaped(request_id)}|{_escaped(str(impression))}"


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("|", "%7C")


def _path(source: FeatureSource, name: str) -> Path:
    # A slot's own name is a name, whatever characters it has.
    return Path(source.slots.get(name, name.replace(".", "\\.")))


def _list_of_items(found: Any, path: str) -> list[Any]:
    if not isinstance(found, list):
        raise RecordError(f"{path}: {missing_or(found, 'is no list of candidates')}")
    if not found:
        raise RecordError(f"{path}: is an empty list; a request needs candidates")
    return found


def _value(slot: Slot, found: Any) -> Any:
    return [] if found is None and slot.ragged else found


def _check_number(value: Any, path: str, limit: float) -> None:
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        raise RecordError(f"{path}: {missing_or(value, 'is no number')}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RecordError(f"{path}: {shown(value)} is not finite")
    if abs(number) > limit:
        raise RecordError(f"{path}: {shown(value)} is too large for 32 bits")


def _check_value(slot: Slot, ragged: bool, value: Any, path: str) -> None:
    """:raises RecordError: what a slot does not take."""
    if ragged:
        if not isinstance(value, list):
            raise RecordError(
                f"{path}: {shown(value)} is no list; slot {slot.name} takes up to {slot.max_values} values"
            )
        if len(value) > slot.max_values:
            raise RecordError(f"{path}: has {len(value)} values; max_values of slot {slot.name} is {slot.max_values}")
    values: Sequence[Any] = value if ragged else [value]
    for index, one in enumerate(values):
        place = joined(path, str(index)) if ragged else path
        if slot.kind == "id" and type(one) is not int:
            trouble = f"is no integer; slot {slot.name} is of kind id, and of kind token if its values are to be hashed"
            raise RecordError(f"{place}: {missing_or(one, trouble)}")
        if slot.kind == "id" and not 0 <= one <= MAX_VALUE:
            raise RecordError(f"{place}: {one} is not in 0..2**48-1, the ids of a slot of kind id")
        if slot.kind == "token" and type(one) is not int:
            if not isinstance(one, str):
                raise RecordError(f"{place}: {missing_or(one, 'is neither text nor an integer')}")
            check_text(one, place)
        if slot.kind == "number":
            _check_number(one, place, math.inf)
