"""The joiner's adapter to Flink on keyed state, timers and metrics as far as it uses them, without Flink."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from pyflink.datastream.time_domain import TimeDomain

from rillet.joiner import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.operators.joiner_function import DEAD_LETTERS, JoinFunction
from rillet.operators.key_groups import bucket_keys
from rillet.operators.turns import Turn
from rillet.schemas import (
    ActionEvent,
    DeadLetter,
    ExampleBlock,
    FeatureEvent,
    SpecRegistry,
    decode_as,
    decode_dead_letter,
    encode,
)
from tests.joiner.support import LATENESS_MS, SPEC, key_of

FLINK = FlinkConfig(lateness_ms=LATENESS_MS, idle_ms=2_000)


class Counter:
    """A counter of Flink's metrics."""

    def __init__(self) -> None:
        self.count = 0

    def inc(self, n: int = 1) -> None:
        self.count += n


class Metrics:
    """A metric group: counters by their names, with those of their groups before them."""

    def __init__(self, path: str = "", counters: dict[str, Counter] | None = None) -> None:
        self.path = path
        self.counters: dict[str, Counter] = {} if counters is None else counters

    def add_group(self, *names: str) -> Metrics:
        return Metrics(self.path + "".join(f"{name}." for name in names), self.counters)

    def counter(self, name: str) -> Counter:
        return self.counters.setdefault(self.path + name, Counter())


class Keyed:
    """Flink's keyed state, metrics and timers as far as the adapter uses them; state is copied as Flink's is."""

    def __init__(self) -> None:
        self.key = 0
        self.metrics = Metrics()
        self.now_ms = 1_714_564_800_000
        self.wall_timers: set[tuple[int, int]] = set()
        self.domain = TimeDomain.EVENT_TIME
        self.cells: dict[tuple[int, str], list[bytes]] = defaultdict(list)
        self.entries: dict[int, dict[str, bytes]] = defaultdict(dict)
        self.timers: set[tuple[int, int]] = set()
        self.watermark = -(1 << 63)

    # RuntimeContext
    def get_state(self, descriptor: Any) -> Any:
        return _Cell(self, descriptor.name)

    def get_map_state(self, descriptor: Any) -> Any:
        return _Map(self)

    def get_metrics_group(self) -> Metrics:
        return self.metrics

    # Context and TimerService
    def timer_service(self) -> Keyed:
        return self

    def get_current_key(self) -> int:
        return self.key

    def register_event_time_timer(self, at_ms: int) -> None:
        self.timers.add((at_ms, self.key))

    def register_processing_time_timer(self, at_ms: int) -> None:
        self.wall_timers.add((at_ms, self.key))

    def current_watermark(self) -> int:
        return self.watermark

    def current_processing_time(self) -> int:
        return self.now_ms

    def time_domain(self) -> TimeDomain:
        return self.domain


class _Cell:
    def __init__(self, keyed: Keyed, name: str) -> None:
        self._keyed, self._name = keyed, name

    @property
    def _items(self) -> list[bytes]:
        return self._keyed.cells[self._keyed.key, self._name]

    def value(self) -> bytes | None:
        return self._items[0] if self._items else None

    def update(self, value: Any) -> None:
        self._items[:] = [value]


class _Map:
    def __init__(self, keyed: Keyed) -> None:
        self._keyed = keyed

    @property
    def _entries(self) -> dict[str, bytes]:
        return self._keyed.entries[self._keyed.key]

    def get(self, key: str) -> bytes | None:
        return self._entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._entries[key] = value

    def remove(self, key: str) -> None:
        del self._entries[key]


def record(
    data: bytes | None,
    key: bytes | None,
    ingest: bytes | None = b"7",
    headers: int | None = None,
    timestamp: str = "2024-05-01 12:00:00.250",
) -> bytes:
    """A record as the SQL of the job hands it over.

    :param headers: how many there are; by default none but the ingest time.
    """
    lengths = [-1 if part is None else len(part) for part in (key, ingest)]
    headers = int(ingest is not None) if headers is None else headers
    sign = "-" if data is None else "+"
    line = f"features,3,42,{timestamp},{headers},{lengths[0]},{lengths[1]},{sign}\n"
    return line.encode() + (key or b"") + (ingest or b"") + (data or b"")


def of(event: FeatureEvent | ActionEvent) -> bytes:
    data = encode(event)
    return record(data, key_of(data), ingest=None)


class Silence:
    """Topics of which a test says how long they have been silent."""

    def __init__(self) -> None:
        self.quiet: int | None = None
        self.silent: dict[str, int] = {}
        self.is_behind = False

    def start(self) -> None:
        pass

    def quiet_ms(self) -> int | None:
        return self.quiet

    def holds(self) -> bool:
        return bool(self.silent) or self.is_behind

    def silent_ms(self) -> dict[str, int]:
        return self.silent

    def close(self) -> None:
        pass


class Runner:
    """A join function on keyed state; ``restart`` keeps the state and forgets everything else."""

    def __init__(
        self, config: JoinerConfig, directory: Path, silence: Silence | None = None, flink: FlinkConfig = FLINK
    ) -> None:
        self._config, self._directory, self._silence, self._flink = config, directory, silence, flink
        self.keyed = Keyed()
        self.blocks: list[ExampleBlock] = []
        self.letters: list[DeadLetter] = []
        #: what timers have taken, by the clock of their turns
        self.took_s = 0.0
        self.restart()

    def restart(self) -> None:
        silence: Any = None if self._silence is None else lambda: self._silence
        self.function = JoinFunction(SpecRegistry(SPEC), self._config, self._flink, silence, str(self._directory))
        self.function.open(self.keyed)
        # How long it takes here must not decide what is put off.
        self.function._turn = Turn(lambda: self.took_s + self.keyed.now_ms / 1_000)

    def send(self, value: bytes, bucket: int = 0) -> None:
        self.keyed.key = bucket_keys(self._config.buckets)[bucket]
        self._take(self.function.process_element(value, self.keyed))

    def advance(self, watermark_ms: int) -> None:
        self.keyed.watermark = watermark_ms
        while due := sorted(timer for timer in self.keyed.timers if timer[0] <= watermark_ms):
            for timer in due:
                self.keyed.timers.discard(timer)
                self.keyed.key = timer[1]
                self._take(self.function.on_timer(timer[0], self.keyed))

    def wait(self, ms: int) -> None:
        """The wall clock goes on."""
        end_ms = self.keyed.now_ms + ms
        self.keyed.domain = TimeDomain.PROCESSING_TIME
        while due := sorted(timer for timer in self.keyed.wall_timers if timer[0] <= end_ms):
            self.keyed.wall_timers.discard(due[0])
            self.keyed.now_ms, self.keyed.key = due[0]
            self._take(self.function.on_timer(due[0][0], self.keyed))
        self.keyed.domain = TimeDomain.EVENT_TIME
        self.keyed.now_ms = end_ms

    def metric(self, name: str) -> int:
        return self.keyed.metrics.counters[f"rillet_joiner.{name}"].count

    def _take(self, outputs: Any) -> None:
        for output in outputs:
            if isinstance(output, tuple):
                assert output[0] is DEAD_LETTERS
                self.letters.append(decode_dead_letter(bytes(output[1][1])))
            else:
                self.blocks.append(decode_as(ExampleBlock, output[1]))
