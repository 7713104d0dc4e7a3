"""The rows of each label mode: which are due, and which are faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.audit.comparison import audit_examples
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from rillet.schemas.spec import LabelMode
from tests.audit.faultless import (
    ACTIONS,
    AFTER_ALL_MS,
    CORRECTING,
    FEATURES,
    NEVER_LATE,
    SPEC,
    WATCHES,
    late_blocks,
    pair_of,
    plain_join,
    run,
)
from tests.joiner.blocks import example_blocks
from tests.joiner.support import with_labels

MODES = ("positives_first", "aligned", "immediate")
#: kinds of the rows of each mode with label 1 and 0
KINDS = dict.fromkeys(MODES[:2], (LabelKind.POSITIVE, LabelKind.NEGATIVE)) | {
    "immediate": (LabelKind.CORRECTION, LabelKind.PROVISIONAL)
}


def of_mode(mode: LabelMode) -> tuple[FeatureSpec, list[FeatureEvent], list[ExampleBlock]]:
    """A spec, its feature events, and what a faultless joiner makes of them and of ACTIONS."""
    spec = with_labels(SPEC, mode)
    features = [replace(feature, spec_hash=spec.hash) for feature in FEATURES]
    return spec, features, example_blocks(spec, features, ACTIONS, ingest_ms=77)


@pytest.mark.parametrize("mode", MODES)
def test_faultless_examples_of_each_mode_pass(mode: LabelMode) -> None:
    spec, features, blocks = of_mode(mode)
    assert {LabelKind(block.label_kind[0]) for block in blocks} == set(KINDS[mode])
    report = run(blocks, features, spec)
    assert report.ok, report.lines()
    assert report.expected == report.found == len(blocks)
    assert report.positive == 2 * len(FEATURES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", [0, 1])
def test_a_lost_and_a_doubled_row_of_each_kind_are_found(mode: LabelMode, label: int) -> None:
    spec, features, blocks = of_mode(mode)
    expected = plain_join(features, spec)
    for index, block in enumerate(blocks):
        if block.label_kind[0] != KINDS[mode][1 - label]:
            continue
        lost = audit_examples(expected, blocks[:index] + blocks[index + 1 :], len(ACTIONS))
        assert (lost.lost, lost.duplicated, lost.mislabelled, lost.unexpected) == (1, 0, 0, 0)
        assert not lost.ok
        doubled = audit_examples(expected, [*blocks, block], len(ACTIONS))
        assert (doubled.lost, doubled.duplicated, doubled.mislabelled, doubled.unexpected) == (0, 1, 0, 0)
        assert not doubled.ok


@pytest.mark.parametrize("mode", MODES)
def test_a_row_with_the_other_label_is_found_in_each_mode(mode: LabelMode) -> None:
    spec, features, blocks = of_mode(mode)
    expected = plain_join(features, spec)
    for index, block in enumerate(blocks):
        label = int(block.labels.max())
        wrong = replace(
            block,
            labels=block.mask * np.uint8(1 - label),
            label_kind=np.array([KINDS[mode][label]], np.uint8),
            action_time_ms=np.array([-1 if label else 2_000_000]),
            action_ingest_ms=np.array([-1 if label else 77]),
        )
        report = audit_examples(expected, [*blocks[:index], wrong, *blocks[index + 1 :]], len(ACTIONS))
        assert report.mislabelled + report.lost > 0
        assert not report.ok


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_another_mode_are_found(mode: LabelMode) -> None:
    spec, features, _ = of_mode(mode)
    other = "aligned" if mode == "immediate" else "immediate"
    blocks = [replace(block, spec_hash=spec.hash) for block in of_mode(other)[2]]
    report = run(blocks, features, spec)
    assert report.wrong_columns == {"label_kind": len(blocks)}
    assert not report.ok


def test_a_provisional_negative_that_the_sample_leaves_out_is_unexpected() -> None:
    spec, features, blocks = of_mode("immediate")
    kept = {pair_of(block) for block in blocks if block.label_kind[0] == LabelKind.PROVISIONAL}
    corrected = next(block for block in blocks if pair_of(block) not in kept)
    none = np.array([-1])
    extra = replace(
        corrected,
        labels=np.zeros(len(spec.tasks), np.uint8),
        label_kind=np.array([LabelKind.PROVISIONAL], np.uint8),
        action_time_ms=none,
        action_ingest_ms=none,
    )
    report = run([*blocks, extra], features, spec)
    assert (report.unexpected, report.mislabelled, report.duplicated, report.lost) == (1, 0, 0, 0)


def test_what_is_due_of_a_pair_is_told_by_kind() -> None:
    spec, features, blocks = of_mode("immediate")
    index = next(i for i, block in enumerate(blocks) if block.label_kind[0] == LabelKind.CORRECTION)
    report = run(blocks[:index] + blocks[index + 1 :], features, spec)
    assert "a correction is due" in report.lines()[1]


def test_late_actions_of_immediate_tasks_pass_as_far_as_they_were_counted() -> None:
    spec, features, blocks = of_mode("immediate")
    dropped = [b for b in blocks if not (b.label_kind[0] == LabelKind.CORRECTION and b.mask[0])]
    for newest_ms, allowed, ok in (
        (AFTER_ALL_MS, len(WATCHES), True),
        (AFTER_ALL_MS, 0, False),
        (NEVER_LATE, 99, False),
    ):
        report = run(dropped, features, spec, newest_before_ms=newest_ms, allowed_late=allowed)
        assert report.ok is ok, report.lines()
    index = next(i for i, b in enumerate(dropped) if b.label_kind[0] == LabelKind.PROVISIONAL and pair_of(b) in WATCHES)
    report = run(dropped[:index] + dropped[index + 1 :], features, spec, AFTER_ALL_MS, len(WATCHES))
    assert (report.lost, report.late_dropped) == (1, len(WATCHES))


@pytest.mark.parametrize("mode", MODES)
def test_late_positives_of_each_mode_pass_beside_their_negatives(mode: LabelMode) -> None:
    spec = with_labels(CORRECTING, mode)
    features = [replace(feature, spec_hash=spec.hash) for feature in FEATURES]
    blocks = late_blocks(spec, WATCHES)
    report = run(blocks, features, spec, newest_before_ms=AFTER_ALL_MS)
    assert report.ok, report.lines()
    taken_back = sum(block.label_kind[0] == LabelKind.LATE_POSITIVE for block in blocks)
    assert report.late_positive == taken_back
    assert bool(taken_back) is (mode != "immediate")
    assert report.expected == report.found == len(blocks)
    index = next(i for i, b in enumerate(blocks) if pair_of(b) in WATCHES and not b.labels.any())
    report = run(blocks[:index] + blocks[index + 1 :], features, spec, newest_before_ms=AFTER_ALL_MS)
    assert (report.lost, report.mislabelled, report.duplicated) == (1, 0, 0)


def test_a_late_correction_of_a_task_that_emits_is_due_and_is_a_correction() -> None:
    spec = with_labels(CORRECTING, "immediate")
    features = [replace(feature, spec_hash=spec.hash) for feature in FEATURES]
    blocks = late_blocks(spec, WATCHES)
    index = next(i for i, b in enumerate(blocks) if pair_of(b) in WATCHES and b.labels.any())
    lost = run(blocks[:index] + blocks[index + 1 :], features, spec, AFTER_ALL_MS, allowed_late=len(WATCHES))
    assert (lost.lost, lost.late_dropped) == (1, 0)
    assert not lost.ok
    marked = replace(blocks[index], label_kind=np.array([LabelKind.LATE_POSITIVE], np.uint8))
    wrong = run([*blocks[:index], marked, *blocks[index + 1 :]], features, spec, AFTER_ALL_MS, len(WATCHES))
    assert wrong.wrong_columns == {"label_kind": 1}
    assert not wrong.ok
