"""What the joiner's tests share: an in-memory checkpointed state, events, and a plain oracle of the join."""

from __future__ import annotations

import copy
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from rillet.joiner import Joiner, JoinerConfig, ListName
from rillet.schemas import (
    ActionEvent,
    DecodeError,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    decode,
    encode,
    parse_spec,
)

SPEC = parse_spec("""
[spec]
name = "test"
sampling_seed = 7
[[context]]
name = "user"
slot = 1
kind = "id"
[[item]]
name = "film"
slot = 16
kind = "id"
[[item]]
name = "genres"
slot = 18
kind = "token"
max_values = 3
[[dense]]
name = "price"
[[tasks]]
name = "watch"
action = "watch"
window_ms = 10_000
negative_rate = 0.5
[[tasks]]
name = "like"
action = "like"
window_ms = 60_000
""")


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


def key_of(data: bytes) -> bytes:
    """The Kafka key that a well-behaved producer gives a record."""
    try:
        record = decode(data)
    except DecodeError:
        return b""
    return record.request_id.encode() if isinstance(record, FeatureEvent | ActionEvent) else b""


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


def feature(request: int, time_ms: int, impressions: int = 3, rng: np.random.Generator | None = None) -> FeatureEvent:
    """A feature event whose values follow from its request number."""
    rng = rng or np.random.default_rng(request)
    films = rng.integers(1, 1000, impressions)
    genres = [[f"g{k}" for k in range(int(rng.integers(0, 4)))] for _ in range(impressions)]
    context, context_lengths = SPEC.encode_side("context", {"user": [request % 50 + 1]})
    item, item_lengths = SPEC.encode_side("item", {"film": films, "genres": genres})
    return FeatureEvent(
        request_id=f"r{request}",
        event_time_ms=time_ms,
        spec_hash=SPEC.hash,
        context_fids=context,
        context_lengths=context_lengths,
        impression_ids=np.arange(impressions) + 100,
        item_fids=item,
        item_lengths=item_lengths,
        dense=rng.random(impressions).astype(np.float32),
        served_logits=rng.normal(size=impressions * len(SPEC.tasks)).astype(np.float32),
    )


def action(request: int, impression: int, name: str, time_ms: int) -> ActionEvent:
    return ActionEvent(f"r{request}", time_ms, impression + 100, name)


