"""One suite for every implementation of the joiner's checkpointed state: in memory, and on Flink's keyed state."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from rillet.joiner import ListName
from tests.contracts.bucket_state_suite import run_suite
from tests.simulation.joiner_engine import MemoryState

ROOT = Path(__file__).resolve().parents[2]


def test_the_state_in_memory_keeps_the_contract() -> None:
    assert run_suite(MemoryState) == []


@pytest.mark.integration
@pytest.mark.parametrize("execution_mode", ["thread", "process"])
def test_the_state_in_flink_keeps_the_contract(execution_mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contracts.bucket_state_job", execution_mode],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


class SharesListsWithoutCare(MemoryState):
    """Keeps slices in four lists, and forgets with one slice those that share its list."""

    def append(self, name: ListName, slice_: int, entry: bytes) -> None:
        super().append(name, slice_ % 4, entry)

    def read(self, name: ListName, slice_: int) -> list[bytes]:
        return super().read(name, slice_ % 4)

    def clear(self, name: ListName, slice_: int, alive: Collection[int]) -> None:
        super().clear(name, slice_ % 4, alive)


class OneListPerSlice(MemoryState):
    """Takes features and waiting for the same list."""

    def append(self, name: ListName, slice_: int, entry: bytes) -> None:
        super().append("features", slice_, entry)

    def read(self, name: ListName, slice_: int) -> list[bytes]:
        return super().read("features", slice_)


class NewestFirst(MemoryState):
    """Reads entries backwards."""

    def read(self, name: ListName, slice_: int) -> list[bytes]:
        return super().read(name, slice_)[::-1]


class KeepsTheFirstHeader(MemoryState):
    """Does not replace a header."""

    def save_header(self, header: bytes) -> None:
        self.header = self.header or header


class SleepsTooLong(MemoryState):
    """Forgets an earlier time when a later one is asked for."""

    def wake_at(self, watermark_ms: int) -> None:
        self.wake_ups = {max(watermark_ms, *self.wake_ups, watermark_ms)}


def one_state_for_all_buckets() -> Callable[[], MemoryState]:
    """Makes a state that buckets share."""
    state = MemoryState()
    return lambda: state


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (SharesListsWithoutCare, "clearing a slice keeps those that are alive"),
        (OneListPerSlice, "features and waiting are two lists|clearing one list of a slice keeps the other"),
        (NewestFirst, "entries come back in the order they were added"),
        (KeepsTheFirstHeader, "the header last saved is loaded"),
        (SleepsTooLong, "every time that was asked for wakes its bucket once"),
        (one_state_for_all_buckets(), "a header is of one bucket"),
    ],
)
def test_the_suite_refuses_a_broken_state(make: Callable[[], MemoryState], rule: str) -> None:
    broken = run_suite(make)
    assert any(name in text for text in broken for name in rule.split("|")), broken
