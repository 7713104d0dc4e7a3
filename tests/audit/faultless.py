"""Recorded events, and the examples that a faultless joiner makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rillet.audit.comparison import audit_examples
from rillet.audit.expected import ExpectedExamples
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport
from rillet.recordings.movielens import ml1m_spec
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind, encode
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


CORRECTING = replace(SPEC, tasks=tuple(replace(task, late="correct") for task in SPEC.tasks))


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
        if spec.tasks[pair[2]].late == "correct":
            kind = LabelKind.LATE_POSITIVE if pair in negatives else LabelKind.POSITIVE
            kind = LabelKind.CORRECTION if spec.tasks[pair[2]].labels == "immediate" else kind
            blocks.append(replace(block, label_kind=np.array([kind], np.uint8)))
    return blocks


def pair_of(block: ExampleBlock) -> tuple[str, int, int]:
    return block.request_ids[0], int(block.impression_ids[0]), int(block.mask.argmax())


POSITIVES = {pair_of(block) for block in BLOCKS if block.label_kind[0] == LabelKind.POSITIVE}
WATCHES = {pair for pair in POSITIVES if pair[2] == 0}