def kept(seed: int, task: str, request_id: str, impression_id: int, rate: float) -> bool:
    """The documented sampling rule in plain integers, written apart from the joiner's arrays."""
    mask = (1 << 64) - 1
    x = int.from_bytes(blake2b(f"{seed}|{task}|{request_id}".encode(), digest_size=8).digest(), "little")
    x = ((x ^ (impression_id & mask)) + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    return (x >> 11) * 2.0**-53 < rate


@dataclass(frozen=True)
class Arrival:
    """A record as it arrives; the key is the right one unless another is given."""

    data: bytes
    key: bytes | None = None
    ingest_ms: int = -1

    @classmethod
    def of(cls, event: FeatureEvent | ActionEvent, key: bytes | None = None, ingest_ms: int = -1) -> Arrival:
        data = encode(event)
        return cls(data, key_of(data) if key is None else key, ingest_ms)


def usable(
    spec: FeatureSpec, arrivals: Iterable[Arrival], max_ahead_ms: int
) -> tuple[list[FeatureEvent], list[ActionEvent]]:
    """Features and actions that are no dead letters, in order of arrival."""
    features: list[FeatureEvent] = []
    actions: list[ActionEvent] = []
    for arrival in arrivals:
        try:
            event = decode(arrival.data)
            if isinstance(event, FeatureEvent):
                spec.check_feature(event)
            elif isinstance(event, ActionEvent):
                spec.check_action(event)
            else:
                continue
        except RecordError:
            continue
        if arrival.key != event.request_id.encode() or not -1 <= arrival.ingest_ms < (1 << 32) * 1000:
            continue
        if arrival.ingest_ms >= 0 and event.event_time_ms > arrival.ingest_ms + max_ahead_ms:
            continue
        if isinstance(event, FeatureEvent):
            features.append(event)
        else:
            actions.append(event)
    return features, actions


def oracle(
    spec: FeatureSpec,
    features: Iterable[FeatureEvent],
    actions: Iterable[ActionEvent],
    late: Collection[ActionEvent] = (),
) -> list[tuple[object, ...]]:
    """Sorted rows (request, impression, task, label, rate, action time) that the join must produce.

    Events in order of arrival: of two features of a request, or two actions on a pair, the first counts.

    :param late: the actions that come after the windows of their pairs were closed.
    """
    acted: dict[tuple[str, int, str], list[ActionEvent]] = defaultdict(list)
    for a in actions:
        acted[a.request_id, a.impression_id, a.action].append(a)
    rows: list[tuple[object, ...]] = []
    for event in {f.request_id: f for f in reversed(list(features))}.values():
        for impression in event.impression_ids.tolist():
            for task in spec.tasks:
                valid = [
                    a
                    for a in acted[event.request_id, impression, task.action]
                    if -task.early_ms <= a.event_time_ms - event.event_time_ms < task.window_ms
                ]
                is_late = bool(valid) and valid[0] in late
                if valid and (not is_late or task.late == "emit"):
                    time_ms = valid[0].event_time_ms
                    rows.append((event.request_id, impression, task.name, 1, task.negative_rate, time_ms))
                if (not valid or is_late) and kept(
                    spec.sampling_seed, task.name, event.request_id, impression, task.negative_rate
                ):
                    rows.append((event.request_id, impression, task.name, 0, task.negative_rate, -1))
    return sorted(rows)


def rows_of(spec: FeatureSpec, blocks: Iterable[ExampleBlock]) -> list[tuple[object, ...]]:
    """The same tuples from example blocks; every block must satisfy the spec."""
    rows: list[tuple[object, ...]] = []
    for block in blocks:
        spec.check_block(block)
        mask = block.mask.reshape(len(block), -1)
        assert (mask.sum(axis=1) == 1).all()
        labels = block.labels.reshape(len(block), -1)
        for i in range(len(block)):
            task = int(mask[i].argmax())
            assert labels[i].sum() == labels[i, task]
            assert labels[i, task] == (block.label_kind[i] != LabelKind.NEGATIVE)
            rows.append(
                (
                    block.request_ids[block.request_index[i]],
                    int(block.impression_ids[i]),
                    spec.tasks[task].name,
                    int(labels[i, task]),
                    float(block.sampling_rate[i]),
                    int(block.action_time_ms[i]),
                )
            )
    return sorted(rows)


def records(events: Iterable[FeatureEvent | ActionEvent]) -> list[tuple[int, bytes]]:
    """(event time, encoded record) of each event."""
    return [(event.event_time_ms, encode(event)) for event in events]


LATENESS_MS = 3_000


def stream(seed: int, requests: int) -> tuple[list[FeatureEvent], list[ActionEvent], list[tuple[int, int, bytes]]]:
    """Features, actions and (bucket, event time, record) of both, each in order of arrival.

    At most LATENESS_MS out of order of event time, some records twice, some pairs with two actions, some
    actions before their impression.
    """
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(10_000, 210_000, requests))
    features = [feature(i, int(t), impressions=int(rng.integers(1, 6))) for i, t in enumerate(times)]
    actions = []
    for i, event in enumerate(features):
        for index in range(len(event.impression_ids)):
            for name, share, within_ms in (("watch", 0.3, 15_000), ("like", 0.2, 80_000)):
                if rng.random() < share:
                    after = int(rng.integers(0, within_ms)) if rng.random() < 0.9 else -int(rng.integers(1, 10_000))
                    actions.append(action(i, index, name, event.event_time_ms + after))
                    if rng.random() < 0.3:
                        # a second action on the pair that may well overtake the first
                        after += int(rng.integers(-LATENESS_MS, LATENESS_MS))
                        actions.append(action(i, index, name, event.event_time_ms + after))
    events: list[FeatureEvent | ActionEvent] = [*features, *actions]
    events += [events[k] for k in rng.integers(0, len(events), requests // 10)]
    arrival = [event.event_time_ms + int(rng.integers(0, LATENESS_MS)) for event in events]
    arrived = [events[k] for k in np.argsort(arrival, kind="stable")]
    return (
        [event for event in arrived if isinstance(event, FeatureEvent)],
        [event for event in arrived if isinstance(event, ActionEvent)],
        [(int(event.request_id[1:]) % 4, event.event_time_ms, encode(event)) for event in arrived],
    )
