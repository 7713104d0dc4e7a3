from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import BackpressureError, ClosedError, SpecRegistry, encode
from rillet.trainer import BadRecord, BlockReader, ListSource, RawRecord, ReadBlock
from tests.trainer.blocks import RAGGED, make_block


class CountingSource(ListSource):
    """Counts what was asked of it, and may fail where it would end."""

    given = 0
    failure: Exception | None = None
    closed = False

    def poll(self, max_items: int, timeout_s: float) -> Sequence[RawRecord] | None:
        records = super().poll(max_items, timeout_s)
        if records is None and self.failure is not None:
            raise self.failure
        self.given += len(records or ())
        return records

    def close(self) -> None:
        self.closed = True
        super().close()


class Letters:
    """Takes bad records, has no room for them, or fails."""

    def __init__(self) -> None:
        self.taken: list[BadRecord] = []
        self.full = False
        self.refused = threading.Event()
        self.failure: Exception | None = None

    def __call__(self, bad: BadRecord) -> None:
        if self.failure is not None:
            raise self.failure
        if self.full:
            self.refused.set()
            raise BackpressureError("full")
        self.taken.append(bad)


def _reader(source: ListSource, letters: Letters | None = None, **settings: int) -> BlockReader:
    reader = BlockReader(
        source, SpecRegistry(RAGGED), on_bad=letters or Letters(), source_wait_s=0.01, **{"max_rows": 100, **settings}
    )
    reader.start()
    return reader


def _all(reader: BlockReader) -> list[ReadBlock]:
    taken: list[ReadBlock] = []
    while (blocks := reader.poll(10, 5)) is not None:
        taken += blocks
    return taken


def test_blocks_of_an_accepted_spec_are_given_as_our_own() -> None:
    newer = replace(RAGGED, tasks=RAGGED.tasks[::-1])
    block, letters = make_block(np.random.default_rng(0), 3), Letters()
    records = [encode(one) for one in (block, SpecRegistry(newer, [RAGGED]).block(block), replace(block, spec_hash=1))]
    reader = BlockReader(
        ListSource.of_values(records), SpecRegistry(newer, [RAGGED]), on_bad=letters, max_rows=100, source_wait_s=0.01
    )
    reader.start()
    old, own, unknown = (item.block for item in _all(reader))
    reader.close()
    assert old is not None
    assert own is not None
    assert old.spec_hash == own.spec_hash == newer.hash
    np.testing.assert_array_equal(old.mask, own.mask)
    assert unknown is None
    assert [type(bad.error).__name__ for bad in letters.taken] == ["SpecMismatchError"]


def _ten_rows() -> bytes:
    return encode(make_block(np.random.default_rng(0), 10))


def test_bad_records_are_handed_over_and_keep_their_place() -> None:
    good = make_block(np.random.default_rng(0), 3)
    other_spec = replace(good, spec_hash=1)
    torn = replace(good, sampling_rate=good.sampling_rate[:-1])
    letters = Letters()
    source = ListSource.of_values([encode(good), b"noise", encode(other_spec), encode(torn), encode(good)])
    reader = _reader(source, letters)
    taken = _all(reader)
    reader.close()
    assert [item.offset for item in taken] == [0, 1, 2, 3, 4]
    assert [item.block is None for item in taken] == [False, True, True, True, False]
    assert [bad.record.offset for bad in letters.taken] == [1, 2, 3]
    reasons = [str(bad.error) for bad in letters.taken]
    assert "unknown schema" in reasons[0] or "begins with" in reasons[0]
    assert "spec_hash" in reasons[1]
    assert "sampling_rate" in reasons[2]


def test_reading_waits_when_training_falls_behind() -> None:
    source = CountingSource.of_values([_ten_rows()] * 100)
    reader = _reader(source, max_rows=30, poll_rows=10, source_records=1)
    assert len(reader.poll(10, 5) or ()) == 1
    threading.Event().wait(0.1)
    assert source.given <= 5
    assert len(_all(reader)) == 99
    reader.close()


def test_a_poll_gives_no_more_than_asked_for() -> None:
    by_rows = _reader(ListSource.of_values([_ten_rows()] * 5), max_rows=1000, poll_rows=15)
    while (blocks := by_rows.poll(100, 5)) is not None:
        assert sum(len(item.block) for item in blocks if item.block is not None) <= 20
    by_rows.close()
    by_items = _reader(ListSource.of_values([_ten_rows()] * 5), max_rows=1000)
    while (blocks := by_items.poll(2, 5)) is not None:
        assert len(blocks) <= 2
    by_items.close()


def test_what_stops_the_source_surfaces_after_the_records_before_it_and_is_no_end() -> None:
    source = CountingSource.of_values([_ten_rows()])
    source.failure = OSError("broker gone")
    reader = _reader(source)
    assert len(reader.poll(10, 5) or ()) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="broker gone"):
            reader.poll(10, 5)
    reader.close()


def test_an_error_of_who_takes_them_is_not_lost() -> None:
    letters = Letters()
    letters.failure = RuntimeError("dead letters are broken")
    reader = _reader(ListSource.of_values([b"noise"]), letters)
    with pytest.raises(RuntimeError, match="dead letters are broken"):
        reader.poll(10, 5)
    reader.close()


def test_reading_waits_for_room_for_a_bad_record_and_goes_on() -> None:
    letters = Letters()
    letters.full = True
    reader = _reader(ListSource.of_values([_ten_rows(), b"noise", _ten_rows()]), letters)
    assert letters.refused.wait(5)
    assert [item.offset for item in reader.poll(10, 0) or ()] == [0]
    assert reader.poll(10, 0.02) == []
    letters.full = False
    assert [item.offset for item in _all(reader)] == [1, 2]
    assert [bad.record.offset for bad in letters.taken] == [1]
    reader.close()


@pytest.mark.parametrize("full", [False, True], ids=["no room for rows", "no room for bad records"])
def test_closing_stops_a_reader_that_waits_and_closes_its_source(full: bool) -> None:
    letters = Letters()
    letters.full = full
    source = CountingSource.of_values([b"noise"] if full else [_ten_rows()] * 10)
    reader = _reader(source, letters, max_rows=5, source_records=1)
    assert letters.refused.wait(5) if full else reader.poll(1, 5)
    reader.close()
    reader.close()
    assert source.closed
    assert "example-reader" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ClosedError):
        reader.poll(1, 0)


def test_a_reader_that_was_never_started_may_be_closed() -> None:
    source = CountingSource([])
    BlockReader(source, SpecRegistry(RAGGED), on_bad=Letters(), max_rows=10).close()
    assert source.closed
