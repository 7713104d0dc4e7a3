"""The request's padded tensor to packed feature columns and back; the one place where a request meets the spec.

What comes out is what the model is given *and* what is logged: the trainer learns from the served features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rillet.schemas import MAX_TIME_MS, PADDING_FID, FeatureEvent, FeatureSpec, RecordError, Slot
from rillet.schemas.arrays import Bools, Float32s, Int64s, UInt16s
from rillet.schemas.fid import VALUE_BITS
from rillet.serving.errors import InvalidRequestError
from rillet.serving.protocol import InferRequest


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """One request, checked and packed. ``rows`` candidates; lengths are None where no slot of the side is ragged."""

    request_id: str
    event_time_ms: int
    #: whether the served features go to the feature log
    log: bool
    rows: int
    context_fids: Int64s
    context_lengths: UInt16s | None
    impression_ids: Int64s
    item_fids: Int64s
    item_lengths: UInt16s | None
    #: float32[rows x Dd]
    dense: Float32s

    @classmethod
    def of_event(cls, event: FeatureEvent) -> ScoreRequest:
        """The request that gives ``event`` when it is served again, and not logged."""
        return cls(
            request_id=event.request_id,
            event_time_ms=event.event_time_ms,
            log=False,
            rows=len(event.impression_ids),
            context_fids=event.context_fids,
            context_lengths=event.context_lengths,
            impression_ids=event.impression_ids,
            item_fids=event.item_fids,
            item_lengths=event.item_lengths,
            dense=event.dense,
        )

    def to_event(self, spec: FeatureSpec, logits: Float32s, model: str, version: int) -> FeatureEvent:
        """The feature event of this request as it was served; ``logits`` float32[rows, T]."""
        return FeatureEvent(
            request_id=self.request_id,
            event_time_ms=self.event_time_ms,
            spec_hash=spec.hash,
            context_fids=self.context_fids,
            impression_ids=self.impression_ids,
            item_fids=self.item_fids,
            context_lengths=self.context_lengths,
            item_lengths=self.item_lengths,
            dense=self.dense,
            served_logits=logits.reshape(-1),
            model=model,
            model_version=version,
        )


def _columns(spec: FeatureSpec) -> str:
    """What the columns of ``fids`` are, for whoever sends those of another spec."""
    names = [slot.name if slot.max_values == 1 else f"{slot.name} x {slot.max_values}" for slot in spec.slots]
    return f"{', '.join(names)} of feature spec {spec.name} ({spec.hash:#x})"


class _Side:
    """Column layout of context or item slots in the padded tensor."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        widths = np.array([slot.max_values for slot in slots], np.int64)
        self.width = int(widths.sum())
        ragged = np.array([slot.ragged for slot in slots], np.bool_)
        self.ragged = bool(ragged.any())
        #: per column: slot number, place within its slot, and whether padding may stand there
        self.slot_numbers = np.repeat(np.array([slot.slot for slot in slots], np.int64), widths)
        self.starts = np.cumsum(widths) - widths
        self.offsets = np.arange(self.width) - np.repeat(self.starts, widths)
        self.slot_index = np.repeat(np.arange(len(slots)), widths)
        self.may_pad = np.repeat(ragged, widths)

    def wrong(self, tensor: Int64s) -> Bools:
        """Which values of int64[rows, width] are neither fids of their column's slot nor allowed padding."""
        wrong: Bools = (tensor >> VALUE_BITS) != self.slot_numbers
        if self.ragged:
            wrong &= (tensor != PADDING_FID) | ~self.may_pad
        return wrong

    def pack(self, tensor: Int64s) -> tuple[Int64s, UInt16s | None]:
        """int64[rows, width] to fids (row after row, padding left out) and lengths uint16[rows x slots]."""
        if not self.ragged:
            return tensor.reshape(-1).copy(), None
        filled = tensor != PADDING_FID
        lengths = np.add.reduceat(filled, self.starts, axis=1, dtype=np.uint16)
        return tensor[filled], lengths.reshape(-1)

    def pad(self, fids: Int64s, lengths: UInt16s | None, rows: int) -> Int64s:
        """The inverse of :meth:`pack`."""
        if not self.ragged:
            flat: Int64s = fids.reshape(rows, self.width)
            return flat
        out: Int64s = np.zeros((rows, self.width), np.int64)
        counts = np.ones((rows, len(self.starts)), np.uint16) if lengths is None else lengths.reshape(rows, -1)
        out[self.offsets < counts[:, self.slot_index]] = fids
        return out


