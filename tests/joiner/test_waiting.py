"""Actions that wait: so many bytes of them, told where there is no room, and given up in time that grows with their number."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import Alarms, Counters, JoinerConfig, SliceSchedule, WaitingFullError
from rillet.joiner.waiting import WaitingActions
from rillet.schemas import ActionEvent, encode
from tests.joiner.scenarios import CONFIG, shown
from tests.joiner.support import SPEC, action
from tests.simulation.joiner_engine import Engine

ONE_SECOND = SliceSchedule(SPEC, CONFIG)
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
    assert engine.joiner.waiting_bytes <= 4_000
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
    assert (engine.joiner.waiting_actions, engine.joiner.waiting_bytes) == (0, 0)


def test_a_restart_knows_how_much_room_is_left(tmp_path: Path) -> None:
    engine = Engine(SPEC, NARROW, tmp_path)
    fill(engine)
    used = engine.joiner.waiting_bytes
    engine.restore(engine.checkpoint())
    with pytest.raises(WaitingFullError):
        engine.record(0, encode(action(99, 0, "watch", 6_000)))
    assert engine.joiner.waiting_bytes == used


def test_ten_refused_actions_are_told_of_however_many_are_joined() -> None:
    alarms = Alarms(SPEC, JoinerConfig(), lambda: 0.0)
    counts = Counters(features=10_000, actions=10_000, positives=10_000).as_dict() | {"dead_letters": 10}
    (line,) = alarms.judge(counts, {}, {"WaitingFullError": 10})
    assert "no room to wait" in line
    assert "waiting_bytes" in line


def waiting_of(number: int) -> WaitingActions:
    """So many actions on one request, over twenty slices."""
    waiting = WaitingActions(ONE_SECOND, 1 << 40)
    for at in range(number):
        waiting.add(ActionEvent("hot", 1_000 * (at % 20), 1, "watch"), -1, b"")
    return waiting


def give_up_s(number: int) -> float:
    waiting = waiting_of(number)
    started = time.process_time()
    assert sum(waiting.give_up(slice_) for slice_ in range(20)) == number
    assert (len(waiting), waiting.used_bytes) == (0, 0)
    return time.process_time() - started


def test_giving_up_the_actions_of_one_request_takes_time_in_proportion_to_their_number() -> None:
    few, many = (min(give_up_s(number) for _ in range(3)) for number in (1_000, 8_000))
    assert many < 8 * few + 0.02  # quadratic: 64 times as long, half a second


def test_actions_of_several_slices_are_taken_in_the_order_of_their_arrival() -> None:
    waiting = waiting_of(60)
    waiting.give_up(3)
    taken = waiting.take("hot")
    assert [one.number for one in taken] == [number for number in range(60) if number % 20 != 3]
    assert waiting.oldest_ms() is None
    assert [waiting.give_up(slice_) for slice_ in range(20)] == [0] * 20
    assert waiting.take("other") == []
