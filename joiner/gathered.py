"""What a pair has gathered for the rule of its task: the actions that counted and were not enough.

They are an entry per pair in the engine's state, and nowhere else: so what an action costs does not depend on what other pairs of
its request have gathered, and memory holds none of it. Which pairs have an entry is in :attr:`rillet.joiner.entry.Entry.gathering`; it
is removed when the pair turns positive, or with its request. It has a hash of each action, so that one that comes twice counts
once, and its value.
"""

from __future__ import annotations

import struct
from enum import Enum
from hashlib import blake2b

from rillet.joiner.entry import Entry
from rillet.joiner.errors import JoinerError
from rillet.joiner.state import BucketState, gathered_key
from rillet.schemas import ActionEvent
from rillet.schemas.label_rules import MOST_GATHERED, AtLeast

_ELEMENT = struct.Struct("<qd")


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


def take(rule: AtLeast, entry: Entry, task: int, index: int, action: ActionEvent, state: BucketState) -> Fate:
    """Takes a valid action on a pair that is not positive, and gathers it where the rule is not true with it.

    :raises JoinerError: what was gathered is missing in the state.
    """
    if rule.measure == "value":
        turned = action.value is not None and action.value >= rule.number
        return Fate.TURNED if turned else Fate.INCOMPLETE
    if rule.measure == "sum" and action.value is None:
        return Fate.INCOMPLETE
    pair = task * len(entry.event.impression_ids) + index
    bit, key = 1 << pair, gathered_key(entry.slice_, entry.n, pair)
    gathered = b""
    if entry.gathering & bit:
        kept = state.get(key)
        if kept is None:
            raise JoinerError(f"entry {key} is missing in the checkpointed state, of request {entry.request_id}")
        gathered = kept
    elements = list(_ELEMENT.iter_unpack(gathered))
    identity, value = _identity(action), action.value or 0.0
    if any(identity == one for one, _ in elements):
        return Fate.DUPLICATE
    # In order of arrival: a sum of floats depends on it.
    reached = len(elements) + 1 if rule.measure == "count" else _sum([*(one for _, one in elements), value])
    if reached >= rule.number:
        if gathered:
            state.remove(key)
            entry.gathering ^= bit
        return Fate.TURNED
    if len(elements) >= MOST_GATHERED:
        return Fate.NO_ROOM
    state.put(key, gathered + _ELEMENT.pack(identity, value))
    entry.gathering |= bit
    return Fate.INCOMPLETE


def _sum(values: list[float]) -> float:
    """One after the other from 0.0: ``sum`` of a later Python is more exact than that."""
    total = 0.0
    for value in values:
        total += value
    return total


def _identity(action: ActionEvent) -> int:
    """What tells an action on a pair from another one: its id, or else its name, time and value."""
    if action.action_id:
        told = f"id|{action.action_id}"
    else:
        # Of the two zeros one.
        value = None if action.value is None else action.value + 0.0
        told = f"{action.event_time_ms}|{value!r}|{action.action}"
    return int.from_bytes(blake2b(told.encode(), digest_size=8).digest(), "little", signed=True)
