"""Every mixture of rows that one pair can have, and what it is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.audit.expected import ExpectedExamples
from rillet.audit.labels import judge_labels
from rillet.audit.plain_join import PlainJoin
from rillet.schemas import dump_spec, parse_spec
from rillet.schemas.spec import LabelMode
from tests.joiner.support import SPEC, action, feature
from tests.simulation.joiner_oracle import kept

#: the first task drops late actions, the second emits them
BOTH = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "correct"').replace('"correct"', '"drop"', 1))
DROP, CORRECT = 0, 1


def one_pair(task: int, acted: bool, sampled: bool, late: bool, mode: LabelMode) -> ExpectedExamples:
    """A request with one impression; what is due for the other task does not matter."""
    spec = replace(BOTH, tasks=tuple(replace(t, negative_rate=0.5, labels=mode) for t in BOTH.tasks))
    name = spec.tasks[task].name
    request = next(r for r in range(99) if kept(spec.sampling_seed, name, f"r{r}", 100, 0.5) is sampled)
    join = PlainJoin(spec)
    join.add_feature(replace(feature(request, 5_000, impressions=1), spec_hash=spec.hash))
    if acted:
        join.add_action(action(request, 0, name, 6_000), newest_before_ms=1_000_000 if late else -1)
    return join.result()


@pytest.mark.parametrize(
    ("task", "acted", "sampled", "late", "rows", "found"),
    [
        # rows are (positives, late ones among them, negatives)
        (DROP, True, True, False, (1, 0, 0), {}),
        (DROP, True, True, False, (0, 0, 0), {"lost": 1}),
        (DROP, True, True, False, (0, 0, 1), {"mislabelled": 1}),
        (DROP, True, True, False, (1, 0, 1), {"mislabelled": 1, "duplicated": 1}),
        (DROP, True, True, False, (3, 0, 0), {"duplicated": 2}),
        (DROP, True, False, False, (0, 0, 1), {"mislabelled": 1}),
        (DROP, False, True, False, (0, 0, 1), {}),
        (DROP, False, True, False, (0, 0, 0), {"lost": 1}),
        (DROP, False, True, False, (1, 0, 0), {"mislabelled": 1}),
        (DROP, False, False, False, (0, 0, 0), {}),
        (DROP, False, False, False, (0, 0, 1), {"unexpected": 1}),
        (DROP, True, True, True, (1, 0, 0), {}),
        (DROP, True, True, True, (0, 0, 1), {"late_dropped": 1}),
        (DROP, True, True, True, (0, 0, 0), {"lost": 1}),
        (DROP, True, True, True, (0, 0, 2), {"mislabelled": 2, "duplicated": 1}),
        (DROP, True, True, True, (1, 0, 1), {"mislabelled": 1, "duplicated": 1}),
        (DROP, True, False, True, (0, 0, 0), {"late_dropped": 1}),
        (DROP, True, False, True, (0, 0, 1), {"mislabelled": 1}),
        (DROP, True, True, True, (1, 1, 1), {"mislabelled": 1, "duplicated": 1}),
        (CORRECT, True, True, True, (1, 0, 0), {}),
        (CORRECT, True, True, True, (1, 1, 1), {"late_positive": 1}),
        (CORRECT, True, True, True, (1, 1, 0), {"late_positive": 1, "lost": 1}),
        (CORRECT, True, True, True, (2, 1, 1), {"late_positive": 1, "duplicated": 1}),
        (CORRECT, True, True, True, (1, 1, 2), {"late_positive": 1, "duplicated": 1}),
        (CORRECT, True, True, True, (0, 0, 1), {"mislabelled": 1}),
        (CORRECT, True, True, True, (0, 0, 0), {"lost": 1}),
        (CORRECT, True, True, True, (1, 0, 1), {"mislabelled": 1, "duplicated": 1}),
        # Where no negative was sent there is none to take back: late or not, it is the same row.
        (CORRECT, True, False, True, (1, 0, 0), {}),
        (CORRECT, True, False, True, (0, 0, 0), {"lost": 1}),
        (CORRECT, True, False, True, (1, 1, 1), {"mislabelled": 1, "duplicated": 1}),
        (CORRECT, True, True, False, (1, 1, 1), {"mislabelled": 1, "duplicated": 1}),
    ],
)
@pytest.mark.parametrize("mode", ["positives_first", "aligned"])
def test_rows_of_a_pair(
    task: int,
    acted: bool,
    sampled: bool,
    late: bool,
    rows: tuple[int, int, int],
    found: dict[str, int],
    mode: LabelMode,
) -> None:
    judge(one_pair(task, acted, sampled, late, mode), task, rows, found)


@pytest.mark.parametrize(
    ("task", "acted", "sampled", "late", "rows", "found"),
    [
        (DROP, True, True, False, (1, 0, 1), {}),
        (DROP, True, True, False, (1, 0, 0), {"lost": 1}),
        (DROP, True, True, False, (0, 0, 1), {"lost": 1}),
        (DROP, True, True, False, (0, 0, 0), {"lost": 2}),
        (DROP, True, True, False, (2, 0, 1), {"duplicated": 1}),
        (DROP, True, True, False, (1, 0, 2), {"duplicated": 1}),
        (DROP, True, True, False, (0, 0, 2), {"lost": 1, "duplicated": 1}),
        (DROP, True, False, False, (1, 0, 0), {}),
        (DROP, True, False, False, (0, 0, 0), {"lost": 1}),
        (DROP, True, False, False, (1, 0, 1), {"unexpected": 1}),
        (DROP, False, True, False, (0, 0, 1), {}),
        (DROP, False, True, False, (0, 0, 0), {"lost": 1}),
        (DROP, False, True, False, (1, 0, 1), {"mislabelled": 1}),
        (DROP, False, True, False, (1, 0, 0), {"mislabelled": 1, "lost": 1}),
        (DROP, False, False, False, (0, 0, 0), {}),
        (DROP, False, False, False, (0, 0, 1), {"unexpected": 1}),
        (DROP, True, True, True, (1, 0, 1), {}),
        (DROP, True, True, True, (0, 0, 1), {"late_dropped": 1}),
        (DROP, True, True, True, (0, 0, 0), {"late_dropped": 1, "lost": 1}),
        (DROP, True, False, True, (0, 0, 0), {"late_dropped": 1}),
        # What is late is corrected like the rest, so lateness excuses nothing.
        (CORRECT, True, True, True, (1, 0, 1), {}),
        (CORRECT, True, True, True, (1, 0, 0), {"lost": 1}),
        (CORRECT, True, True, True, (2, 0, 1), {"duplicated": 1}),
        (CORRECT, True, True, True, (0, 0, 1), {"lost": 1}),
        (CORRECT, True, True, True, (0, 0, 0), {"lost": 2}),
        (CORRECT, True, False, True, (1, 0, 0), {}),
        (CORRECT, True, False, True, (0, 0, 0), {"lost": 1}),
        (CORRECT, True, False, True, (1, 0, 1), {"unexpected": 1}),
    ],
)
def test_rows_of_a_pair_whose_negative_is_provisional(
    task: int, acted: bool, sampled: bool, late: bool, rows: tuple[int, int, int], found: dict[str, int]
) -> None:
    judge(one_pair(task, acted, sampled, late, "immediate"), task, rows, found)


def judge(expected: ExpectedExamples, task: int, rows: tuple[int, int, int], found: dict[str, int]) -> None:
    """Checks the judgement of rows (positives, late ones among them, negatives) of the one pair."""
    seen = [np.zeros((1, 2), np.int32) for _ in rows]
    for array, count in zip(seen, rows, strict=True):
        array[0, task] = count
    labels = judge_labels(expected, *seen)
    names = ("lost", "duplicated", "mislabelled", "unexpected", "late_positive", "late_dropped")
    counts = {name: int(getattr(labels, name)[0, task]) for name in names}
    assert {name: count for name, count in counts.items() if count} == found
    if not found.keys() - {"late_positive", "late_dropped"}:
        assert labels.due[0, task] == rows[0] + rows[2]
