"""Which action makes a pair positive, as the audit has it, and what becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.audit.rules import turning_actions
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast

Action = tuple[str, float | None]


@pytest.mark.parametrize(
    ("rule", "actions", "turning", "others"),
    [
        (AtLeast("count", 2), [("a", None), ("a", None), ("b", None), ("c", None)], [2], (1, 2)),
        (AtLeast("sum", 3.0), [("a", 2.0), ("b", None), ("a", 2.0), ("c", 1.0)], [3], (2, 1)),
        (AtLeast("sum", 3.0), [("a", 2.0), ("b", -1.0), ("c", 1.5)], [], (3, 0)),
        # Without a value it does not count, so it is no duplicate of one that does.
        (AtLeast("sum", 3.0), [("a", 2.0), ("a", None), ("b", 1.0)], [2], (2, 0)),
        # One that was not enough is not gathered, so the same one again is no duplicate.
        (AtLeast("value", 3.0), [("a", 2.9), ("a", 2.9), ("a", 3.0), ("b", 9.0)], [2], (2, 1)),
    ],
)
def test_a_pair_turns_with_the_first_action_that_makes_its_rule_true(
    rule: AtLeast, actions: list[Action], turning: list[int], others: tuple[int, int]
) -> None:
    found, counts = turning_actions(rule, np.zeros(len(actions), np.int64), actions)
    assert found.tolist() == turning
    assert (counts["incomplete_actions"], counts["duplicate_actions"]) == others
    assert counts["ungathered_actions"] == 0


def test_pairs_gather_on_their_own() -> None:
    found, counts = turning_actions(AtLeast("count", 2), np.array([1, 2, 2, 1]), [(name, None) for name in "abcd"])
    assert found.tolist() == [2, 3]
    assert counts == {"incomplete_actions": 2}


def test_a_pair_gathers_no_more_than_it_may() -> None:
    actions = [(str(number), 1.0) for number in range(MOST_GATHERED + 2)]
    found, counts = turning_actions(AtLeast("sum", 1e9), np.zeros(len(actions), np.int64), actions)
    assert found.tolist() == []
    assert counts == {"incomplete_actions": MOST_GATHERED, "ungathered_actions": 2}
