"""Late actions: what is passed, and what cannot have been late."""

from __future__ import annotations

from dataclasses import replace

from rillet.schemas import LabelKind
from tests.audit.faultless import (
    AFTER_ALL_MS,
    BLOCKS,
    CORRECTING,
    FEATURES,
    NEVER_LATE,
    POSITIVES,
    SPEC,
    WATCHES,
    late_blocks,
    pair_of,
    run,
)


def test_late_positives_with_their_sampled_negatives_pass() -> None:
    blocks = late_blocks(CORRECTING, WATCHES)
    sampled = len(blocks) - len(BLOCKS)
    assert 0 < sampled < len(WATCHES), "both kinds should be in the stream"
    report = run(
        blocks, [replace(f, spec_hash=CORRECTING.hash) for f in FEATURES], CORRECTING, newest_before_ms=AFTER_ALL_MS
    )
    assert report.ok, report.lines()
    assert report.late_positive == sampled
    assert report.expected == report.found == len(blocks)


def test_a_late_positive_without_its_sampled_negative_is_a_loss() -> None:
    blocks = late_blocks(CORRECTING, WATCHES)
    index = next(i for i, b in enumerate(blocks) if pair_of(b) in WATCHES and b.label_kind[0] == LabelKind.NEGATIVE)
    features = [replace(f, spec_hash=CORRECTING.hash) for f in FEATURES]
    report = run(blocks[:index] + blocks[index + 1 :], features, CORRECTING, newest_before_ms=AFTER_ALL_MS)
    assert (report.lost, report.mislabelled, report.duplicated) == (1, 0, 0)


def test_a_negative_alone_is_mislabelled_where_late_actions_are_emitted() -> None:
    late = late_blocks(CORRECTING, WATCHES)
    blocks = [b for b in late if b.label_kind[0] != LabelKind.LATE_POSITIVE]
    features = [replace(f, spec_hash=CORRECTING.hash) for f in FEATURES]
    report = run(blocks, features, CORRECTING, newest_before_ms=AFTER_ALL_MS)
    assert (report.mislabelled, report.lost) == (len(late) - len(blocks), 0)
    assert report.mislabelled > 0
    assert not report.ok


def test_a_late_positive_that_cannot_have_been_late_is_found() -> None:
    features = [replace(f, spec_hash=CORRECTING.hash) for f in FEATURES]
    blocks = late_blocks(CORRECTING, WATCHES)
    report = run(blocks, features, CORRECTING, newest_before_ms=NEVER_LATE)
    assert report.wrong_columns == {"label_kind": sum(b.label_kind[0] == LabelKind.LATE_POSITIVE for b in blocks)}
    assert report.mislabelled > 0
    assert report.late_positive == 0


def test_positives_dropped_as_late_pass_as_far_as_the_joiner_counted_late_actions() -> None:
    blocks = late_blocks(SPEC, WATCHES)
    report = run(blocks, newest_before_ms=AFTER_ALL_MS, allowed_late=len(WATCHES))
    assert report.ok, report.lines()
    assert report.late_dropped == len(WATCHES)
    assert f"{len(WATCHES)} actions were too late" in report.lines()[0]
    assert report.offenders == ()
    for allowed in (0, len(WATCHES) - 1):
        report = run(blocks, newest_before_ms=AFTER_ALL_MS, allowed_late=allowed)
        assert not report.ok
        assert f"{len(WATCHES)} dropped as late where {allowed} are allowed" in report.lines()[0]
        assert {offender.problem for offender in report.offenders} == {"dropped as late"}


def test_an_ignored_action_that_cannot_have_been_late_is_found() -> None:
    report = run(late_blocks(SPEC, WATCHES), newest_before_ms=NEVER_LATE)
    assert report.late_dropped == 0
    assert report.mislabelled + report.lost == len(WATCHES)
    assert not report.ok


def test_an_ignored_action_of_a_window_that_no_record_has_passed_is_found() -> None:
    likes = POSITIVES - WATCHES  # windows of an hour
    report = run(late_blocks(SPEC, likes), newest_before_ms=FEATURES[-2].event_time_ms + 3_600_000)
    # only the windows that an earlier record has passed
    assert report.late_dropped == len(FEATURES) - 1
    assert report.mislabelled + report.lost == 1
    assert not report.ok
