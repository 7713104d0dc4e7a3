"""The joiner without Flink: its checkpointed state in memory, and an engine with timers, checkpoints and crashes."""

from __future__ import annotations

import copy
import heapq
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from rillet.joiner import Joiner, JoinerConfig, ListName
from rillet.schemas import ExampleBlock, FeatureSpec
from tests.joiner.support import key_of


@dataclass
class MemoryState:
    """Checkpointed state of one bucket; ``wake_ups`` are the engine's timers."""

    header: bytes | None = None
    lists: dict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    wake_ups: set[int] = field(default_factory=set)

    def load_header(self) -> bytes | None:
        return self.header

    def save_header(self, header: bytes) -> None:
        self.header = header

    def append(self, name: ListName, slice_: int, entry: bytes) -> None:
        self.lists[name, slice_].append(entry)

    def read(self, name: ListName, slice_: int) -> list[bytes]:
        return list(self.lists[name, slice_])

    def clear(self, name: ListName, slice_: int, alive: Collection[int]) -> None:
        self.lists.pop((name, slice_), None)

    def wake_at(self, watermark_ms: int) -> None:
        self.wake_ups.add(watermark_ms)


class Engine:
    """A single-threaded stand-in for the stream engine: timers, watermarks, checkpoints, crashes.

    It keeps what an exactly-once sink would: blocks since the last checkpoint are lost in a crash, and the
    input is read again from the checkpoint's position.
    """

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, directory: Path) -> None:
        self._spec, self._config, self._directory = spec, config, directory
        self._attempt = 0
        self.joiner = self._start()
        self.states: dict[int, MemoryState] = defaultdict(MemoryState)
        self.blocks: list[ExampleBlock] = []

    def _start(self) -> Joiner:
        self._attempt += 1
        return Joiner(self._spec, self._config, self._directory / f"attempt-{self._attempt}")

    def record(self, bucket: int, data: bytes, ingest_ms: int = -1, key: bytes | None = None) -> None:
        key = key_of(data) if key is None else key
        self.blocks += self.joiner.on_record(bucket, key, data, ingest_ms, self.states[bucket])

    def watermark(self, watermark_ms: int) -> None:
        due = [(at, bucket) for bucket, state in self.states.items() for at in state.wake_ups if at <= watermark_ms]
        heapq.heapify(due)
        while due:
            at, bucket = heapq.heappop(due)
            state = self.states[bucket]
            state.wake_ups.discard(at)
            self.blocks += self.joiner.on_watermark(bucket, at, watermark_ms, state)

    def checkpoint(self) -> tuple[dict[int, MemoryState], int]:
        return copy.deepcopy(self.states), len(self.blocks)

    def restore(self, saved: tuple[dict[int, MemoryState], int]) -> None:
        self.joiner.close()
        self.states, self.blocks = copy.deepcopy(saved[0]), self.blocks[: saved[1]]
        self.joiner = self._start()
