from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import RecordError, encode
from rillet.trainer import BlockReader, RawRecord, ReadBlock
from tests.trainer.blocks import RAGGED, make_block


class ListSource:
    """Gives records in order, then ends; counts what was asked of it."""

    def __init__(self, values: Sequence[bytes], error: Exception | None = None) -> None:
        self._records = [RawRecord(0, offset, value) for offset, value in enumerate(values)]
        self._error = error
        self.given = 0

    def poll(self, max_records: int, timeout_s: float) -> list[RawRecord] | None:
        if self.given == len(self._records):
            if self._error is not None:
                raise self._error
            return None
        records = self._records[self.given : self.given + max_records]
        self.given += len(records)
        return records


def _all(reader: BlockReader) -> list[ReadBlock]:
    taken: list[ReadBlock] = []
    while not reader.ended:
        taken += reader.take(10, 5)
    return taken


def test_bad_records_go_to_the_callback_and_keep_their_place() -> None:
    good = make_block(np.random.default_rng(0), 3)
    other_spec = replace(good, spec_hash=1)
    torn = replace(good, sampling_rate=good.sampling_rate[:-1])
    bad: list[tuple[int, str]] = []
    source = ListSource([encode(good), b"noise", encode(other_spec), encode(torn), encode(good)])
    reader = BlockReader(source, RAGGED, on_bad=lambda r, e: bad.append((r.offset, str(e))), max_rows=100)
    reader.start()
    taken = _all(reader)
    reader.close()
    assert [item.offset for item in taken] == [0, 1, 2, 3, 4]
    assert [item.block is None for item in taken] == [False, True, True, True, False]
    assert [offset for offset, _ in bad] == [1, 2, 3]
    assert "unknown schema" in bad[0][1] or "begins with" in bad[0][1]
    assert "spec_hash" in bad[1][1]
    assert "sampling_rate" in bad[2][1]


def test_reading_waits_when_training_falls_behind() -> None:
    value = encode(make_block(np.random.default_rng(0), 10))
    source = ListSource([value] * 100)
    reader = BlockReader(source, RAGGED, on_bad=lambda r, e: None, max_rows=30, max_records=1)
    reader.start()
    assert len(reader.take(10, 5)) == 1
    threading.Event().wait(0.1)
    assert source.given <= 5
    assert len(_all(reader)) == 99
    reader.close()


def test_a_take_gives_no_more_blocks_than_asked_for() -> None:
    value = encode(make_block(np.random.default_rng(0), 10))
    reader = BlockReader(ListSource([value] * 5), RAGGED, on_bad=lambda r, e: None, max_rows=1000)
    reader.start()
    while not reader.ended:
        assert sum(len(item.block) for item in reader.take(15, 5) if item.block is not None) <= 20
    reader.close()


def test_what_stops_the_source_surfaces_after_the_records_before_it() -> None:
    value = encode(make_block(np.random.default_rng(0), 10))
    reader = BlockReader(ListSource([value], OSError("broker gone")), RAGGED, on_bad=lambda r, e: None, max_rows=100)
    reader.start()
    assert len(reader.take(10, 5)) == 1
    with pytest.raises(OSError, match="broker gone"):
        reader.take(10, 5)
    assert not reader.ended
    reader.close()


def test_an_error_in_the_callback_is_not_lost() -> None:
    def refuse(record: RawRecord, error: RecordError) -> None:
        raise RuntimeError("dead letters are full")

    reader = BlockReader(ListSource([b"noise"]), RAGGED, on_bad=refuse, max_rows=100)
    reader.start()
    with pytest.raises(RuntimeError, match="dead letters are full"):
        reader.take(10, 5)
    reader.close()


def test_closing_stops_a_reader_that_waits_for_room() -> None:
    value = encode(make_block(np.random.default_rng(0), 10))
    reader = BlockReader(ListSource([value] * 10), RAGGED, on_bad=lambda r, e: None, max_rows=5, max_records=1)
    reader.start()
    reader.take(10, 5)
    reader.close()
    assert "example-reader" not in [thread.name for thread in threading.enumerate()]
