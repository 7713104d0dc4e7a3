"""What is to be scored: the padded tensor of a request, made of raw features, of packed columns, or by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rillet.schemas import FeatureEvent, FeatureSpec, RecordError
from rillet.schemas.arrays import AnyArray, Float32s, Int64s, UInt16s
from rillet.serving.features import RequestLayout


def _numbered() -> Int64s:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """N candidates of one request, and the context that they share.

    :param fids: padded tensor int64[N, width]: context columns, then item columns, every slot at its ``max_values``,
        0 where a slot has fewer values.
    :param dense: float32[N, Dd]; None for a spec without dense features.
    :param impression_ids: int64[N], what actions will refer to; empty for 0 to N - 1.
    :param tasks: names of the model's T tasks in the order of the score columns; empty when they are not known here.
    :param spec_hash: of the feature spec that the columns are of; None for whichever is served.
    :raises RecordError: an array of another kind or shape.

    >>> Candidates([[281474976710663, 4503599627370513]]).fids.shape
    (1, 2)
    """

    fids: Int64s
    dense: Float32s | None = None
    impression_ids: Int64s = field(default_factory=_numbered)
    tasks: tuple[str, ...] = ()
    spec_hash: int | None = None

    def __post_init__(self) -> None:
        fids = _array("fids", self.fids, "<i8", dimensions=2)
        rows = len(fids)
        if not rows:
            raise RecordError("fids: there are no candidates to score")
        # Frozen for the caller; converted here once, so that every later step can rely on kind and shape.
        object.__setattr__(self, "fids", fids)
        ids = _array("impression_ids", self.impression_ids, "<i8", dimensions=1)
        object.__setattr__(self, "impression_ids", ids if len(ids) else np.arange(rows))
        if self.dense is not None:
            object.__setattr__(self, "dense", _array("dense", self.dense, "<f4", dimensions=2))
        for name, array in (("dense", self.dense), ("impression_ids", self.impression_ids)):
            if array is not None and len(array) != rows:
                raise RecordError(f"{name}: {len(array)} rows, fids has {rows}")

    def __len__(self) -> int:
        return len(self.fids)


class CandidateEncoder:
    """Makes candidates for one feature spec. Has no state: safe to share between threads.

    >>> from rillet.schemas import parse_spec
    >>> spec = parse_spec('''
    ... [spec]
    ... name = "films"
    ... [[context]]
    ... name = "user"
    ... slot = 1
    ... kind = "id"
    ... [[item]]
    ... name = "film"
    ... slot = 16
    ... kind = "id"
    ... [[tasks]]
    ... name = "watch"
    ... action = "watch"
    ... window_ms = 600_000
    ... ''')
    >>> films = CandidateEncoder(spec).from_features(context={"user": 7}, items={"film": [17, 23, 42]})
    >>> films.fids.shape, films.tasks
    ((3, 2), ('watch',))
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        # The limit on rows is the server's to enforce.
        self._layout = RequestLayout(spec, max_rows=1 << 31)
        self._tasks = tuple(task.name for task in spec.tasks)

    def from_features(
        self,
        *,
        context: Mapping[str, Any] | None = None,
        items: Mapping[str, Sequence[Any] | AnyArray],
        dense: Mapping[str, npt.ArrayLike] | None = None,
        impression_ids: npt.ArrayLike | None = None,
    ) -> Candidates:
        """Candidates from raw values, by the names in the spec.

        :param context: slot name to value; to a sequence of values for a ragged slot. A history has values of the slot that it
            is of (:class:`~rillet.serving.client.Histories` gives them).
        :param items: slot name to N values; to N sequences of values for a ragged slot.
        :param dense: name to N numbers.
        :param impression_ids: integers [N]; None numbers the candidates 0 to N - 1.
        :raises RecordError: a feature is missing or unknown, of another length, or out of its range.
        """
        return self.from_event(self._event("", 0, context or {}, items, dense or {}, impression_ids))

    def feature_event(
        self,
        request_id: str,
        event_time_ms: int,
        *,
        context: Mapping[str, Any] | None = None,
        items: Mapping[str, Sequence[Any] | AnyArray],
        dense: Mapping[str, npt.ArrayLike] | None = None,
        impression_ids: npt.ArrayLike | None = None,
        exposed: npt.ArrayLike | None = None,
    ) -> FeatureEvent:
        """What the server logs of a request, from raw values as :meth:`from_features` takes them: to make a recording of
        requests that were logged elsewhere.

        :param event_time_ms: when the candidates were shown, epoch ms.
        :param exposed: bool[N], which of the candidates were in sight of the user; None for all. The others give no
            examples.
        :raises RecordError: as :meth:`from_features`, or the time is before 1970 or after 2105.
        """
        event = self._event(request_id, event_time_ms, context or {}, items, dense or {}, impression_ids)
        if exposed is not None:
            event = replace(event, exposed=np.asarray(exposed, np.bool_).astype(np.uint8))
        self.spec.check_feature(event)
        return event

    def _event(
        self,
        request_id: str,
        event_time_ms: int,
        context: Mapping[str, Any],
        items: Mapping[str, Sequence[Any] | AnyArray],
        dense: Mapping[str, npt.ArrayLike],
        impression_ids: npt.ArrayLike | None,
    ) -> FeatureEvent:
        spec = self.spec
        _refuse_unknown("context", context, [slot.name for slot in spec.context])
        _refuse_unknown("item", items, [slot.name for slot in spec.item])
        _refuse_unknown("dense", dense, spec.dense_names)
        context_fids, context_lengths = spec.encode_side("context", {name: [value] for name, value in context.items()})
        item_fids, item_lengths = spec.encode_side("item", items)
        numbers = _columns(spec.dense_names, dense)
        ids = impression_ids if impression_ids is not None else np.arange(_rows(spec, items, dense))
        return FeatureEvent(
            request_id=request_id,
            event_time_ms=event_time_ms,
            spec_hash=spec.hash,
            context_fids=context_fids,
            impression_ids=_array("impression_ids", ids, "<i8", 1),
            item_fids=item_fids,
            context_lengths=context_lengths,
            item_lengths=item_lengths,
            dense=np.empty(0, np.float32) if numbers is None else numbers.reshape(-1),
        )

    def from_packed(
        self,
        *,
        context_fids: Int64s,
        item_fids: Int64s,
        impression_ids: npt.ArrayLike,
        context_lengths: UInt16s | None = None,
        item_lengths: UInt16s | None = None,
        dense: npt.ArrayLike | None = None,
    ) -> Candidates:
        """Candidates from packed fids, as :meth:`FeatureSpec.encode_side` gives them and feature events hold them.

        :param context_fids: int64[F]; ``context_lengths`` uint16[Sc], None for one value per slot.
        :param item_fids: int64[F], row after row; ``item_lengths`` uint16[N x Si], None for one value per slot.
        :param impression_ids: integers [N].
        :param dense: numbers [N, Dd].
        :raises RecordError: the columns do not fit the spec.
        """
        ids = _array("impression_ids", impression_ids, "<i8", 1)
        numbers = np.empty(0, np.float32) if dense is None else np.asarray(dense, np.float32)
        return self.from_event(
            FeatureEvent(
                request_id="",
                event_time_ms=0,
                spec_hash=self.spec.hash,
                context_fids=context_fids,
                impression_ids=ids,
                item_fids=item_fids,
                context_lengths=context_lengths,
                item_lengths=item_lengths,
                dense=numbers.reshape(-1),
            )
        )

    def from_event(self, event: FeatureEvent) -> Candidates:
        """The candidates that were scored when ``event`` was logged: how a recording is replayed.

        :raises RecordError: the event is not one of this spec.
        """
        fids = self._layout.to_tensor(event)
        dense = event.dense.reshape(len(fids), -1) if self.spec.dense else None
        return Candidates(fids, dense, event.impression_ids, self._tasks, self.spec.hash)


