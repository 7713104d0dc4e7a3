"""No call, no value and no header grows with the requests that a bucket has: very many of them in one bucket and slice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import Joiner, JoinerConfig, SpecJoiners
from rillet.joiner.closing import STEP_REQUESTS
from rillet.schemas import ExampleBlock, SpecRegistry, encode
from tests.joiner.specs import MemoryStates
from tests.joiner.support import SPEC, action, feature
from tests.simulation.joiner_engine import MemoryState

pytestmark = pytest.mark.simulation

REQUESTS = 20_000
#: a request and its labels are read, it, its place and its labels removed; a few more find the last request of a slice
MOST_CALLS = 5 * STEP_REQUESTS + 40
CONFIG = JoinerConfig(slice_ms=30_000, action_wait_ms=30_000, memory_bytes=1, disk_tier=False)
FAR_MS = 10_000_000


class LargestCalls:
    """A joiner that is asked step by step, and the most that one call has asked of the state."""

    def __init__(self, folder: Path, state: MemoryState) -> None:
        self.joiner = Joiner(SPEC, CONFIG, folder)
        self.state = state
        self.most: Counter[str] = Counter()

    def measured(self, kind: str, before: int) -> None:
        self.most[kind] = max(self.most[kind], self.state.calls.total() - before)

    def advance(self) -> list[ExampleBlock] | None:
        before = self.state.calls.total()
        due_ms = self.joiner.next_due_ms(0, self.state)
        if due_ms is None:
            return None
        blocks = self.joiner.advance(0, FAR_MS, self.state)
        self.measured("advance", before)
        return blocks


def test_twenty_thousand_requests_of_one_slice_are_kept_closed_and_forgotten_in_small_calls(tmp_path: Path) -> None:
    state = MemoryState()
    calls = LargestCalls(tmp_path / "a", state)
    one = feature(1, 5_000, impressions=1)
    for number in range(REQUESTS):
        before = state.calls.total()
        event = replace(one, request_id=f"r{number}")
        calls.joiner.on_event(0, event, encode(event), -1, state)
        calls.measured("record", before)
    assert calls.most["record"] <= 6
    assert max(map(len, state.entries.values())) < 1_000
    assert len(state.header or b"") < 4_096
    assert state.calls["save_header"] < 10

    # A start: the header, a few probes for the end of the slice, and one step.
    calls = LargestCalls(tmp_path / "b", state)
    before, blocks, rows = state.calls.total(), [], 0
    while not blocks:
        blocks = calls.advance() or []
    assert state.calls.total() - before <= MOST_CALLS
    while blocks is not None:
        rows += sum(map(len, blocks))
        blocks = calls.advance()
    assert calls.most["advance"] <= MOST_CALLS
    assert rows == calls.joiner.counters.negatives > REQUESTS
    assert state.entries == {}
    assert calls.joiner.store.used_bytes == 0


def test_large_requests_are_closed_and_forgotten_few_at_a_time(tmp_path: Path) -> None:
    state, one = MemoryState(), feature(1, 5_000)
    size = len(encode(one))
    joiner = Joiner(SPEC, CONFIG, tmp_path, step_bytes=5 * size)
    for number in range(20):
        event = replace(one, request_id=f"r{number}")
        joiner.on_event(0, event, encode(event), -1, state)
    read: list[int] = []
    while joiner.next_due_ms(0, state) is not None:
        before = state.calls["get"], state.calls["remove"]
        joiner.advance(0, FAR_MS, state)
        read.append(max(state.calls["get"] - before[0], state.calls["remove"] - before[1]))
    assert state.entries == {}
    # Of each its record and its labels are read, and its record and its place removed.
    assert max(read) <= 2 * 5


def test_a_drain_gives_its_rows_one_block_after_the_other(tmp_path: Path) -> None:
    state = MemoryState()
    calls = LargestCalls(tmp_path, state)
    one = feature(1, 5_000, impressions=1)
    for number in range(20 * STEP_REQUESTS):
        event = replace(one, request_id=f"r{number}")
        calls.joiner.on_event(0, event, encode(event), -1, state)
    blocks, asked = calls.joiner.drain(0, state), []
    for _ in range(5):
        before = state.calls.total()
        next(blocks)
        asked.append(state.calls.total() - before)
    assert max(asked) <= MOST_CALLS


def test_the_first_call_after_a_change_of_spec_does_not_ask_for_every_action_that_waited(tmp_path: Path) -> None:
    changed = replace(SPEC, sampling_seed=8)
    states, one, asked = MemoryStates(), feature(1, 5_000, impressions=1), []
    before = SpecJoiners(SpecRegistry(SPEC, [changed]), CONFIG, tmp_path / "a")
    for number in range(REQUESTS // 4):
        name = f"r{number}"
        waits, comes = replace(action(1, 0, "watch", 6_000), request_id=name), replace(one, request_id=name)
        before.on_record(0, name.encode(), encode(waits), -1, states)
        # One is left to wait, so that there is something to be read.
        if number:
            before.on_record(0, name.encode(), encode(comes), -1, states)
    after = SpecJoiners(SpecRegistry(changed, [SPEC]), CONFIG, tmp_path / "b")
    calls = states.of_spec(SPEC.hash).calls
    for name in ("new", "r0"):
        already = calls.total()
        blocks = after.on_record(0, name.encode(), encode(replace(one, request_id=name)), -1, states)
        asked.append(calls.total() - already)
    # There were never more than two at a time, which is sixteen slots.
    assert max(asked) <= 16 + 4
    assert [len(block) for block in blocks] == [1], "the action has met its request"
    assert after.waiting_actions == 0
