"""Judges the labels that each (impression, task) pair got, by how many rows of each label were found.

One valid action has one acceptable outcome when it was not late, and another when it was (``docs/join.md``,
rules 12, 13 and 17). Which of them happened depends on the joiner's watermark, which topics do not record; but
of each pair the rows have to be those of one outcome, whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas.arrays import Bools, Int32s, Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Judgement of every pair, [M, T]: flags, and numbers of rows."""

    lost: Bools
    duplicated: Int64s
    mislabelled: Int64s
    unexpected: Int64s
    #: a late positive, with its negative where the sample keeps it
    late_positive: Bools
    #: the action came too late for a task that drops late ones
    late_dropped: Bools
    #: rows that are due, given which actions were late
    due: Int64s


def judge_labels(expected: ExpectedExamples, positives: Int32s, late: Int32s, negatives: Int32s) -> Labels:
    """Compares numbers of rows with what is due.

    :param positives: rows with label 1 of each pair, late ones included, int32[M, T].
    :param late: those of them that are marked late.
    :param negatives: rows with label 0.
    """
    emits = np.array([task.late == "emit" for task in expected.spec.tasks])
    can = expected.positive & expected.may_be_late
    late_positive = can & emits & (late > 0)
    late_dropped = can & ~emits & (positives == 0) & (negatives == expected.sampled)
    on_time = ~late_positive & ~late_dropped
    found = positives + negatives
    # The negative of a late positive went out before it, and is due on its own.
    lone = late_positive & expected.sampled
    return Labels(
        lost=(on_time & expected.expected & (found == 0)) | (lone & (negatives == 0)),
        duplicated=np.where(
            on_time,
            np.maximum(found - 1, 0),
            np.maximum(positives - 1, 0) + np.where(lone, np.maximum(negatives - 1, 0), 0),
        ),
        mislabelled=np.where(expected.positive, np.where(on_time, negatives, 0), positives),
        unexpected=np.where(
            expected.positive,
            np.where(late_positive & ~lone, negatives, 0),
            np.where(expected.sampled, 0, negatives),
        ),
        late_positive=late_positive,
        late_dropped=late_dropped,
        due=np.where(late_dropped, expected.sampled, expected.expected + lone.astype(np.int64)),
    )
