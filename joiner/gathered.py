"""What the rules of tasks have gathered of the pairs of a request: the actions that counted and were not enough.

They are kept with the times of :attr:`rillet.joiner.entry.Entry.times`, as elements whose pair has the highest bit, and
forgotten when the pair turns positive. Each has a hash of the action, so that one that comes twice counts once, and its value.
"""

from __future__ import annotations

import struct
from enum import Enum
from hashlib import blake2b

import numpy as np

from rillet.joiner.entry import TIMES, Entry
from rillet.schemas import ActionEvent
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast

_ELEMENT = struct.Struct("<Iqd")
_GATHERED = 1 << 31


class Fate(Enum):
    """What became of an action that a rule was asked about."""

    #: the rule is true
    TURNED = "turned"
    #: it is not true yet
    INCOMPLETE = "incomplete_actions"
    #: the action has counted before
    DUPLICATE = "duplicate_actions"
    #: the pair has as many as may be gathered
    NO_ROOM = "ungathered_actions"


def take(rule: AtLeast, entry: Entry, task: int, index: int, action: ActionEvent) -> Fate:
    """Takes a valid action on a pair that is not positive, and gathers it where the rule is not true with it."""
    if rule.measure == "value":
        turned = action.value is not None and action.value >= rule.number
        return Fate.TURNED if turned else Fate.INCOMPLETE
    if rule.measure == "sum" and action.value is None:
        return Fate.INCOMPLETE
    pair = _GATHERED | task * len(entry.event.impression_ids) + index
    elements = np.frombuffer(entry.times, TIMES)
    of_pair = elements[elements["pair"] == pair]
    identity = _identity(action)
    if identity in of_pair["action_time_ms"].tolist():
        return Fate.DUPLICATE
    if rule.measure == "count":
        turned = len(of_pair) + 1 >= rule.number
    else:
        values: list[float] = of_pair["action_ingest_ms"].copy().view("<f8").tolist()
        total = 0.0
        # In order of arrival: a sum of floats depends on it.
        for value in (*values, action.value or 0.0):
            total += value
        turned = total >= rule.number
    if turned:
        entry.times = elements[elements["pair"] != pair].tobytes()
        return Fate.TURNED
    if len(of_pair) >= MOST_GATHERED:
        return Fate.NO_ROOM
    entry.times += _ELEMENT.pack(pair, identity, action.value or 0.0)
    return Fate.INCOMPLETE


def _identity(action: ActionEvent) -> int:
    """What tells an action on a pair from another one: its id, or else its name, time and value."""
    if action.action_id:
        told = f"id|{action.action_id}"
    else:
        # Of the two zeros one.
        value = None if action.value is None else action.value + 0.0
        told = f"{action.event_time_ms}|{value!r}|{action.action}"
    return int.from_bytes(blake2b(told.encode(), digest_size=8).digest(), "little", signed=True)
