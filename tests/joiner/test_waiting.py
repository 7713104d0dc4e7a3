"""Actions that wait: so many bytes of them, told where there is no room, and given up in steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import Alarms, Counters, JoinerConfig, WaitingFullError
from rillet.joiner.header import BucketHeader
from rillet.joiner.waiting import WaitingActions
from rillet.schemas import ActionEvent, encode
from tests.joiner.scenarios import CONFIG, shown
from tests.joiner.support import SPEC, action
from tests.simulation.joiner_engine import Engine, MemoryState

#: room for a few actions of one bucket
NARROW = replace(CONFIG, buckets=2, waiting_bytes=8_000)


def fill(engine: Engine) -> int:
    """Actions on requests that have not come, until there is no more room; how many there was room for."""
    for number in range(100):
        try:
            engine.record(0, encode(action(number, 0, "watch", 6_000)))
        except WaitingFullError:
            return number
    raise AssertionError("nothing bounds them")


def test_an_action_beyond_the_share_of_its_bucket_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    engine = Engine(SPEC, NARROW, tmp_path)
    room = fill(engine)
    assert 0 < room < 8
    before = engine.checkpoint(), engine.joiner.counters.as_dict()
    with pytest.raises(WaitingFullError, match=rf"{room} actions wait already.* \(4000 bytes\)"):
        engine.record(0, encode(action(99, 0, "watch", 6_000)))
    assert (engine.checkpoint(), engine.joiner.counters.as_dict()) == before
    assert engine.joiner.buckets.waiting_bytes <= 4_000
    engine.record(1, encode(action(99, 0, "watch", 6_000)))  # the other bucket has its own share
    engine.record(0, encode(action(99, 0, "scroll", 6_000)))  # nobody asks for it, so it need not wait


@pytest.mark.parametrize("how", ["come", "given up"])
def test_there_is_room_again_once_actions_wait_no_longer(tmp_path: Path, how: str) -> None:
    engine = Engine(SPEC, NARROW, tmp_path)
    room = fill(engine)
    if how == "come":
        for number in range(room):
            engine.record(0, encode(shown(number, 5_000)))
        assert engine.joiner.counters.positives == room
    else:
        engine.watermark(CONFIG.action_wait_ms + 7_000)
        assert engine.joiner.counters.orphan_actions == room
    assert (engine.joiner.buckets.waiting_actions, engine.joiner.buckets.waiting_bytes) == (0, 0)


def test_a_restart_knows_how_much_room_is_left(tmp_path: Path) -> None:
    engine = Engine(SPEC, NARROW, tmp_path)
    fill(engine)
    used = engine.joiner.buckets.waiting_bytes
    engine.restore(engine.checkpoint())
    with pytest.raises(WaitingFullError):
        engine.record(0, encode(action(99, 0, "watch", 6_000)))
    assert engine.joiner.buckets.waiting_bytes == used


def test_ten_refused_actions_are_told_of_however_many_are_joined() -> None:
    alarms = Alarms(SPEC, JoinerConfig(), lambda: 0.0)
    counts = Counters(features=10_000, actions=10_000, positives=10_000).as_dict() | {"dead_letters": 10}
    (line,) = alarms.judge(counts, {}, {"WaitingFullError": 10})
    assert "no room to wait" in line
    assert "waiting_bytes" in line


def test_as_many_actions_wait_for_one_request_as_a_request_may_have(tmp_path: Path) -> None:
    engine = Engine(SPEC, replace(CONFIG, waiting_bytes=1 << 40), tmp_path)
    for number in range(1_000):
        engine.record(0, encode(action(1, 0, "watch", 6_000 + number % 7)))
        if number == 500:
            engine.restore(engine.checkpoint())
    with pytest.raises(WaitingFullError, match="1,000 actions wait for it already"):
        engine.record(0, encode(action(1, 0, "watch", 6_000)))
    engine.record(0, encode(action(2, 0, "watch", 6_000)))
    assert engine.joiner.buckets.waiting_actions == 1_001


def waiting_of(number: int) -> tuple[WaitingActions, BucketHeader, MemoryState]:
    """So many actions on one request, over twenty slices."""
    header, state = BucketHeader(1), MemoryState()
    waiting = WaitingActions(header, 1 << 40, state)
    for at in range(number):
        event = ActionEvent("hot", 1_000 * (at % 20), 1, "watch")
        waiting.add(event, at % 20, at, encode(event), state)
    return waiting, header, state


def started_again(state: MemoryState) -> tuple[WaitingActions, BucketHeader]:
    header = BucketHeader.from_bytes(state.header or b"")
    return WaitingActions(header, 1 << 40, state), header


@pytest.mark.parametrize("lost", [False, True])
def test_a_slice_is_given_up_in_steps_and_leaves_nothing(lost: bool) -> None:
    waiting, header, state = waiting_of(60)
    if lost:
        waiting, header = started_again(state)
    assert [waiting.give_up(3, 2, state) for _ in range(2)] == [2, 1]
    assert len(waiting) == 57
    assert [one.ingest_ms for one in waiting.take("hot", state)] == [n for n in range(60) if n % 20 != 3]
    assert (waiting.take("hot", state), waiting.oldest_slice()) == ([], None)
    assert (state.entries, header.waiting_bytes) == ({}, 0)


@pytest.mark.parametrize("lost", [False, True])
def test_all_slices_of_a_request_can_be_given_up(lost: bool) -> None:
    waiting, header, state = waiting_of(100)
    if lost:
        waiting, header = started_again(state)
    for slice_ in range(20):
        assert waiting.oldest_slice() == slice_
        assert waiting.give_up(slice_, 128, state) == 5
    assert (state.entries, header.waiting_bytes, header.waiting) == ({}, 0, {})


def test_a_start_finds_what_waits_in_order_of_arrival_although_slots_are_used_again() -> None:
    waiting, _, state = waiting_of(40)
    assert waiting.give_up(0, 128, state) == 2
    for at in range(100, 103):
        event = ActionEvent("hot", 1_000, 1, "watch")
        waiting.add(event, 1, at, encode(event), state)
    again, _ = started_again(state)
    assert [one.ingest_ms for one in again.take("hot", state)] == [*(n for n in range(40) if n % 20), 100, 101, 102]


def test_the_header_is_not_saved_with_each_action_that_waits() -> None:
    waiting, header, state = waiting_of(200)
    for at in range(1_000):
        waiting.give_up(at % 20, 1, state)
        event = ActionEvent("hot", 1_000 * (at % 20), 1, "watch")
        waiting.add(event, at % 20, at, encode(event), state)
    assert state.calls["save_header"] == 5  # 16 slots, 32, 64, 128, 256
    assert (len(waiting), header.slots) == (200, 256)


def test_slots_are_given_back_once_nothing_waits() -> None:
    waiting, header, state = waiting_of(200)
    waiting.release_slots()
    assert header.slots == 256
    waiting.take("hot", state)
    waiting.release_slots()
    assert header.slots == 0
    event = ActionEvent("hot", 0, 1, "watch")
    waiting.add(event, 0, 7, encode(event), state)
    again, _ = started_again(state)
    assert [one.ingest_ms for one in again.take("hot", state)] == [7]
