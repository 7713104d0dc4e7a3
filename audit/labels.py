"""Judges the labels that each (impression, task) pair got, by how many rows of each label were found.

Which rows are due follows from the task's label mode. One valid action has one acceptable outcome when it was not
late, and another when it was (``docs/join.md``, rules 12, 13 and 17). Which of them happened depends on the joiner's
watermark, which topics do not record; but of each pair the rows have to be those of one outcome, whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rillet.audit.expected import ExpectedExamples
from rillet.schemas.arrays import Bools, Int32s, Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Judgement of every pair, [M, T]: flags, and numbers of rows."""

    lost: Int64s
    duplicated: Int64s
    mislabelled: Int64s
    unexpected: Int64s
    #: a late positive, beside the negative that it takes back
    late_positive: Bools
    #: the action came too late for a pair whose task drops late ones
    late_dropped: Bools
    #: rows that are due, given which actions were late and what was left out
    due: Int64s
    #: rows that are not there, of a task that a later spec does not have
    left_out: Int64s


def judge_labels(
    expected: ExpectedExamples, positives: Int32s, late: Int32s, negatives: Int32s, left_out: Bools | None = None
) -> Labels:
    """Compares numbers of rows with what is due.

    Where a pair may have one row at most, a row with the wrong label stands for the right one: it is mislabelled, and
    nothing is lost. Where a row with label 0 may stand beside one with label 1, each label is judged on its own.

    :param positives: rows with label 1 of each pair, late ones included, int32[M, T].
    :param late: those of them that are marked late.
    :param negatives: rows with label 0.
    :param left_out: tasks of which the joiner has sent no row any more since some moment, because its spec no longer had
        them: their rows may be missing, but for provisional ones, which went out with the request; bool[T], None for none.
    """
    positive, sampled, immediate = expected.positive, expected.sampled, expected.immediate
    can = positive & expected.may_be_late
    may_miss = np.zeros(positive.shape[1], np.bool_) if left_out is None else left_out
    # Whatever became of the action, its row had no task any more.
    unsent = can & may_miss & (positives == 0)
    late_positive = can & expected.marks_late & (late > 0)
    # A provisional negative is due whatever comes after it, so it says nothing about the action.
    late_dropped = can & ~may_miss & ~expected.emits_late & (positives == 0) & (immediate | (negatives == sampled))
    due_1 = positive & ~late_dropped & ~unsent
    due_0 = expected.negative | (sampled & (late_positive | late_dropped | unsent))
    # Both rows are due of a late positive as well: its negative went out before it.
    apart = immediate | late_positive
    found = positives + negatives
    missing_1 = (due_1 & (positives == 0)).astype(np.int64)
    lost = np.where(apart, missing_1 + (due_0 & (negatives == 0)), (due_1 | due_0) & (found == 0))
    not_sent = np.where(may_miss, np.where(immediate, missing_1, lost), 0)
    duplicated = np.where(
        apart,
        np.maximum(positives - 1, 0) + np.where(due_0, np.maximum(negatives - 1, 0), 0),
        np.maximum(found - 1, 0),
    )
    right_0 = due_0 | ~positive | apart
    return Labels(
        lost=lost - not_sent,
        duplicated=duplicated,
        mislabelled=np.where(positive, 0, positives) + np.where(right_0, 0, negatives),
        unexpected=np.where(right_0 & ~due_0, negatives, 0),
        late_positive=late_positive,
        late_dropped=late_dropped,
        due=due_1.astype(np.int64) + due_0 - not_sent,
        left_out=not_sent,
    )