class RequestLayout:
    """What a request for one feature spec looks like."""

    def __init__(self, spec: FeatureSpec, max_rows: int) -> None:
        """:param max_rows: largest number of candidates in a request."""
        self.spec = spec
        self._max_rows = max_rows
        self._context = _Side(spec.context)
        self._item = _Side(spec.item)
        self._dense_width = len(spec.dense)
        self._names = {"fids", "impression_ids", "dense"} if spec.dense else {"fids", "impression_ids"}

    def inputs(self) -> list[dict[str, Any]]:
        """The model metadata's ``inputs``; the optional ones are marked in their parameters."""
        tensors: list[dict[str, Any]] = [
            {"name": "fids", "datatype": "INT64", "shape": [-1, self.spec.width]},
            {"name": "impression_ids", "datatype": "INT64", "shape": [-1], "parameters": {"optional": True}},
        ]
        if self._dense_width:
            tensors.append({"name": "dense", "datatype": "FP32", "shape": [-1, self._dense_width]})
        return tensors

    def parse(self, request: InferRequest, now_ms: int, new_id: str) -> ScoreRequest:
        """Checks a request against the spec and packs it.

        :param now_ms: event time of a request that has none.
        :param new_id: request id of a request that has none.
        :raises InvalidRequestError: with the field that is wrong.
        """
        inputs = request.inputs
        for name in inputs:
            if name not in self._names:
                raise InvalidRequestError(
                    "inputs", f"unknown tensor {name[:40]!r}; known are {', '.join(sorted(self._names))}"
                )
        fids = _tensor(inputs, "fids", np.int64)
        if fids is None:
            raise InvalidRequestError("inputs", "tensor fids is missing")
        if fids.ndim != 2 or fids.shape[1] != self.spec.width:
            raise InvalidRequestError(
                "fids.shape", f"{list(fids.shape)}, expected [N, {self.spec.width}]: {_columns(self.spec)}"
            )
        rows = len(fids)
        if not 1 <= rows <= self._max_rows:
            raise InvalidRequestError("fids.shape", f"{rows} rows, expected 1 to {self._max_rows}")
        context, items = fids[:, : self._context.width], fids[:, self._context.width :]
        different = context != context[0]
        if different.any():
            row, column = np.argwhere(different)[0]
            raise InvalidRequestError(f"fids[{row}][{column}]", "a context column must be equal in all rows")
        self._check(self._context, context[:1], 0)
        self._check(self._item, items, self._context.width)
        context_fids, context_lengths = self._context.pack(context[:1])
        item_fids, item_lengths = self._item.pack(items)
        return ScoreRequest(
            request_id=request.id or new_id,
            event_time_ms=_event_time(request, now_ms),
            log=_log(request),
            rows=rows,
            context_fids=context_fids,
            context_lengths=context_lengths,
            impression_ids=_impression_ids(inputs, rows),
            item_fids=item_fids,
            item_lengths=item_lengths,
            dense=self._dense(inputs, rows),
        )

    def to_tensor(self, event: FeatureEvent) -> Int64s:
        """The padded tensor int64[N, width] whose request gives ``event``: how a recording is replayed.

        :raises RecordError: the event is not one of this spec.
        """
        self.spec.check_feature(event)
        rows = len(event.impression_ids)
        context = self._context.pad(event.context_fids, event.context_lengths, 1)
        items = self._item.pad(event.item_fids, event.item_lengths, rows)
        tensor: Int64s = np.concatenate([np.repeat(context, rows, axis=0), items], axis=1)
        if self._context.wrong(context).any() or self._item.wrong(items).any():
            raise RecordError("lengths: a slot of one value has none, which the request tensor cannot say")
        return tensor

    def _check(self, side: _Side, tensor: Int64s, first_column: int) -> None:
        wrong = side.wrong(tensor)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            fid, slot = int(tensor[row, column]), int(side.slot_numbers[column])
            found = (
                "is padding, but the slot has exactly one value" if fid == PADDING_FID else f"is of slot {fid >> 48}"
            )
            raise InvalidRequestError(
                f"fids[{row}][{first_column + column}]", f"{fid} {found}; expected a fid of slot {slot}"
            )

    def _dense(self, inputs: Any, rows: int) -> Float32s:
        dense = _tensor(inputs, "dense", np.float32)
        if not self._dense_width:
            return np.empty(0, np.float32)
        if dense is None:
            raise InvalidRequestError("inputs", "tensor dense is missing")
        if dense.shape != (rows, self._dense_width):
            raise InvalidRequestError("dense.shape", f"{list(dense.shape)}, expected [{rows}, {self._dense_width}]")
        finite = np.isfinite(dense)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise InvalidRequestError(f"dense[{row}][{column}]", "not finite")
        flat: Float32s = dense.reshape(-1)
        return flat


def _tensor(inputs: Any, name: str, dtype: Any) -> Any:
    tensor = inputs.get(name)
    if tensor is not None and tensor.dtype != dtype:
        raise InvalidRequestError(f"{name}.datatype", f"expected {'INT64' if dtype is np.int64 else 'FP32'}")
    return tensor


def _impression_ids(inputs: Any, rows: int) -> Int64s:
    ids = _tensor(inputs, "impression_ids", np.int64)
    if ids is None:
        return np.arange(rows, dtype=np.int64)
    if ids.shape != (rows,):
        raise InvalidRequestError("impression_ids.shape", f"{list(ids.shape)}, expected [{rows}]")
    if len(set(ids.tolist())) != rows:  # for a request's few rows far cheaper than np.unique
        raise InvalidRequestError("impression_ids", "an id occurs twice")
    checked: Int64s = ids
    return checked


def _event_time(request: InferRequest, now_ms: int) -> int:
    value = request.parameters.get("event_time_ms", now_ms)
    if type(value) is not int or not 0 <= value < MAX_TIME_MS:
        raise InvalidRequestError(
            "parameters.event_time_ms", f"{str(value)[:40]} is not a time in ms since 1970, below {MAX_TIME_MS}"
        )
    return value


def _log(request: InferRequest) -> bool:
    value = request.parameters.get("log", True)
    if not isinstance(value, bool):
        raise InvalidRequestError("parameters.log", "expected true or false")
    return value


def timeout_ms(request: InferRequest, default: float) -> float:
    """How long the request may wait, in ms; 0 is forever. From ``timeout_ms``, or Triton's ``timeout`` (microseconds).

    :raises InvalidRequestError: not a positive number.
    """
    name, scale = ("timeout_ms", 1.0) if "timeout_ms" in request.parameters else ("timeout", 1e-3)
    value = request.parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InvalidRequestError(f"parameters.{name}", f"{str(value)[:40]} is not a positive number")
    # At least what is not rounded to 0, which would be forever.
    return max(value * scale, 1e-9)
