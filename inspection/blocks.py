"""Example blocks and records of the delta log as dictionaries."""

from __future__ import annotations

import numpy as np

from rillet.inspection.columns import Json, matrix, plain, probability, time_fields
from rillet.inspection.names import Names, rows_of_fids
from rillet.schemas import (
    DeltaBlock,
    DenseRef,
    EpochClaim,
    ExampleBlock,
    FeatureSpec,
    LabelKind,
    RecordError,
)
from rillet.sync import SyncError
from rillet.sync.blocks import rows_of, verify_block


def describe_examples(
    block: ExampleBlock, spec: FeatureSpec, *, limit: int | None = None, request_id: str | None = None
) -> Json:
    """A block of labelled rows.

    :param limit: rows that are shown; all by default.
    :param request_id: only the rows of this request.
    :raises RecordError: a column does not divide into its rows.
    """
    n = len(block)
    ours = block.spec_hash == spec.hash
    problem = None
    try:
        spec.check_block(block)
    except RecordError as error:
        problem = str(error)
    names = Names(spec if ours else None)
    if problem is not None:
        _check_columns(block)
    contexts, items = (
        (
            rows_of_fids(block.context_fids, block.context_lengths, len(block.request_ids), "context fids"),
            rows_of_fids(block.item_fids, block.item_lengths, n, "item fids"),
        )
        if n
        else ([], [])
    )
    slots = [slot.slot for slot in spec.slots] if ours else []
    labels, mask = matrix(block.labels, n, "labels"), matrix(block.mask, n, "mask")
    dense = matrix(block.dense, n, "dense")
    logits = None if block.served_logits is None else matrix(block.served_logits, n, "served_logits")
    chosen = [row for row in range(n) if request_id in (None, _request(block, row))]
    rows = []
    for row in chosen[:limit]:
        taught = [task for task in range(mask.shape[1]) if mask[row, task]]
        shown: Json = {
            "request_id": _request(block, row),
            "impression_id": int(block.impression_ids[row]),
            "kind": _kind(int(block.label_kind[row])),
            "labels": _of_tasks(names.per_task(labels[row].tolist()), taught),
            "sampling_rate": float(f"{block.sampling_rate[row]:.7g}"),
            **time_fields("feature_time", int(block.feature_time_ms[row])),
            **time_fields("action_time", int(block.action_time_ms[row])),
            "features": names.features(np.concatenate([contexts[block.request_index[row]], items[row]]), slots),
        }
        if dense.shape[1]:
            shown["dense"] = names.dense(dense[row])
        if logits is not None:
            scores = names.per_task([probability(logit) for logit in logits[row].tolist()])
            shown["served"] = _of_tasks(scores, taught)
        rows.append(shown)
    view: Json = {
        "record": "example_block",
        "bucket": block.bucket,
        "spec_hash": f"{block.spec_hash:#x}",
        "row_count": len(chosen),
        "rows": rows,
    }
    return view if problem is None else view | {"problem": problem}


def describe_delta(record: EpochClaim | DeltaBlock | DenseRef, spec: FeatureSpec, *, limit: int | None = None) -> Json:
    """A record of the delta log; ``limit`` as of :func:`describe_examples`."""
    view: Json = {
        "record": {EpochClaim: "epoch_claim", DeltaBlock: "delta_block", DenseRef: "dense_ref"}[type(record)],
        "model": record.model,
        "shard": record.shard,
        "epoch": record.epoch,
        "sequence": record.sequence,
        "model_hash": f"{record.model_hash:#x}",
    }
    if isinstance(record, EpochClaim):
        return view | {"writer": record.writer}
    if isinstance(record, DenseRef):
        newest = time_fields("newest_event", record.newest_event_ms)
        return view | {"version": record.version, "path": record.path, "sha256": record.sha256, **newest}
    names = Names(spec if record.model_hash == spec.model_hash else None)
    view |= {
        "table": record.table,
        "dim": record.dim,
        **time_fields("newest_event", record.freshness.newest_event_ms),
        "actions": record.freshness.actions,
        "row_count": len(record.fids),
        "tombstone_count": len(record.tombstones),
    }
    try:
        verify_block(record)
    except SyncError as error:
        return view | {"problem": str(error), "rows": []}
    return view | {
        "rows": [
            {**_fid(fid, names), "row": [plain(x) for x in row.tolist()]}
            for fid, row in zip(record.fids[:limit].tolist(), rows_of(record)[:limit], strict=True)
        ],
        "tombstones": [_fid(fid, names) for fid in record.tombstones[:limit].tolist()],
    }


def _fid(fid: int, names: Names) -> Json:
    return {"slot": names.slot(fid >> 48), "value": names.value(fid), "fid": str(fid)}


def _kind(code: int) -> str:
    return LabelKind(code).name.lower() if code in set(LabelKind) else f"kind {code}"


def _of_tasks(values: Json, tasks: list[int]) -> Json:
    """The values of the tasks that a row teaches."""
    return {name: value for index, (name, value) in enumerate(values.items()) if index in tasks}


def _request(block: ExampleBlock, row: int) -> str:
    return block.request_ids[int(block.request_index[row])]


def _check_columns(block: ExampleBlock) -> None:
    """:raises RecordError: a column is too short for the rows to be shown."""
    names = ("request_index", "label_kind", "sampling_rate", "feature_time_ms", "action_time_ms")
    for name in names:
        if len(getattr(block, name)) != len(block):
            raise RecordError(f"{name}: {len(getattr(block, name))} values, expected {len(block)}")
    if len(block) and not 0 <= block.request_index.min() <= block.request_index.max() < len(block.request_ids):
        raise RecordError("request_index: points outside request_ids")
