"""Changes of the joiner's test spec that are rolled out under traffic, and an engine that goes on with another spec."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from rillet.joiner import END_OF_TIME_MS, JoinerConfig, SpecJoiners
from rillet.schemas import DenseFeature, ExampleBlock, FeatureSpec, Slot, SpecRegistry, Task
from tests.joiner.support import SPEC, key_of
from tests.simulation.joiner_engine import MemoryState

WATCH, LIKE = SPEC.tasks
ALIGNED_WATCH = replace(WATCH, labels="aligned")
SHARE = Task("share", "share", 30_000, 0.5, labels="immediate")

#: what a deployment may change, one at a time and all together
CHANGES: dict[str, FeatureSpec] = {
    "a slot added": replace(SPEC, item=(Slot("shop", 20, "id"), *SPEC.item)),
    "a context slot added": replace(SPEC, context=(*SPEC.context, Slot("device", 2, "token", 2))),
    "a slot removed": replace(SPEC, item=SPEC.item[:1]),
    "a dense feature added": replace(SPEC, dense=(DenseFeature("age"), *SPEC.dense)),
    "a task of a new action added": replace(SPEC, tasks=(SHARE, *SPEC.tasks)),
    "a task of a known action added": replace(SPEC, tasks=(*SPEC.tasks, Task("quick", "watch", 2_000))),
    "a rate": replace(SPEC, tasks=(replace(WATCH, negative_rate=0.75), LIKE)),
    "a longer window": replace(SPEC, tasks=(replace(WATCH, window_ms=40_000), LIKE)),
    "a shorter window": replace(SPEC, tasks=(WATCH, replace(LIKE, window_ms=5_000))),
    "label modes": replace(SPEC, tasks=(replace(WATCH, labels="immediate"), replace(LIKE, labels="aligned"))),
    "the seed of the sample": replace(SPEC, sampling_seed=8),
    "tasks in another order": replace(SPEC, tasks=(LIKE, ALIGNED_WATCH)),
    "everything": replace(
        SPEC,
        context=(Slot("device", 2, "token", 2), *SPEC.context),
        item=(Slot("shop", 20, "id"), SPEC.item[1]),
        dense=(DenseFeature("age"),),
        tasks=(SHARE, replace(LIKE, window_ms=20_000), replace(WATCH, negative_rate=0.25, labels="aligned")),
    ),
}


@dataclass
class MemoryStates:
    """Checkpointed state of one bucket, apart for each spec; the timers are of all."""

    note: bytes | None = None
    wake_ups: set[int] = field(default_factory=set)
    of: dict[int, MemoryState] = field(default_factory=dict)

    def of_spec(self, spec_hash: int) -> MemoryState:
        if spec_hash not in self.of:
            self.of[spec_hash] = MemoryState(wake_ups=self.wake_ups)
        return self.of[spec_hash]

    def load_note(self) -> bytes | None:
        return self.note

    def save_note(self, note: bytes) -> None:
        self.note = note


class SpecEngine:
    """A single-threaded stand-in for the stream engine, whose joiner may be started anew with other specs."""

    def __init__(self, specs: SpecRegistry, config: JoinerConfig, directory: Path) -> None:
        self._config, self._directory, self._attempt = config, directory, 0
        self.states: dict[int, MemoryStates] = defaultdict(MemoryStates)
        self.blocks: list[ExampleBlock] = []
        self.joiner = self._start(specs)

    def _start(self, specs: SpecRegistry) -> SpecJoiners:
        self._attempt += 1
        return SpecJoiners(specs, self._config, self._directory / f"attempt-{self._attempt}")

    def record(self, bucket: int, data: bytes, ingest_ms: int = -1) -> None:
        self.blocks += self.joiner.on_record(bucket, key_of(data), data, ingest_ms, self.states[bucket])

    def touch(self, bucket: int) -> None:
        """What a record does to a bucket that makes no row."""
        self.joiner.next_due_ms(bucket, self.states[bucket])

    def watermark(self, watermark_ms: int) -> None:
        for bucket, states in self.states.items():
            if min(states.wake_ups, default=watermark_ms + 1) > watermark_ms:
                continue
            states.wake_ups -= {at for at in states.wake_ups if at <= watermark_ms}
            if watermark_ms == END_OF_TIME_MS:
                self.blocks += self.joiner.drain(bucket, states)
                continue
            due_ms = self.joiner.next_due_ms(bucket, states)
            while due_ms is not None and due_ms <= watermark_ms:
                self.blocks += self.joiner.advance(bucket, watermark_ms, states)
                due_ms = self.joiner.next_due_ms(bucket, states)

    def checkpoint(self) -> tuple[dict[int, MemoryStates], int]:
        return copy.deepcopy(self.states), len(self.blocks)

    def restore(self, saved: tuple[dict[int, MemoryStates], int], specs: SpecRegistry) -> None:
        """Memory and local store are gone; what comes is joined under the current one of ``specs``."""
        self.joiner.close()
        self.states, self.blocks = copy.deepcopy(saved[0]), self.blocks[: saved[1]]
        self.joiner = self._start(specs)

    def restart(self, specs: SpecRegistry) -> None:
        self.restore(self.checkpoint(), specs)

    @property
    def empty(self) -> bool:
        """Whether nothing is left in the state, beside how far buckets have come."""
        states = [state for bucket in self.states.values() for state in bucket.of.values()]
        return not any(state.entries or state.wake_ups for state in states) and not any(
            len(bucket.note or b"") > 8 for bucket in self.states.values()
        )