def _array(name: str, value: npt.ArrayLike, dtype: str, dimensions: int) -> AnyArray:
    """``value`` as a contiguous little-endian array; integers stay exact."""
    wanted = np.dtype(dtype)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from error
    if array.size and array.dtype.kind not in ("iu" if wanted.kind == "i" else "iuf"):
        raise RecordError(f"{name}: expected {wanted.name} values, found {array.dtype}")
    if wanted.kind == "i" and array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise RecordError(f"{name}: {array.max()} does not fit in int64")
    if array.ndim != dimensions:
        raise RecordError(f"{name}: {array.ndim} dimensions, expected {dimensions}")
    return np.ascontiguousarray(array, wanted)


def _refuse_unknown(side: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RecordError(f"{side} column {unknown[0]} is not in the feature spec; it has {', '.join(known) or 'none'}")


def _rows(spec: FeatureSpec, items: Mapping[str, Any], dense: Mapping[str, Any]) -> int:
    if spec.item:
        return len(items[spec.item[0].name])
    return len(dense[spec.dense[0].name]) if spec.dense else 1


def _columns(names: Sequence[str], columns: Mapping[str, npt.ArrayLike]) -> Float32s | None:
    """Named columns of N numbers as float32[N, Dd]; None without names."""
    if not names:
        return None
    for name in names:
        if name not in columns:
            raise RecordError(f"dense column {name} is missing")
    arrays = [_array(f"dense column {name}", columns[name], "<f4", 1) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise RecordError(f"dense column {name} has {len(array)} rows, {names[0]} has {len(arrays[0])}")
    return np.stack(arrays, axis=1)
