"""One suite for every implementation of the joiner's checkpointed state: in memory, and on Flink's keyed state."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.bucket_state_suite import run_suite
from tests.simulation.joiner_engine import MemoryState

ROOT = Path(__file__).resolve().parents[2]


def test_the_state_in_memory_keeps_the_contract() -> None:
    assert run_suite(MemoryState) == []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("execution_mode", "backend"), [("thread", "rocksdb"), ("thread", "hashmap"), ("process", "rocksdb")]
)
def test_the_state_in_flink_keeps_the_contract(execution_mode: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contracts.bucket_state_job", execution_mode, backend],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


class FindsByTheFirstLetter(MemoryState):
    """Takes keys for the same that are not."""

    def put(self, key: str, value: bytes) -> None:
        super().put(key[:1], value)

    def get(self, key: str) -> bytes | None:
        return super().get(key[:1])

    def remove(self, key: str) -> None:
        super().remove(key[:1])


class KeepsTheFirstEntry(MemoryState):
    """Does not replace an entry."""

    def put(self, key: str, value: bytes) -> None:
        self.entries.setdefault(key, value)


class RemovesNothing(MemoryState):
    """Keeps what is removed."""

    def remove(self, key: str) -> None:
        pass


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
        (FindsByTheFirstLetter, "an entry comes back by its key"),
        (KeepsTheFirstEntry, "a later put replaces an entry"),
        (RemovesNothing, "a removed entry is not there"),
        (KeepsTheFirstHeader, "the header last saved is loaded"),
        (SleepsTooLong, "every time that was asked for wakes its bucket once"),
        (one_state_for_all_buckets(), "an entry is of one bucket"),
    ],
)
def test_the_suite_refuses_a_broken_state(make: Callable[[], MemoryState], rule: str) -> None:
    broken = run_suite(make)
    assert any(rule in text for text in broken), broken
