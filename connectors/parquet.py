"""Example rows as Parquet: one row of a table is one labelled row, with the place in the topic that it came from.

What ``ExampleBlock`` has in flat columns is here a list per row, so that a file can be read by anything that reads
Parquet. Both ways work on whole columns. Ragged columns are Arrow's own form (values and offsets) and are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rillet.connectors.errors import ExampleFilesError
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, RecordError, dump_spec
from rillet.schemas.arrays import AnyArray, Int64s
from rillet.schemas.example_rows import fids_of_blocks, split_rows
from rillet.trainer import ReadBlock

#: of the columns; raised with every change that readers have to know of
FORMAT = 1
#: columns with one number per row, named as in ``ExampleBlock``
_NUMBERS = ("sampling_rate", "label_kind", "feature_time_ms", "action_time_ms")
_INGEST_TIMES = ("feature_ingest_ms", "action_ingest_ms")
#: numbers the rows of a set in the order in which they were read
_NUMBER = "number"


def row_schema(spec: FeatureSpec) -> pa.Schema:
    """The columns of a spec's rows; the metadata tells format, spec hash and spec."""

    def column(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def lists(name: str, kind: pa.DataType) -> pa.Field:
        return column(name, pa.list_(column("element", kind)))

    columns = [
        column(_NUMBER, pa.int64()),
        column("partition", pa.int32()),
        column("offset", pa.int64()),
        column("row", pa.int32()),
        column("request_id", pa.string()),
        column("impression_id", pa.int64()),
        lists("fids", pa.int64()),
        *([lists("lengths", pa.uint16())] if spec.ragged else []),
        lists("dense", pa.float32()),
        lists("labels", pa.uint8()),
        lists("mask", pa.uint8()),
        column("sampling_rate", pa.float32()),
        column("label_kind", pa.uint8()),
        column("feature_time_ms", pa.int64()),
        column("action_time_ms", pa.int64()),
        column("feature_ingest_ms", pa.int64()),
        column("action_ingest_ms", pa.int64()),
        lists("served_logits", pa.float32()),
    ]
    return pa.schema(
        columns,
        {"rillet.format": str(FORMAT), "rillet.spec_hash": f"{spec.hash:#x}", "rillet.spec": dump_spec(spec)},
    )


def to_table(records: Sequence[ReadBlock], spec: FeatureSpec, *, first_number: int = 0) -> pa.Table:
    """The rows of checked records, one after the other; records without a block have none.

    :param first_number: of the first row in its set.
    """
    read = [(record, record.block) for record in records if record.block is not None and len(record.block)]
    schema = row_schema(spec)
    if not read:
        return schema.empty_table()
    blocks = [block for _, block in read]
    counts = np.array([len(block) for block in blocks])
    rows, slots, tasks = int(counts.sum()), len(spec.slots), len(spec.tasks)

    def joined(name: str) -> AnyArray:
        return np.concatenate([getattr(block, name) for block in blocks])

    def of_width(name: str, values: AnyArray, width: int) -> pa.Array:
        return _lists(schema, name, values, np.full(rows, width))

    fids, some_lengths = fids_of_blocks(blocks, spec)
    lengths = np.ones(rows * slots, np.uint16) if some_lengths is None else some_lengths
    logits = np.concatenate(
        [np.full(len(b) * tasks, np.nan, np.float32) if b.served_logits is None else b.served_logits for b in blocks]
    )
    first = np.cumsum([0] + [len(block.request_ids) for block in blocks[:-1]])
    requests = np.concatenate([block.request_index + at for block, at in zip(blocks, first, strict=True)])
    columns: dict[str, Any] = {
        _NUMBER: np.arange(first_number, first_number + rows),
        "partition": np.repeat(np.array([record.partition for record, _ in read], np.int32), counts),
        "offset": np.repeat(np.array([record.offset for record, _ in read], np.int64), counts),
        "row": (np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32),
        "request_id": pa.array([r for block in blocks for r in block.request_ids], pa.string()).take(
            pa.array(requests)
        ),
        "impression_id": joined("impression_ids"),
        "fids": _lists(schema, "fids", fids, lengths.reshape(rows, slots).sum(axis=1, dtype=np.int64)),
        "lengths": of_width("lengths", lengths, slots) if spec.ragged else None,
        "dense": of_width("dense", joined("dense"), len(spec.dense)),
        "labels": of_width("labels", joined("labels"), tasks),
        "mask": of_width("mask", joined("mask"), tasks),
        **{name: joined(name) for name in (*_NUMBERS, *_INGEST_TIMES)},
        "served_logits": of_width("served_logits", logits, tasks),
    }
    return pa.Table.from_arrays([pa.array(columns[name]) for name in schema.names], schema=schema)


def to_block(table: pa.Table, spec: FeatureSpec, *, ingest_times: bool = True) -> ExampleBlock:
    """The rows of a table as one block, bucket 0; numbers but fids are views of the table's memory.

    :param ingest_times: False leaves them out (``NO_TIME_MS``); the table need not have them then.
    :raises ExampleFilesError: the rows do not fit the spec.
    """
    rows = table.num_rows
    requests = pc.dictionary_encode(_chunk(table, "request_id"))
    no_time = np.full(rows, NO_TIME_MS, np.int64)
    columns: dict[str, Any] = {
        **{name: _values(table, name) for name in ("dense", "labels", "mask", "served_logits")},
        **{name: _chunk(table, name).to_numpy() for name in _NUMBERS},
        **{name: _chunk(table, name).to_numpy() if ingest_times else no_time for name in _INGEST_TIMES},
    }
    try:
        block = ExampleBlock(
            spec_hash=spec.hash,
            bucket=0,
            impression_ids=_chunk(table, "impression_id").to_numpy(),
            **split_rows(
                spec,
                requests.dictionary.to_pylist(),
                requests.indices.to_numpy(),
                _values(table, "fids"),
                _values(table, "lengths") if spec.ragged else None,
            ),
            **columns,
        )
        spec.check_block(block)
    except (RecordError, ValueError, IndexError) as error:
        raise ExampleFilesError(f"rows that do not fit feature spec {spec.name}: {error}") from error
    return block


def encode_table(table: pa.Table) -> pa.Buffer:
    """A table as the bytes of one Parquet file, with a checksum per page."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_table(data: bytes, spec: FeatureSpec, *, ingest_times: bool = True) -> pa.Table:
    """The table in the bytes of a file.

    :param ingest_times: False leaves these columns out.
    :raises ExampleFilesError: damaged, of another format or another spec.
    """
    schema = row_schema(spec)
    names = [name for name in schema.names if ingest_times or name not in _INGEST_TIMES]
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        found = file.schema_arrow
        if not found.remove_metadata().equals(schema.remove_metadata()):
            raise ExampleFilesError(
                f"its columns are not those of feature spec {spec.name} ({spec.hash:#x}) in format {FORMAT}:"
                f" {', '.join(found.names)}"
            )
        return file.read(columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ExampleFilesError(f"damaged, or no Parquet ({error})") from error


def in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of several tables as one, in the order in which they were read."""
    table = pa.concat_tables(tables)
    if len(tables) == 1:
        return table
    return table.combine_chunks().take(pa.array(np.argsort(table.column(_NUMBER).to_numpy(), kind="stable")))


def _lists(schema: pa.Schema, name: str, values: AnyArray, counts: Int64s) -> pa.Array:
    kind = schema.field(name).type
    ends = np.cumsum(counts)
    if len(ends) and ends[-1] >= 1 << 31:
        raise ExampleFilesError(f"{name}: {ends[-1]} values in one table; write fewer rows to a file")
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(np.ascontiguousarray(values, kind.value_type.to_pandas_dtype())), type=kind
    )


def _chunk(table: pa.Table, name: str) -> Any:
    """A column as one array."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _values(table: pa.Table, name: str) -> Any:
    """All values of a column of lists, one row's after the other."""
    return _chunk(table, name).flatten().to_numpy()
