"""Blocks carry each row's own columns, in the form for one positive and in the form for many negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.entry import Entry
from rillet.joiner.rows import Positive
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, LabelKind, dump_spec, encode, parse_spec
from tests.joiner.support import SPEC, feature

WATCH, LIKE = 0, 1
#: no slot with several values, no dense feature
PLAIN = parse_spec(dump_spec(SPEC).replace("max_values = 3", "").replace('[[dense]]\nname = "price"', ""))


def event_of(spec: FeatureSpec, request: int, impressions: int, logits: bool = True) -> FeatureEvent:
    if spec is SPEC:
        event = feature(request, 1_000 * request, impressions)
        return event if logits else replace(event, served_logits=None)
    context, _ = spec.encode_side("context", {"user": [request + 1]})
    item, _ = spec.encode_side("item", {"film": range(1, impressions + 1), "genres": ["g"] * impressions})
    return FeatureEvent(f"r{request}", 1_000 * request, spec.hash, context, np.arange(impressions) + 100, item)


def fids_due(spec: FeatureSpec, event: FeatureEvent, index: int) -> list[int]:
    """Context and item fids of an impression, slot by slot."""
    slots = len(spec.item)
    lengths = [1] * slots * len(event.impression_ids) if event.item_lengths is None else event.item_lengths.tolist()
    start = sum(lengths[: index * slots])
    return [
        *event.context_fids.tolist(),
        *event.item_fids[start : start + sum(lengths[index * slots :][:slots])].tolist(),
    ]


def rows(spec: FeatureSpec, block: ExampleBlock) -> list[tuple[str, int, list[int], list[float], list[float]]]:
    """Request, impression, fids, dense and logits of each row."""
    spec.check_block(block)
    n, found, at = len(block), [], 0
    flat, lengths = block.row_fids()
    sizes = np.full(n, len(spec.slots)) if lengths is None else lengths.reshape(n, -1).sum(axis=1)
    for i in range(n):
        logits = [] if block.served_logits is None else block.served_logits.reshape(n, -1)[i].tolist()
        request_id = block.request_ids[block.request_index[i]]
        fids = flat[at : at + int(sizes[i])].tolist()
        found.append((request_id, int(block.impression_ids[i]), fids, block.dense.reshape(n, -1)[i].tolist(), logits))
        at += int(sizes[i])
    assert at == len(flat)
    return found


def due(spec: FeatureSpec, event: FeatureEvent, index: int) -> tuple[str, int, list[int], list[float], list[float]]:
    dense, tasks = len(spec.dense), len(spec.tasks)
    logits = [] if event.served_logits is None else event.served_logits[index * tasks : (index + 1) * tasks].tolist()
    return (
        event.request_id,
        int(event.impression_ids[index]),
        fids_due(spec, event, index),
        event.dense[index * dense : (index + 1) * dense].tolist(),
        logits,
    )


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["ragged", "plain"])
def test_a_positive_carries_the_columns_of_its_own_impression(spec: FeatureSpec) -> None:
    event = event_of(spec, 2, 5)
    for index in range(5):
        row = Positive(index, LIKE, LabelKind.LATE_POSITIVE, 2_500, 12)
        (block,) = BlockBuilder(spec).positives(3, Entry(event, 11), [row], 256)
        assert rows(spec, block) == [due(spec, event, index)]
        assert (block.bucket, block.labels.tolist(), block.mask.tolist()) == (3, [0, 1], [0, 1])
        assert block.label_kind.tolist() == [LabelKind.LATE_POSITIVE]
        assert (block.feature_time_ms[0], block.action_time_ms[0]) == (2_000, 2_500)
        assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (11, 12)


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["ragged", "plain"])
def test_positives_of_one_request_are_the_rows_that_they_would_be_alone(spec: FeatureSpec) -> None:
    event, builder = event_of(spec, 2, 5), BlockBuilder(spec)
    wanted = [
        Positive(3, LIKE, LabelKind.LATE_POSITIVE, 2_500, 12),
        Positive(0, WATCH, LabelKind.POSITIVE, 2_400, -1),
        Positive(3, WATCH, LabelKind.CORRECTION, 2_600, 13),
    ]
    (together,) = builder.positives(3, Entry(event, 11), wanted, 256)
    assert together.request_ids == [event.request_id]
    alone = [block for row in wanted for block in builder.positives(3, Entry(event, 11), [row], 256)]
    assert rows(spec, together) == [row for block in alone for row in rows(spec, block)]
    for name in (
        "labels",
        "mask",
        "sampling_rate",
        "label_kind",
        "feature_time_ms",
        "action_time_ms",
        "feature_ingest_ms",
    ):
        assert getattr(together, name).tolist() == np.concatenate([getattr(block, name) for block in alone]).tolist(), (
            name
        )
    assert together.action_ingest_ms.tolist() == [12, -1, 13]
    assert [len(block) for block in builder.positives(3, Entry(event, 11), wanted, 2)] == [2, 1]


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["ragged", "plain"])
@pytest.mark.parametrize("block_rows", [1, 3, 100])
def test_negatives_of_many_requests_carry_their_own_columns(spec: FeatureSpec, block_rows: int) -> None:
    events = [event_of(spec, request, 2 + request) for request in range(4)]
    wanted = [[0, 1], [], [3, 1, 0], [4]]
    entries = [Entry(event, 10 + number) for number, event in enumerate(events)]
    indices = [np.array(i, np.int64) for i in wanted]
    blocks = BlockBuilder(spec).negatives(1, entries, indices, WATCH, block_rows)
    assert [len(block) for block in blocks] == [min(block_rows, 6 - at) for at in range(0, 6, block_rows)]
    found = [row for block in blocks for row in rows(spec, block)]
    assert found == [due(spec, event, i) for event, of_event in zip(events, wanted, strict=True) for i in of_event]
    for block in blocks:
        assert not block.labels.any()
        assert block.mask.reshape(-1, 2).tolist() == [[1, 0]] * len(block)
        assert (block.sampling_rate == np.float32(0.5)).all()
        assert (block.action_time_ms == -1).all()
        of_row = [int(block.request_ids[r][1:]) for r in block.request_index]
        assert block.feature_time_ms.tolist() == [1_000 * request for request in of_row]
        assert block.feature_ingest_ms.tolist() == [10 + request for request in of_row]


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["ragged", "plain"])
@pytest.mark.parametrize("block_rows", [1, 3, 100])
def test_aligned_rows_of_many_requests_are_in_order_with_the_times_of_their_actions(
    spec: FeatureSpec, block_rows: int
) -> None:
    entries = [Entry(event_of(spec, request, 3 + request), 10 + request) for request in range(4)]
    negatives = [[0, 2], [1], [], [5]]
    positives = {(0, 1): 2_000, (1, 3): 3_000, (1, 0): 2_500, (3, 4): 9_000}
    for (request, index), time_ms in positives.items():
        entries[request].keep_times(LIKE, 2, 1, 1)  # of the other task
        entries[request].keep_times(WATCH, index, time_ms, time_ms + 1)
    indices = [np.array(i, np.int64) for i in negatives]
    blocks = BlockBuilder(spec).aligned(1, entries, indices, WATCH, block_rows)
    order = sorted([*positives, *((request, i) for request, of in enumerate(negatives) for i in of)])
    assert [row for b in blocks for row in rows(spec, b)] == [due(spec, entries[r].event, i) for r, i in order]
    assert [len(block) for block in blocks] == [min(block_rows, 8 - at) for at in range(0, 8, block_rows)]
    kinds = [LabelKind.POSITIVE if pair in positives else LabelKind.NEGATIVE for pair in order]
    assert [kind for block in blocks for kind in block.label_kind.tolist()] == kinds
    labels = [label for block in blocks for label in block.labels.reshape(-1, 2).tolist()]
    assert labels == [[int(pair in positives), 0] for pair in order]
    times = [pair for b in blocks for pair in zip(b.action_time_ms.tolist(), b.action_ingest_ms.tolist(), strict=True)]
    assert times == [(positives[pair], positives[pair] + 1) if pair in positives else (-1, -1) for pair in order]


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["ragged", "plain"])
@pytest.mark.parametrize("index", [None, [0], [1, 4], []])
@pytest.mark.parametrize("impressions", [5, 100])
def test_provisional_negatives_of_a_request_carry_their_own_columns(
    spec: FeatureSpec, index: list[int] | None, impressions: int
) -> None:
    entry = Entry(event_of(spec, 2, impressions), 11)
    chosen = np.full((1, impressions), index is None)
    chosen[0, index or []] = True
    blocks = BlockBuilder(spec).provisional(3, entry, [LIKE], chosen, 256)
    wanted = range(impressions) if index is None else index
    assert [row for block in blocks for row in rows(spec, block)] == [due(spec, entry.event, i) for i in wanted]
    assert len(blocks) == bool(wanted)
    for block in blocks:
        n = len(block)
        assert block.bucket == 3
        assert not block.labels.any()
        assert block.mask.tolist() == [0, 1] * n
        assert block.label_kind.tolist() == [LabelKind.PROVISIONAL] * n
        assert block.sampling_rate.tolist() == [np.float32(spec.tasks[LIKE].negative_rate)] * n
        assert (block.feature_time_ms.tolist(), block.feature_ingest_ms.tolist()) == ([2_000] * n, [11] * n)
        assert (block.action_time_ms.tolist(), block.action_ingest_ms.tolist()) == ([-1] * n, [-1] * n)


@pytest.mark.parametrize("block_rows", [2, 3, 100])
def test_provisional_negatives_of_all_tasks_lie_together_task_after_task(block_rows: int) -> None:
    event = event_of(SPEC, 2, 3)
    chosen = np.array([[True, False, True], [True, True, True]])
    blocks = BlockBuilder(SPEC).provisional(3, Entry(event, 11), [WATCH, LIKE], chosen, block_rows)
    pairs = [(WATCH, 0), (WATCH, 2), (LIKE, 0), (LIKE, 1), (LIKE, 2)]
    assert [len(block) for block in blocks] == [min(block_rows, 5 - at) for at in range(0, 5, block_rows)]
    assert [row for block in blocks for row in rows(SPEC, block)] == [due(SPEC, event, i) for _, i in pairs]
    masks = [mask for block in blocks for mask in block.mask.reshape(-1, 2).tolist()]
    assert masks == [[int(task == WATCH), int(task == LIKE)] for task, _ in pairs]
    rates = [rate for block in blocks for rate in block.sampling_rate.tolist()]
    assert rates == [np.float32(SPEC.tasks[task].negative_rate) for task, _ in pairs]


def test_provisional_negatives_without_lengths_and_logits_are_those_of_the_general_form() -> None:
    event = replace(event_of(SPEC, 1, 4), served_logits=None, context_lengths=None)
    every = np.arange(4)
    (fast,) = BlockBuilder(SPEC).provisional(0, Entry(event, -1), [LIKE], np.ones((1, 4), np.bool_), 10)
    (general,) = BlockBuilder(SPEC).negatives(0, [Entry(event, -1)], [every], LIKE, 10)
    provisional = np.full(4, LabelKind.PROVISIONAL, np.uint8)
    assert encode(fast) == encode(replace(general, label_kind=provisional))


def test_logits_are_nan_where_only_other_requests_of_a_block_had_them() -> None:
    events = [event_of(SPEC, 1, 2), event_of(SPEC, 2, 2, logits=False)]
    entries = [Entry(event, -1) for event in events]
    (block,) = BlockBuilder(SPEC).negatives(0, entries, [np.arange(2), np.arange(2)], LIKE, 10)
    assert block.served_logits is not None
    logits = block.served_logits.reshape(4, 2)
    assert events[0].served_logits is not None
    assert logits[:2].reshape(-1).tolist() == events[0].served_logits.tolist()
    assert np.isnan(logits[2:]).all()
    (without,) = BlockBuilder(SPEC).negatives(0, entries[1:], [np.arange(2)], LIKE, 10)
    assert without.served_logits is None


def test_no_negatives_make_no_block() -> None:
    entries = [Entry(event_of(SPEC, 1, 2), -1)]
    assert BlockBuilder(SPEC).negatives(0, entries, [np.empty(0, np.int64)], LIKE, 10) == []
    assert BlockBuilder(SPEC).negatives(0, [], [], LIKE, 10) == []
