"""No call, no value and no header grows with the requests that a bucket has: very many of them in one bucket and slice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.joiner import Joiner, JoinerConfig
from rillet.joiner.closing import STEP_REQUESTS
from rillet.schemas import ExampleBlock, encode
from tests.joiner.support import SPEC, feature
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
