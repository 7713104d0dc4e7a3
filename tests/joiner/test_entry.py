"""What is remembered of a request, and its form on disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rillet.joiner.entry import Entry, pack_pairs, pairs_of
from rillet.schemas import encode
from tests.joiner.support import SPEC, feature

TASKS = len(SPEC.tasks)


@given(st.integers(1, 40), st.sets(st.tuples(st.integers(0, TASKS - 1), st.integers(0, 39))))
def test_positives_and_negatives_part_the_impressions_of_each_task(n: int, pairs: set[tuple[int, int]]) -> None:
    entry = Entry(feature(1, 5, impressions=n), 7)
    pairs = {(task, index) for task, index in pairs if index < n}
    for task, index in pairs:
        entry.add_positive(task, index)
        entry.add_positive(task, index)
    for task in range(TASKS):
        positives = {index for index in range(n) if entry.is_positive(task, index)}
        assert positives == {index for of, index in pairs if of == task}
        assert entry.negatives(task).tolist() == sorted(set(range(n)) - positives)


@given(st.integers(0, 1 << 200))
def test_pairs_take_as_few_bytes_as_hold_them(pairs: int) -> None:
    data = pack_pairs(pairs)
    assert int.from_bytes(data, "little") == pairs
    assert sum(1 << pair for pair in pairs_of(pairs)) == pairs
    assert not data or data[-1]


def test_the_form_on_disk_reads_back_whole() -> None:
    entry = Entry(feature(3, 5, impressions=30), -1, slice_=-4, n=1 << 31)
    entry.add_positive(1, 29)
    entry.add_positive(0, 0)
    entry.keep_times(1, 29, 1_700_000_000_000, -1)
    entry.gathering = 1 << 31
    back = Entry.from_bytes(entry.to_bytes())
    assert (back.ingest_ms, back.positives, back.times) == (-1, entry.positives, entry.times)
    assert back.gathering == entry.gathering
    assert (back.request_id, back.slice_, back.n) == ("r3", -4, 1 << 31)
    assert encode(back.decode().event) == encode(entry.event)


def test_an_entry_with_its_record_is_decoded_when_it_is_needed_and_costs_less_until_then() -> None:
    event = feature(1, 5, impressions=30)
    kept = Entry(event, 7, data=encode(event))
    kept.release()
    assert not kept.decoded
    assert encode(kept.decode().event) == encode(event)
    assert kept.size_bytes < Entry(event, 7).size_bytes
    alone = Entry(event, 7)
    alone.release()
    assert alone.event is event, "it could not be decoded again"


def test_an_impression_is_found_by_its_id() -> None:
    entry = Entry(feature(1, 5, impressions=4), 7)
    assert [entry.index_of(i) for i in (100, 103, 104, -1)] == [0, 3, -1, -1]


def test_the_estimate_of_memory_grows_with_the_columns() -> None:
    small, large = (Entry(feature(1, 5, impressions=n), 7).size_bytes for n in (1, 1_000))
    assert large - small > 1_000 * (8 + 8 + 4 + 8)  # id, a fid, price and logits of each impression
