"""The rules for rates of negatives in the file of a feature spec."""

from __future__ import annotations

import pytest

from rillet.schemas import SpecError, dump_spec, parse_spec
from rillet.schemas.negative_rates import RateByScore, RateBySlot, RateClass

TEXT = """
[spec]
name = "shop"
[[context]]
name = "surface"
slot = 1
kind = "token"
[[context]]
name = "seen"
slot = 2
kind = "token"
max_values = 3
[[item]]
name = "item"
slot = 16
kind = "id"
[[item]]
name = "age"
slot = 17
kind = "number"
bins = [1, 7]
[[tasks]]
name = "click"
action = "click"
window_ms = 600_000
negative_rate = 0.1
"""
BY_SLOT = (
    TEXT
    + """
[tasks.rate_by_slot]
slot = "surface"
classes = [
  { values = ["search", "réalité \\"x\\""], rate = 1 },
  { values = ["home"], rate = 0.05 },
]
"""
)
BY_SCORE = (
    TEXT
    + """
[tasks.rate_by_score]
mean_score = 0.08
floor = 0.02
"""
)


def test_rules_read_back_and_are_of_the_hash() -> None:
    plain, by_slot, by_score = map(parse_spec, (TEXT, BY_SLOT, BY_SCORE))
    classes = (RateClass(("search", 'réalité "x"'), 1.0), RateClass(("home",), 0.05))
    assert by_slot.tasks[0].rate_by_slot == RateBySlot("surface", classes)
    assert by_score.tasks[0].rate_by_score == RateByScore(0.08, 0.02)
    for spec in (by_slot, by_score):
        assert parse_spec(dump_spec(spec)) == spec
    assert len({spec.hash for spec in (plain, by_slot, by_score)}) == 3
    assert '"rate_by_slot":{"classes":[{"rate":1.0,"values":["search","r' in by_slot.canonical_json
    assert "rate_by" not in plain.canonical_json


def test_integers_and_numbers_are_values_too() -> None:
    of_items = BY_SLOT.replace('"surface"\nc', '"item"\nc').replace('["search", "réalité \\"x\\""]', "[7, 8]")
    assert parse_spec(of_items.replace('["home"]', "[9]")).tasks[0].rate_by_slot is not None
    of_ages = BY_SLOT.replace('"surface"\nc', '"age"\nc').replace('["search", "réalité \\"x\\""]', "[0.5, 1]")
    assert parse_spec(of_ages.replace('["home"]', "[30]")).tasks[0].rate_by_slot is not None


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (BY_SLOT, ('"surface"\nc', '"seen"\nc'), r"rate_by_slot\.slot: 'seen' is no slot with one value; .*: surface, item"),
        (BY_SLOT, ('"surface"\nc', '"surfaces"\nc'), r"rate_by_slot\.slot: 'surfaces' is no slot"),
        (BY_SLOT, ("rate = 1 ", "rate = 2 "), r"tasks\[0\]\.rate_by_slot\.classes\[0\]\.rate: 2\.0 is not in"),
        (BY_SLOT, ('["home"]', '["search"]'), r"classes\[1\]\.values: 'search' stands in .*classes\[0\]\.values, too"),
        (BY_SLOT, ('["home"]', "[1.5]"), r"classes\[1\]\.values: slot surface: 1\.5 is neither text nor an integer"),
        (BY_SLOT, ('["home"]', "[]"), r"classes\[1\]\.values: is empty"),
        (BY_SLOT, ('["home"]', '"home"'), r"classes\[1\]\.values: expected list"),
        (BY_SLOT, ("slot = \"surface\"\nclasses", "slot = \"surface\"\nrate"), r"rate_by_slot\.rate: unknown key"),
        (BY_SCORE, ("floor = 0.02", "floor = 0"), r"rate_by_score\.floor: 0\.0 is not in \[1e-06, 1\]"),
        (BY_SCORE, ("floor = 0.02", "floor = 0.2"), r"rate_by_score\.floor: 0\.2 is above negative_rate, 0\.1"),
        (BY_SCORE, ("floor = 0.02", ""), r"rate_by_score\.floor: expected float, found nothing"),
        (BY_SCORE, ("0.08", "1.5"), r"rate_by_score\.mean_score: 1\.5 is not in \(0, 1\]"),
        (BY_SLOT, ("[tasks.rate_by_slot]", "[tasks.rate_by_score]\nmean_score = 0.1\nfloor = 0.1\n[tasks.rate_by_slot]"),
         r"tasks\[0\]\.rate_by_score: the task has rate_by_slot, too"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_refused_with_its_path(text: str, change: tuple[str, str], message: str) -> None:
    assert change[0] in text
    with pytest.raises(SpecError, match=message):
        parse_spec(text.replace(*change))
