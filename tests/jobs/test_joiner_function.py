"""The joiner's adapter to Flink, without Flink: keyed state, timers and the line in front of a record."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.jobs.joiner_function import DEAD_LETTERS, FlinkBucketState, JoinFunction
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import DeadLetter, ExampleBlock, decode_as, decode_dead_letter, encode, encode_dead_letter
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, key_of, stream
from tests.simulation.joiner_oracle import oracle, rows_of


class Keyed:
    """Flink's keyed state, metrics and timers as far as the adapter uses them; state is copied as Flink's is."""

    def __init__(self) -> None:
        self.key = 0
        self.cells: dict[tuple[int, str], list[bytes]] = defaultdict(list)
        self.timers: set[tuple[int, int]] = set()
        self.watermark = -(1 << 63)

    # RuntimeContext
    def get_state(self, descriptor: Any) -> Any:
        return _Cell(self, descriptor.name)

    get_list_state = get_state

    def get_metrics_group(self) -> Keyed:
        return self

    def add_group(self, name: str) -> Keyed:
        return self

    def counter(self, name: str) -> Keyed:
        return self

    def inc(self, n: int = 1) -> None:
        assert n >= 0

    # Context and TimerService
    def timer_service(self) -> Keyed:
        return self

    def get_current_key(self) -> int:
        return self.key

    def register_event_time_timer(self, at_ms: int) -> None:
        self.timers.add((at_ms, self.key))

    def current_watermark(self) -> int:
        return self.watermark


class _Cell:
    def __init__(self, keyed: Keyed, name: str) -> None:
        self._keyed, self._name = keyed, name

    @property
    def _items(self) -> list[bytes]:
        return self._keyed.cells[self._keyed.key, self._name]

    def value(self) -> bytes | None:
        return self._items[0] if self._items else None

    def update(self, value: Any) -> None:
        self._items[:] = [value] if isinstance(value, bytes) else value

    def add(self, value: bytes) -> None:
        self._items.append(value)

    def get(self) -> list[bytes] | None:
        return list(self._items) or None

    def clear(self) -> None:
        self._items.clear()


def record(data: bytes, key: bytes, ingest: str = "7", length: int | None = None) -> bytes:
    """A record as the SQL of the job hands it over."""
    return f"features,3,42,{len(key) if length is None else length},{ingest}\n".encode() + key + data


class Runner:
    """A join function on keyed state; ``restart`` keeps the state and forgets everything else."""

    def __init__(self, config: JoinerConfig, directory: Path) -> None:
        self._config, self._directory = config, directory
        self.keyed = Keyed()
        self.blocks: list[ExampleBlock] = []
        self.letters: list[DeadLetter] = []
        self.restart()

    def restart(self) -> None:
        self.function = JoinFunction(SPEC, self._config, str(self._directory))
        self.function.open(self.keyed)

    def send(self, value: bytes, bucket: int = 0) -> None:
        self.keyed.key = bucket
        self._take(self.function.process_element(value, self.keyed))

    def advance(self, watermark_ms: int) -> None:
        self.keyed.watermark = watermark_ms
        while due := sorted(timer for timer in self.keyed.timers if timer[0] <= watermark_ms):
            for timer in due:
                self.keyed.timers.discard(timer)
                self.keyed.key = timer[1]
                self._take(self.function.on_timer(timer[0], self.keyed))

    def _take(self, outputs: Any) -> None:
        for output in outputs:
            if isinstance(output, tuple):
                assert output[0] is DEAD_LETTERS
                self.letters.append(decode_dead_letter(bytes(output[1][1])))
            else:
                self.blocks.append(decode_as(ExampleBlock, output[1]))


@pytest.mark.parametrize("slice_ms", [5_000, 600])
def test_state_survives_restarts_also_where_slices_share_a_list_state(tmp_path: Path, slice_ms: int) -> None:
    # 600 ms slices kept for 120 s are 200 at once, six or seven per list state
    features, actions, arrivals = stream(11, requests=120)
    config = JoinerConfig(slice_ms=slice_ms, action_wait_ms=120_000)
    runner = Runner(config, tmp_path)
    newest = 0
    for count, (bucket, time_ms, data) in enumerate(arrivals):
        runner.send(record(data, key_of(data)), bucket)
        newest = max(newest, time_ms)
        if count % 7 == 0:
            runner.advance(newest - LATENESS_MS - 1)
        if count % 61 == 60:
            runner.restart()
    runner.advance(END_OF_TIME_MS)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, features, actions)
    assert runner.letters == []
    left = {name for (_, name), items in runner.keyed.cells.items() if items}
    assert left == {"header"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record(encode(feature(1, 5)), b"", length=-1), "key: there is none"),
        (record(encode(feature(1, 5)), b"other"), "key: b'other' is not the request_id"),
        (record(encode(feature(1, 5)), b"r1", ingest="?"), "header ingest_ms"),
        (record(encode(feature(1, 5)), b"r1", ingest="9" * 30), "ingest_ms"),
        (record(b"", b"r1"), "unknown schema"),
        (record(b"\nju,nk\n", b"r1"), "unknown schema"),
    ],
)
def test_a_record_that_cannot_be_used_is_a_letter_and_the_next_one_counts(
    tmp_path: Path, value: bytes, reason: str
) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(value)
    (letter,) = runner.letters
    assert reason in letter.reason
    assert (letter.topic, letter.partition, letter.offset) == ("features", 3, 42)
    assert letter.key == (None if "key: there is none" in reason else b"other" if "other" in reason else b"r1")
    assert value.endswith((letter.key or b"") + (letter.value or b""))
    assert letter.headers == ((("ingest_ms", b"7"),) if b",7\n" in value else letter.headers)
    assert (letter.headers is None) == (b",?\n" in value)
    runner.send(record(encode(feature(2, 5)), b"r2", ingest=""))
    runner.send(record(encode(action(2, 0, "watch", 6)), b"r2"))
    (block,) = runner.blocks
    assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (-1, 7)


def test_a_letter_never_outgrows_the_topic(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(b"x" * RECORD_MAX_BYTES, b"r1"))
    (letter,) = runner.letters
    assert letter.value_bytes == RECORD_MAX_BYTES
    assert letter.cut
    assert len(encode_dead_letter(letter)) < RECORD_MAX_BYTES


def test_keys_are_read_in_both_execution_modes(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.keyed.get_current_key = lambda: (5,)  # type: ignore[method-assign,assignment,return-value]
    runner.send(record(encode(feature(1, 5)), b"r1"))
    runner.send(record(encode(action(1, 0, "watch", 6)), b"r1"))
    assert runner.blocks[0].bucket == 5


def test_a_clear_forgets_one_slice_and_keeps_those_that_share_its_list_state() -> None:
    state = FlinkBucketState(Keyed(), 4)  # type: ignore[arg-type]
    for slice_ in (1, 5, 9, -3):
        state.append("features", slice_, f"of {slice_}".encode())
    state.clear("features", 5, {1, 9, -3})
    assert list(state.read("features", 5)) == []
    for slice_ in (1, 9, -3):
        assert list(state.read("features", slice_)) == [f"of {slice_}".encode()]
