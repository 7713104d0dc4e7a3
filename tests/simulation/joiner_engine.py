"""The joiner without Flink: its checkpointed state in memory, and an engine with timers, checkpoints and crashes."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from rillet.joiner import END_OF_TIME_MS, Joiner, JoinerConfig
from rillet.joiner.closing import STEP_REQUESTS
from rillet.schemas import ExampleBlock, FeatureSpec
from tests.joiner.support import key_of


@dataclass
class MemoryState:
    """Checkpointed state of one bucket; ``wake_ups`` are the engine's timers, ``calls`` counts what was asked of it."""

    header: bytes | None = None
    entries: dict[str, bytes] = field(default_factory=dict)
    wake_ups: set[int] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter, compare=False)

    def load_header(self) -> bytes | None:
        return self.header

    def save_header(self, header: bytes) -> None:
        self.calls["save_header"] += 1
        self.header = header

    def get(self, key: str) -> bytes | None:
        self.calls["get"] += 1
        return self.entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.calls["put"] += 1
        self.entries[key] = value

    def remove(self, key: str) -> None:
        self.calls["remove"] += 1
        del self.entries[key]

    def wake_at(self, watermark_ms: int) -> None:
        self.wake_ups.add(watermark_ms)


class Engine:
    """A single-threaded stand-in for the stream engine: timers, watermarks, checkpoints, crashes.

    It keeps what an exactly-once sink would: blocks since the last checkpoint are lost in a crash, and the
    input is read again from the checkpoint's position.

    :param at_once: whether all steps of what is due are taken with a watermark; else when :meth:`go_on` is called.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: JoinerConfig,
        directory: Path,
        step_requests: int = STEP_REQUESTS,
        at_once: bool = True,
    ) -> None:
        self._spec, self._config, self._directory = spec, config, directory
        self._step_requests, self._at_once = step_requests, at_once
        self._attempt = 0
        #: one for each subtask; a bucket is of one of them
        self.joiners = [self._start()]
        self.states: dict[int, MemoryState] = defaultdict(MemoryState)
        self.blocks: list[ExampleBlock] = []
        #: buckets with steps that were put off
        self.put_off: set[int] = set()
        self.watermark_ms = -(1 << 62)

    def _start(self) -> Joiner:
        self._attempt += 1
        folder = self._directory / f"attempt-{self._attempt}"
        return Joiner(self._spec, self._config, folder, step_requests=self._step_requests)

    @property
    def joiner(self) -> Joiner:
        """The only one, where there is one."""
        return self.joiners[0]

    @property
    def counts(self) -> Counter[str]:
        """Counts of all subtasks since the start."""
        return sum((Counter(joiner.counters.as_dict()) for joiner in self.joiners), Counter[str]())

    def joiner_of(self, bucket: int) -> Joiner:
        return self.joiners[bucket % len(self.joiners)]

    def close(self) -> None:
        for joiner in self.joiners:
            joiner.close()

    def record(self, bucket: int, data: bytes, ingest_ms: int = -1, key: bytes | None = None) -> None:
        key = key_of(data) if key is None else key
        self.blocks += self.joiner_of(bucket).on_record(bucket, key, data, ingest_ms, self.states[bucket])

    def watermark(self, watermark_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        if watermark_ms == END_OF_TIME_MS:
            self._drain()
            return
        # A bucket that asks for its turn again with what is due already has it again.
        while due := [
            bucket
            for bucket, state in self.states.items()
            if min(state.wake_ups, default=watermark_ms + 1) <= watermark_ms
        ]:
            for bucket in due:
                state = self.states[bucket]
                state.wake_ups = {at for at in state.wake_ups if at > watermark_ms}
                self.put_off.add(bucket)
        while self._at_once and self.put_off:
            self.go_on(min(self.put_off))

    def go_on(self, bucket: int) -> None:
        """One step of what is due in a bucket."""
        state = self.states[bucket]
        self.blocks += self.joiner_of(bucket).advance(bucket, self.watermark_ms, state)
        due_ms = self.joiner_of(bucket).next_due_ms(bucket, state)
        if due_ms is None or due_ms > self.watermark_ms:
            self.put_off.discard(bucket)

    def _drain(self) -> None:
        for bucket, state in self.states.items():
            if state.wake_ups or bucket in self.put_off:
                state.wake_ups.clear()
                self.blocks += self.joiner_of(bucket).drain(bucket, state)
        self.put_off.clear()

    def checkpoint(self) -> tuple[dict[int, MemoryState], int, set[int]]:
        return copy.deepcopy(self.states), len(self.blocks), set(self.put_off)

    def restore(
        self, saved: tuple[dict[int, MemoryState], int, set[int]], subtasks: int = 1, config: JoinerConfig | None = None
    ) -> None:
        """Goes on from a checkpoint, with nothing in memory, buckets spread over so many subtasks, and other settings if given."""
        self.close()
        self._config = config or self._config
        self.states, self.blocks = copy.deepcopy(saved[0]), self.blocks[: saved[1]]
        # Flink restores timers, and no watermarks.
        self.put_off, self.watermark_ms = set(saved[2]), -(1 << 62)
        self.joiners = [self._start() for _ in range(subtasks)]
