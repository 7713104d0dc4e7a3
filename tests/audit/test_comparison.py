"""The audit finds and names what a faulty joiner could do, and passes what a faultless one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rillet.audit.comparison import Audit
from rillet.schemas import ExampleBlock, LabelKind
from tests.audit.faultless import ACTIONS, BLOCKS, FEATURES, SPEC, as_negative, changed, first, named, plain_join, run
from tests.joiner.blocks import example_blocks


def test_faultless_examples_pass_with_the_right_counts() -> None:
    report = run(BLOCKS)
    assert report.ok, report.lines()
    assert report.offenders == ()
    assert report.expected == report.found == len(BLOCKS)
    # A watch and a like a request; the second watch of an impression adds none, the one after its window neither.
    assert report.positive == 2 * len(FEATURES)
    assert report.negative == len(BLOCKS) - report.positive
    assert report.requests == len(FEATURES)
    assert report.actions == len(ACTIONS)


def test_order_and_block_size_do_not_matter() -> None:
    audit = Audit(plain_join(), len(ACTIONS))
    for index, block in enumerate(reversed(BLOCKS)):
        audit.add(block)
        if index % 7 == 0:
            audit.report()  # compares what has come so far
    report = audit.report()
    assert report.ok
    assert report.offenders == ()  # what was missing at first has come


@pytest.mark.parametrize("kind", [LabelKind.POSITIVE, LabelKind.NEGATIVE])
@pytest.mark.parametrize("task", [0, 1])
def test_a_removed_row_is_lost(kind: LabelKind, task: int) -> None:
    index = first(kind, task)
    report = run(BLOCKS[:index] + BLOCKS[index + 1 :])
    assert (report.lost, report.duplicated, report.mislabelled) == (1, 0, 0)
    assert not report.ok
    assert named(report, "lost", BLOCKS[index])


@pytest.mark.parametrize("kind", [LabelKind.POSITIVE, LabelKind.NEGATIVE])
def test_a_doubled_row_is_duplicated(kind: LabelKind) -> None:
    index = first(kind)
    report = run([*BLOCKS, BLOCKS[index]])
    assert (report.lost, report.duplicated, report.mislabelled) == (0, 1, 0)
    assert not report.ok
    assert named(report, "duplicated", BLOCKS[index])


def test_a_positive_sent_as_negative_is_mislabelled_not_lost() -> None:
    index = first(LabelKind.POSITIVE)
    bad = changed(index, as_negative)
    report = run(bad)
    assert (report.lost, report.mislabelled, report.wrong_columns) == (0, 1, {})
    assert named(report, "mislabelled", BLOCKS[index])


def test_a_negative_beside_its_positive_is_duplicated_and_mislabelled() -> None:
    index = first(LabelKind.POSITIVE)
    report = run([*BLOCKS, as_negative(BLOCKS[index])])
    assert (report.lost, report.duplicated, report.mislabelled) == (0, 1, 1)
    assert named(report, "mislabelled", BLOCKS[index])


def test_a_label_in_the_column_of_another_task_is_mislabelled() -> None:
    index = first(LabelKind.POSITIVE)
    assert run(changed(index, lambda b: replace(b, labels=np.array([1, 1], np.uint8)))).mislabelled == 1


def test_a_row_that_teaches_two_tasks_is_unexpected() -> None:
    index = first(LabelKind.POSITIVE)
    report = run(changed(index, lambda b: replace(b, mask=np.array([1, 1], np.uint8))))
    assert (report.unexpected, report.lost) == (1, 1)


def test_a_changed_rate_is_found() -> None:
    index = first(LabelKind.NEGATIVE)
    report = run(changed(index, lambda b: replace(b, sampling_rate=np.array([0.25], np.float32))))
    assert (report.wrong_rate, report.lost, report.mislabelled) == (1, 0, 0)
    assert not report.ok
    assert named(report, "wrong rate", BLOCKS[index])


def test_a_negative_that_the_sample_leaves_out_is_unexpected() -> None:
    everything = replace(SPEC, tasks=tuple(replace(task, negative_rate=1.0) for task in SPEC.tasks))
    due = {(b.request_ids[0], int(b.impression_ids[0]), int(b.mask.argmax())) for b in BLOCKS}
    left_out = next(
        b
        for b in example_blocks(everything, FEATURES, ACTIONS, ingest_ms=77)
        if (b.request_ids[0], int(b.impression_ids[0]), int(b.mask.argmax())) not in due
    )
    extra = replace(left_out, spec_hash=SPEC.hash, sampling_rate=np.array([0.5], np.float32))
    report = run([*BLOCKS, extra])
    assert (report.unexpected, report.duplicated, report.lost) == (1, 0, 0)
    assert named(report, "unexpected", extra)


def test_a_row_of_an_impression_that_nobody_logged_is_unexpected() -> None:
    stranger = replace(BLOCKS[0], request_ids=["nobody"])
    other = replace(BLOCKS[0], impression_ids=np.array([12345]))
    report = run([*BLOCKS, stranger, other])
    assert report.unexpected == 2
    assert {o.request_id for o in report.offenders} == {"nobody", BLOCKS[0].request_ids[0]}


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("fids", lambda b: replace(b, item_fids=np.concatenate((b.item_fids[:-1], b.item_fids[-1:] + 1)))),
        ("fids", lambda b: replace(b, context_fids=b.context_fids + 1)),
        ("feature_time_ms", lambda b: replace(b, feature_time_ms=b.feature_time_ms + 1)),
        ("action_time_ms", lambda b: replace(b, action_time_ms=b.action_time_ms + 1)),
        ("feature_ingest_ms", lambda b: replace(b, feature_ingest_ms=b.feature_ingest_ms + 1)),
        ("action_ingest_ms", lambda b: replace(b, action_ingest_ms=b.action_ingest_ms + 1)),
        ("served_logits", lambda b: replace(b, served_logits=b.served_logits + np.float32(1))),
        ("served_logits", lambda b: replace(b, served_logits=None)),
        ("label_kind", lambda b: replace(b, label_kind=np.array([LabelKind.LATE_POSITIVE], np.uint8))),
    ],
)
def test_a_changed_column_is_found_and_named(column: str, change: Callable[[ExampleBlock], ExampleBlock]) -> None:
    index = first(LabelKind.POSITIVE)
    report = run(changed(index, change))
    assert report.wrong_columns == {column: 1}
    assert (report.lost, report.duplicated, report.mislabelled) == (0, 0, 0)
    assert not report.ok
    assert named(report, f"wrong {column}", BLOCKS[index])


def test_a_row_of_another_bucket_than_the_others_of_its_request_is_found() -> None:
    last = max(i for i, block in enumerate(BLOCKS) if block.request_ids[0] == "r0")
    report = run(changed(last, lambda b: replace(b, bucket=b.bucket + 1)))
    assert report.wrong_columns == {"bucket": 1}
    assert not report.ok
    assert named(report, "wrong bucket", BLOCKS[last])


def test_swapped_lengths_and_missing_fids_are_found() -> None:
    index = next(i for i, b in enumerate(BLOCKS) if b.item_lengths is not None and b.item_lengths[-1] >= 1)

    def shorter(block: ExampleBlock) -> ExampleBlock:
        assert block.item_lengths is not None
        lengths = block.item_lengths.copy()
        lengths[-1] -= 1
        return replace(block, item_lengths=lengths, item_fids=block.item_fids[:-1])

    report = run(changed(index, shorter))
    assert report.wrong_columns == {"lengths": 1, "fids": 1}
    assert named(report, "wrong fids", BLOCKS[index])


def test_a_block_of_another_spec_is_counted_and_its_rows_are_lost() -> None:
    report = run(changed(0, lambda b: replace(b, spec_hash=1)))
    assert (report.wrong_spec, report.lost) == (1, 1)


def test_a_block_whose_columns_do_not_fit_is_undecodable_and_its_row_lost() -> None:
    index = first(LabelKind.POSITIVE)
    report = run(changed(index, lambda b: replace(b, mask=b.mask[:1])))
    assert (report.undecodable, report.lost) == (1, 1)
    assert any("mask" in str(o) for o in report.offenders)


def test_raw_events_that_fit_no_spec_are_told_and_are_no_loss() -> None:
    report = run(BLOCKS, [*FEATURES, replace(FEATURES[0], request_id="odd", spec_hash=1)])
    assert report.ok
    assert report.unusable_events == 1
    assert "1 raw records" in report.lines()[0]


def test_events_that_are_all_of_another_spec_prove_nothing() -> None:
    report = run([], [replace(feature, spec_hash=1) for feature in FEATURES])
    assert not report.ok
    assert "no feature event is usable" in report.lines()[0]
    assert "all there" not in report.lines()[0]


def test_a_second_feature_event_of_a_request_is_a_duplicate_and_the_first_wins() -> None:
    again = replace(FEATURES[0], event_time_ms=FEATURES[0].event_time_ms + 9, served_logits=None)
    report = run(BLOCKS, [*FEATURES, again])
    assert report.ok
    assert report.duplicate_features == 1


def test_actions_without_their_feature_are_counted_as_orphans() -> None:
    report = run([b for b in BLOCKS if b.request_ids[0] != "r0"], FEATURES[1:])
    assert report.ok
    assert report.orphan_actions == 4


def test_only_a_few_offenders_of_a_kind_are_named() -> None:
    report = run([])
    assert report.lost == len(BLOCKS)
    assert len(report.offenders) == 5
    assert any("lost" in line for line in report.lines())


def test_a_positive_of_a_pair_without_action_is_mislabelled() -> None:
    index = first(LabelKind.NEGATIVE)
    wrong = replace(BLOCKS[index], labels=BLOCKS[index].mask, label_kind=np.array([LabelKind.POSITIVE], np.uint8))
    report = run([*BLOCKS[:index], wrong, *BLOCKS[index + 1 :]])
    assert (report.mislabelled, report.lost, report.duplicated) == (1, 0, 0)
