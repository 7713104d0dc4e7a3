"""Rows are cut into blocks by their number and their bytes; what a block is said to have is never less than it has."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.connectors.limits import RECORD_MAX_BYTES, TOPIC_MAX_BYTES
from rillet.joiner import GatheringBuilder, JoinerConfig
from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.cuts import cuts
from rillet.joiner.entry import Entry
from rillet.joiner.rows import Positive
from rillet.schemas import (
    MAX_BLOCK_BYTES,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    dump_spec,
    encode,
    make_fids,
    parse_spec,
)
from tests.joiner.scenarios import CONFIG, MODES, join
from tests.joiner.support import SPEC, action, with_labels

#: a context that is longer than many rows together
LONG = parse_spec(dump_spec(SPEC).replace('slot = 1\nkind = "id"', 'slot = 1\nkind = "id"\nmax_values = 60000'))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 9), max_size=6)), max_size=5),
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(0, 60),
)
def test_every_cut_fits_and_none_could_be_longer(
    requests: list[tuple[int, list[int]]], most_rows: int, most_bytes: int, more: int
) -> None:
    request = np.repeat(np.arange(len(requests)), [len(rows) for _, rows in requests])
    rows = np.array([size for _, sizes in requests for size in sizes], np.int64)
    of_request = np.array([size for size, _ in requests], np.int64)

    def size(start: int, stop: int) -> int:
        return int(rows[start:stop].sum() + of_request[np.unique(request[start:stop])].sum())

    largest = most_bytes + more
    found = cuts(request, rows, of_request, most_rows, most_bytes, largest)
    ends = [0, *(cut.stop for cut in found)]
    assert [cut.start for cut in found] == ends[:-1]
    assert ends[-1] == len(rows)
    for start, stop in pairwise(ends):
        assert 1 <= stop - start <= most_rows
        most = max(most_bytes, min(2 * of_request[request[start]], largest))
        assert size(start, stop) <= most or stop - start == 1
        if stop < len(rows) and stop - start < most_rows:
            assert size(start, stop + 1) > most


def long_event(request: int, context: int, impressions: int, spec: FeatureSpec = LONG) -> FeatureEvent:
    """A request with so many fids of context."""
    user = make_fids(1, np.arange(context))
    item, item_lengths = spec.encode_side(
        "item", {"film": range(1, impressions + 1), "genres": [["a", "b", "c"][: i % 4] for i in range(impressions)]}
    )
    return FeatureEvent(
        f"r{request}",
        5_000,
        spec.hash,
        user,
        np.arange(impressions) + 100,
        item,
        np.array([context], np.uint16),
        item_lengths,
        np.zeros(impressions, np.float32),
        np.zeros(2 * impressions, np.float32) if request % 2 else None,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 30)), min_size=1, max_size=5), st.integers(1, 20_000))
def test_no_block_of_several_rows_is_larger_than_block_bytes(sizes: list[tuple[int, int]], block_bytes: int) -> None:
    builder = BlockBuilder(LONG, block_bytes)
    entries = [Entry(long_event(at, context, n), -1) for at, (context, n) in enumerate(sizes)]
    every = [np.arange(n) for _, n in sizes]
    blocks = builder.negatives(3, entries, every, 0, 16)
    for entry, (_, n) in zip(entries, sizes, strict=True):
        blocks += builder.provisional(3, entry, [0, 1], np.ones((2, n), np.bool_), 16)
    assert sum(len(block) for block in blocks) == 3 * sum(n for _, n in sizes)
    for block in blocks:
        LONG.check_block(block)
        assert len(block) <= 16
        context = max(8 * sizes[int(name[1:])][0] for name in block.request_ids)
        assert len(encode(block)) <= max(block_bytes, 2 * context + 2_000) or len(block) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_request_with_a_long_history_gives_blocks_that_every_sink_takes(tmp_path: Path, mode: str) -> None:
    spec = with_labels(LONG, mode)  # type: ignore[arg-type]
    event = replace(long_event(1, 9_000, 250), spec_hash=spec.hash)
    outcome = join(tmp_path, [event, action(1, 0, "watch", 6_000)], spec, replace(CONFIG, block_rows=256))
    largest = max(len(encode(block)) for block in outcome.blocks)
    assert 72_000 < largest < 72_000 + 256 * 200  # the context once, and rows
    assert len(outcome.rows) > 250


def test_a_context_larger_than_a_block_is_not_written_with_every_row(tmp_path: Path) -> None:
    event = long_event(1, 9_000, 250)
    outcome = join(tmp_path, [event], LONG, replace(CONFIG, block_bytes=50_000))
    assert len(outcome.rows) > 250
    assert sum(len(encode(block)) for block in outcome.blocks) < 5 * len(encode(event))


def test_the_limit_is_one_that_topics_producers_and_the_sink_take() -> None:
    assert MAX_BLOCK_BYTES + 1_024 < RECORD_MAX_BYTES < TOPIC_MAX_BYTES
    assert JoinerConfig().block_bytes <= MAX_BLOCK_BYTES
    with pytest.raises(ValueError, match="block_bytes"):
        JoinerConfig(block_bytes=MAX_BLOCK_BYTES + 1)


HUGE = parse_spec(
    "\n".join(
        [
            '[spec]\nname = "huge"',
            *(f'[[context]]\nname = "c{n}"\nslot = {n}\nkind = "id"\nmax_values = 65535' for n in range(1, 33)),
            '[[item]]\nname = "film"\nslot = 100\nkind = "id"',
            '[[tasks]]\nname = "watch"\naction = "watch"\nwindow_ms = 1000',
        ]
    )
)


def huge_event(context_bytes: int) -> FeatureEvent:
    per_slot = context_bytes // 8 // 32
    fids = np.concatenate([make_fids(n, np.zeros(per_slot, np.int64)) for n in range(1, 33)])
    items = make_fids(100, [1, 2])
    return FeatureEvent("r1", 5_000, HUGE.hash, fids, np.array([17, 23]), items, np.full(32, per_slot, np.uint16), None)


def test_a_request_of_which_one_row_does_not_fit_is_refused_with_the_impression() -> None:
    with pytest.raises(RecordError, match=r"an example of impression 17 would have 157\d+ bytes, of which .*15728640"):
        HUGE.check_feature(huge_event(15 << 20))


def test_the_largest_request_that_is_taken_gives_blocks_within_the_limit() -> None:
    event = huge_event((15 << 20) - 1_024)
    HUGE.check_feature(event)
    blocks = BlockBuilder(HUGE).provisional(65_535, Entry(event, 1), [0], np.ones((1, 2), np.bool_), 256)
    blocks += BlockBuilder(HUGE).positives(
        65_535, Entry(event, 1), [Positive(1, 0, LabelKind.POSITIVE, 1 << 40, 1 << 40)], 256
    )
    assert max(len(encode(block)) for block in blocks) <= MAX_BLOCK_BYTES


def test_a_gathering_builder_keeps_the_order_where_it_cuts_by_bytes() -> None:
    builder = GatheringBuilder(LONG, 1_000)
    entries = [Entry(long_event(at, 5, 3), -1) for at in range(2)]
    for at in (0, 1, 0):
        builder.positives(0, entries[at], [Positive(1, 0, LabelKind.POSITIVE, 6_000, -1)], 256)
    (block,) = builder.gathered(0)
    assert [block.request_ids[at] for at in block.request_index] == ["r0", "r1", "r0"]
