"""The audit finds and names what a faulty joiner could do, and passes what a faultless one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rillet.audit.comparison import Audit, audit_examples
from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport
from rillet.recordings.movielens import ml1m_spec
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind, encode
from rillet.schemas.spec import LabelMode
from tests.joiner.blocks import example_blocks
from tests.joiner.support import with_labels

SPEC = with_labels(ml1m_spec(), "positives_first")


def make_events(spec: FeatureSpec, requests: int = 12, seed: int = 3) -> tuple[list[FeatureEvent], list[ActionEvent]]:
    rng = np.random.default_rng(seed)
    features, actions = [], []
    for number in range(requests):
        n = int(rng.integers(2, 6))
        context, context_lengths = spec.encode_side(
            "context",
            {
                "user": [number],
                "age": [1],
                "gender": ["F"],
                "occupation": [2],
                "zip_prefix": ["123"],
                "recent_films": [[5, 9][: number % 3]],
            },
        )
        item, item_lengths = spec.encode_side(
            "item",
            {
                "film": rng.integers(1, 99, n),
                "year": rng.integers(1990, 2000, n),
                "genres": [["Comedy", "Drama", "War"][: rng.integers(0, 4)] for _ in range(n)],
            },
        )
        event = FeatureEvent(
            f"r{number}",
            1_000_000 + 1_000 * number,
            spec.hash,
            context,
            # Ids over the whole range: neither small nor in order.
            rng.permutation(np.array([-(2**62), -1, 0, 7, 2**62])[:n]),
            item,
            context_lengths,
            item_lengths,
            served_logits=None if number % 4 == 3 else rng.normal(size=n * 2).astype(np.float32),
        )
        features.append(event)
        shown = event.impression_ids.tolist()
        at = event.event_time_ms
        actions.append(ActionEvent(event.request_id, at + 5_000, shown[0], "watch", 4.0))
        actions.append(ActionEvent(event.request_id, at + 4_000, shown[0], "watch", 4.0))
        actions.append(ActionEvent(event.request_id, at + 3_599_999, shown[1], "like"))
        actions.append(ActionEvent(event.request_id, at + 600_000, shown[1], "watch"))  # its window is over
    return features, actions


FEATURES, ACTIONS = make_events(SPEC)
BLOCKS = example_blocks(SPEC, FEATURES, ACTIONS, ingest_ms=77)


#: newest timestamp in an action's partition before it: none, or one past every window
NEVER_LATE, AFTER_ALL_MS = -1, 10_000_000


def run(
    blocks: list[ExampleBlock],
    features: list[FeatureEvent] = FEATURES,
    spec: FeatureSpec = SPEC,
    newest_before_ms: int = NEVER_LATE,
    allowed_late: int = 0,
) -> AuditReport:
    expected = plain_join(features, spec, newest_before_ms)
    return audit_examples(expected, blocks, len(ACTIONS), allowed_late=allowed_late)


def plain_join(
    features: list[FeatureEvent] = FEATURES, spec: FeatureSpec = SPEC, newest_before_ms: int = NEVER_LATE
) -> ExpectedExamples:
    join = PlainJoin(spec)
    for feature in features:
        join.add_record(encode(feature), feature.request_id.encode(), 77)
    for action in ACTIONS:
        join.add_action(action, 77, newest_before_ms)
    return join.result()


def as_negative(block: ExampleBlock) -> ExampleBlock:
    """The row that a joiner sends when it takes the action of a positive for none."""
    none = np.array([-1])
    return replace(
        block,
        labels=np.zeros(len(SPEC.tasks), np.uint8),
        label_kind=np.array([LabelKind.NEGATIVE], np.uint8),
        action_time_ms=none,
        action_ingest_ms=none,
    )


def first(kind: LabelKind, task: int = 0) -> int:
    return next(i for i, b in enumerate(BLOCKS) if b.label_kind[0] == kind and b.mask[task])


def changed(index: int, change: Callable[[ExampleBlock], ExampleBlock]) -> list[ExampleBlock]:
    return [*BLOCKS[:index], change(BLOCKS[index]), *BLOCKS[index + 1 :]]


def named(report: AuditReport, problem: str, block: ExampleBlock) -> bool:
    who = (block.request_ids[0], int(block.impression_ids[0]), SPEC.tasks[int(block.mask.argmax())].name)
    return who in [(o.request_id, o.impression_id, o.task) for o in report.offenders if o.problem == problem]


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
        ("fids", lambda b: replace(b, fids=np.concatenate((b.fids[:-1], b.fids[-1:] + 1)))),
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
    index = next(i for i, b in enumerate(BLOCKS) if b.lengths is not None and b.lengths[-1] >= 1)

    def shorter(block: ExampleBlock) -> ExampleBlock:
        assert block.lengths is not None
        lengths = block.lengths.copy()
        lengths[-1] -= 1
        return replace(block, lengths=lengths, fids=block.fids[:-1])

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


EMITTING = replace(SPEC, tasks=tuple(replace(task, late="emit") for task in SPEC.tasks))


def late_blocks(spec: FeatureSpec, pairs: set[tuple[str, int, int]]) -> list[ExampleBlock]:
    """What a faultless joiner sends when the actions of some (request, impression, task) come after the window."""
    features = [replace(feature, spec_hash=spec.hash) for feature in FEATURES]
    negatives = {pair_of(b): b for b in example_blocks(spec, features, [], ingest_ms=77)}
    blocks = []
    for block in example_blocks(spec, features, ACTIONS, ingest_ms=77):
        pair = pair_of(block)
        if pair not in pairs:
            blocks.append(block)
            continue
        if not block.labels.any():
            continue  # comes with the positive
        if pair in negatives:
            blocks.append(negatives[pair])
        if spec.tasks[pair[2]].late == "emit":
            kind = LabelKind.CORRECTION if spec.tasks[pair[2]].labels == "immediate" else LabelKind.LATE_POSITIVE
            blocks.append(replace(block, label_kind=np.array([kind], np.uint8)))
    return blocks


def pair_of(block: ExampleBlock) -> tuple[str, int, int]:
    return block.request_ids[0], int(block.impression_ids[0]), int(block.mask.argmax())


POSITIVES = {pair_of(block) for block in BLOCKS if block.label_kind[0] == LabelKind.POSITIVE}
WATCHES = {pair for pair in POSITIVES if pair[2] == 0}


def test_late_positives_with_their_sampled_negatives_pass() -> None:
    blocks = late_blocks(EMITTING, WATCHES)
    sampled = len(blocks) - len(BLOCKS)
    assert 0 < sampled < len(WATCHES), "both kinds should be in the stream"
    report = run(
        blocks, [replace(f, spec_hash=EMITTING.hash) for f in FEATURES], EMITTING, newest_before_ms=AFTER_ALL_MS
    )
    assert report.ok, report.lines()
    assert report.late_positive == len(WATCHES)
    assert report.expected == report.found == len(blocks)


def test_a_late_positive_without_its_sampled_negative_is_a_loss() -> None:
    blocks = late_blocks(EMITTING, WATCHES)
    index = next(i for i, b in enumerate(blocks) if pair_of(b) in WATCHES and b.label_kind[0] == LabelKind.NEGATIVE)
    features = [replace(f, spec_hash=EMITTING.hash) for f in FEATURES]
    report = run(blocks[:index] + blocks[index + 1 :], features, EMITTING, newest_before_ms=AFTER_ALL_MS)
    assert (report.lost, report.mislabelled, report.duplicated) == (1, 0, 0)


def test_a_negative_alone_is_mislabelled_where_late_actions_are_emitted() -> None:
    blocks = [b for b in late_blocks(EMITTING, WATCHES) if b.label_kind[0] != LabelKind.LATE_POSITIVE]
    features = [replace(f, spec_hash=EMITTING.hash) for f in FEATURES]
    report = run(blocks, features, EMITTING, newest_before_ms=AFTER_ALL_MS)
    assert report.mislabelled + report.lost == len(WATCHES)
    assert report.mislabelled > 0
    assert not report.ok


def test_a_late_positive_that_cannot_have_been_late_is_found() -> None:
    features = [replace(f, spec_hash=EMITTING.hash) for f in FEATURES]
    report = run(late_blocks(EMITTING, WATCHES), features, EMITTING, newest_before_ms=NEVER_LATE)
    assert report.wrong_columns == {"label_kind": len(WATCHES)}
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


def test_a_positive_of_a_pair_without_action_is_mislabelled() -> None:
    index = first(LabelKind.NEGATIVE)
    wrong = replace(BLOCKS[index], labels=BLOCKS[index].mask, label_kind=np.array([LabelKind.POSITIVE], np.uint8))
    report = run([*BLOCKS[:index], wrong, *BLOCKS[index + 1 :]])
    assert (report.mislabelled, report.lost, report.duplicated) == (1, 0, 0)


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
    spec = with_labels(EMITTING, mode)
    features = [replace(feature, spec_hash=spec.hash) for feature in FEATURES]
    blocks = late_blocks(spec, WATCHES)
    report = run(blocks, features, spec, newest_before_ms=AFTER_ALL_MS)
    assert report.ok, report.lines()
    assert report.late_positive == (0 if mode == "immediate" else len(WATCHES))
    assert report.expected == report.found == len(blocks)
    index = next(i for i, b in enumerate(blocks) if pair_of(b) in WATCHES and not b.labels.any())
    report = run(blocks[:index] + blocks[index + 1 :], features, spec, newest_before_ms=AFTER_ALL_MS)
    assert (report.lost, report.mislabelled, report.duplicated) == (1, 0, 0)


def test_a_late_correction_of_a_task_that_emits_is_due_and_is_a_correction() -> None:
    spec = with_labels(EMITTING, "immediate")
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
