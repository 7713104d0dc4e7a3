"""Blocks as columns: absent ones stand for what they mean, and every row knows its request and its fids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rillet.audit.columns import due_fids, stack_columns
from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.schemas import ExampleBlock, FeatureEvent
from tests.backtest.events import SPEC, request


def expected_of(*events: FeatureEvent) -> ExpectedExamples:
    join = PlainJoin(SPEC)
    for event in events:
        join.add_feature(event)
    return join.result()


def block_of(requests: list[str], rows: list[int], lengths: list[list[int]], bucket: int = 0) -> ExampleBlock:
    """Rows of requests, with numbered fids of as many as the lengths say."""
    n, tasks = len(rows), len(SPEC.tasks)
    none = np.full(n, -1)
    return ExampleBlock(
        spec_hash=SPEC.hash,
        bucket=bucket,
        request_ids=requests,
        request_index=np.array(rows, np.int32),
        impression_ids=np.arange(n),
        context_fids=np.arange(2 * len(requests)),
        item_fids=np.arange(np.sum(lengths) - 2 * n),
        dense=np.zeros(0, np.float32),
        labels=np.zeros(n * tasks, np.uint8),
        mask=np.zeros(n * tasks, np.uint8),
        sampling_rate=np.ones(n, np.float32),
        label_kind=np.zeros(n, np.uint8),
        feature_time_ms=none,
        action_time_ms=none,
        feature_ingest_ms=none,
        action_ingest_ms=none,
        item_lengths=np.array(lengths, np.uint16)[:, 2:].reshape(-1),
    )


EXPECTED = expected_of(request("a", 0, [1, 2]), request("b", 10, [3]))


def test_rows_know_the_request_that_their_block_names_and_its_number() -> None:
    blocks = [
        block_of(["b"], [0, 0], [[1, 1, 0, 1], [1, 1, 2, 1]], bucket=3),
        block_of(["stranger", "a"], [1, 0], [[1, 1, 0, 1], [1, 1, 1, 1]], bucket=5),
    ]
    column = stack_columns(blocks, EXPECTED, SPEC)
    assert [column["request_ids"][at] for at in column["request_at"]] == ["b", "b", "a", "stranger"]
    assert column["request"].tolist() == [1, 1, 0, -1]
    assert column["bucket"].tolist() == [3, 3, 5, 5]
    assert column["fid_counts"].tolist() == [3, 5, 3, 4]
    assert column["fid_ends"].tolist() == [3, 8, 11, 15]


def test_absent_lengths_are_ones_and_absent_logits_are_unknown() -> None:
    plain = replace(block_of(["a"], [0], [[1, 1, 1, 1]]), item_lengths=None)
    scored = replace(block_of(["b"], [0], [[1, 1, 0, 1]]), served_logits=np.array([0.5, 0.25], np.float32))
    column = stack_columns([plain, scored], EXPECTED, SPEC)
    assert column["lengths"].tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
    # The spec has a slot of up to three values: lengths have to be there.
    assert column["has_lengths"].tolist() == [False, True]
    np.testing.assert_array_equal(column["served_logits"], np.float32([np.nan, np.nan, 0.5, 0.25]))


def test_the_fids_that_are_due_are_those_of_the_context_and_then_of_the_item() -> None:
    expected = expected_of(request("a", 0, [1, 2], user=7, tags=[5]), request("b", 10, [3], user=8))
    found, lengths = due_fids(expected, np.array([1, 0]), np.array([2, 1]))
    context = [expected.context_fids[expected.context_start[r] : expected.context_start[r + 1]] for r in (1, 0)]
    items = [expected.item_fids[expected.item_start[row] : expected.item_start[row + 1]] for row in (2, 1)]
    assert found.tolist() == np.concatenate([context[0], items[0], context[1], items[1]]).tolist()
    assert len(found) == 3 + 4  # b's item has no tag, a's has one
    assert lengths.tolist() == [[1, 1, 0, 1], [1, 1, 1, 1]]
