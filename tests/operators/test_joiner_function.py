"""The joiner's adapter to Flink, without Flink: keyed state, timers and the line in front of a record."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyflink.datastream.time_domain import TimeDomain

from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.joiner import END_OF_TIME_MS, JoinerConfig, JoinerError, RequestRange
from rillet.operators.backfill_function import BackfillFunction
from rillet.operators.flink_config import FlinkConfig
from rillet.operators.joiner_function import DEAD_LETTERS, JoinFunction
from rillet.operators.key_groups import bucket_keys
from rillet.operators.turns import Turn
from rillet.schemas import (
    ActionEvent,
    DeadLetter,
    ExampleBlock,
    FeatureEvent,
    LabelKind,
    SpecRegistry,
    decode,
    decode_as,
    decode_dead_letter,
    encode,
    encode_dead_letter,
)
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, key_of, stream
from tests.simulation.joiner_oracle import oracle, rows_of

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

    def behind(self) -> bool:
        return self.is_behind

    def silent_ms(self) -> dict[str, int]:
        return self.silent

    def close(self) -> None:
        pass


class Runner:
    """A join function on keyed state; ``restart`` keeps the state and forgets everything else."""

    def __init__(self, config: JoinerConfig, directory: Path, silence: Silence | None = None) -> None:
        self._config, self._directory, self._silence = config, directory, silence
        self.keyed = Keyed()
        self.blocks: list[ExampleBlock] = []
        self.letters: list[DeadLetter] = []
        #: what timers have taken, by the clock of their turns
        self.took_s = 0.0
        self.restart()

    def restart(self) -> None:
        silence: Any = None if self._silence is None else lambda: self._silence
        self.function = JoinFunction(SpecRegistry(SPEC), self._config, FLINK, silence, str(self._directory))
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


@pytest.mark.parametrize("slice_ms", [5_000, 600])
def test_state_survives_restarts(tmp_path: Path, slice_ms: int) -> None:
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
    assert {key[0] for entries in runner.keyed.entries.values() for key in entries} <= set("rp"), "nothing waits"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record(encode(feature(1, 5)), None), "key: there is none"),
        (record(encode(feature(1, 5)), b"other"), "key: b'other' is not the request_id"),
        *(
            (record(encode(feature(1, 5)), b"r1", ingest=text), "header ingest_ms")
            for text in (
                b"",
                b"?",
                b"-5",
                b"+7",
                b" 7",
                b"1_000",
                b"1.7",
                b"1e3",
                b"\xd9\xa1",
                b"9" * 30,
                b"9" * 10_000,
            )
        ),
        (record(b"", b"r1"), "unknown schema"),
        (record(None, b"r1"), "unknown schema"),
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
    ((name, ingest),) = letter.headers or ()
    assert name == "ingest_ms"
    assert value.endswith((letter.key or b"") + (ingest or b"") + (letter.value or b""))
    assert letter.timestamp_ms == 1_714_564_800_250
    assert not letter.more_headers
    runner.send(record(encode(feature(2, 5)), b"r2", ingest=None))
    runner.send(record(encode(action(2, 0, "watch", 6)), b"r2"))
    (block,) = runner.blocks
    assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (-1, 7)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (b"r1", b"x" * RECORD_MAX_BYTES),
        (bytes(4_000_000), encode(action(1, 0, "watch", 6))),
        (b"k", encode(ActionEvent("\x01" * 4_000_000, 6, 100, "watch"))),
        (b"k", encode(ActionEvent("\u00e4" * 4_000_000, 6, 100, "watch"))),
    ],
)
def test_a_letter_never_outgrows_the_topic(tmp_path: Path, key: bytes, data: bytes) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(data, key))
    (letter,) = runner.letters
    assert letter.value_bytes == len(data)
    assert len(letter.reason.encode()) <= 1_024
    assert len(encode_dead_letter(letter)) < RECORD_MAX_BYTES


def test_a_letter_says_what_the_job_did_not_see(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(b"junk", b"r1", ingest=b"7", headers=2))
    runner.send(record(b"junk", b"r1", ingest=None, headers=1))
    runner.send(record(None, b"r1", ingest=None, timestamp=""))
    runner.send(record(b"", b"r1", ingest=None, timestamp="292278994-08-17 07:12:55.807"))
    both, other, tombstone, empty = runner.letters
    assert (both.headers, both.more_headers) == ((("ingest_ms", b"7"),), True)
    assert (other.headers, other.more_headers) == ((), True)
    assert (tombstone.value, tombstone.timestamp_ms, tombstone.more_headers) == (None, -1, False)
    assert (empty.value, empty.timestamp_ms) == (b"", -1)


def test_leading_zeros_are_digits_too(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(encode(feature(2, 5)), b"r2", ingest=b"0" * 40 + b"9"))
    runner.send(record(encode(action(2, 0, "watch", 6)), b"r2"))
    assert runner.blocks[0].feature_ingest_ms[0] == 9


@pytest.mark.parametrize(
    ("ingest", "timestamp", "refused"),
    [
        (b"1714561200000", "2024-05-01 13:00:00.001", True),  # by its header it was sent an hour before now
        (b"1714561200001", "2024-05-01 13:00:00.001", False),
        (None, "2024-05-01 11:00:00.000", True),  # the broker's, on a topic of append times
        (None, "2024-05-01 11:00:00.001", False),
        (None, "2024-05-01 12:00:00.001", False),  # its own event time, of which the clock is the only bound
        (b"4000000000000", "2024-05-01 12:00:00.001", False),  # no clock that is read says more than the joiner's
    ],
)
@pytest.mark.parametrize("kind", ["features", "actions"])
def test_an_event_time_is_bounded_by_when_its_record_entered_the_topic(
    tmp_path: Path, ingest: bytes | None, timestamp: str, refused: bool, kind: str
) -> None:
    runner = Runner(JoinerConfig(max_ahead_ms=3_600_000), tmp_path)
    now_ms = runner.keyed.now_ms

    def send(time_ms: int) -> None:
        event = feature(1, time_ms) if kind == "features" else action(1, 0, "watch", time_ms)
        runner.send(record(encode(event), b"r1", ingest, timestamp=timestamp))

    send(now_ms + 1)
    assert [letter.reason.partition(": is the clock")[0] for letter in runner.letters] == (
        [
            f"event_time_ms: {now_ms + 1} is 3,600 s after its record entered the topic at {now_ms - 3_600_000}, "
            "[joiner] max_ahead_ms allows 3,600 s"
        ]
        if refused
        else []
    )
    runner.letters.clear()
    send(now_ms + 3_600_001)  # by no clock
    assert "max_ahead_ms" in runner.letters[0].reason
    assert runner.metric("refused.FutureTimeError.count") == 1 + refused


def test_keys_are_read_in_both_execution_modes(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(buckets=64), tmp_path)
    runner.keyed.get_current_key = lambda: (bucket_keys(64)[5],)  # type: ignore[method-assign,assignment,return-value]
    runner.send(record(encode(feature(1, 5)), b"r1"))
    runner.send(record(encode(action(1, 0, "watch", 6)), b"r1"))
    assert runner.blocks[0].bucket == 5


def test_settings_that_cannot_work_are_refused_when_the_job_is_built() -> None:
    with pytest.raises(JoinerError, match="action_wait_ms: 4999 is less than early_ms"):
        JoinFunction(SpecRegistry(SPEC), JoinerConfig(action_wait_ms=4_999), FLINK)


def of(event: FeatureEvent | ActionEvent) -> bytes:
    data = encode(event)
    return record(data, key_of(data), ingest=None)


def test_what_is_counted_becomes_flinks_metrics_within_a_second(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(slice_ms=5_000), tmp_path)
    for value in (
        *(of(feature(1, 5_000)), of(action(1, 0, "watch", 6_000)), of(action(1, 0, "CLICK", 6_000))),
        *(of(action(9, 0, "like", 6_000)), of(action(1, 77, "like", 6_000)), record(b"junk", b"r1")),
        record(encode(replace(feature(2, 5_000), spec_hash=3)), b"r2"),
    ):
        runner.send(value)
    assert runner.metric("actions") == 0
    runner.wait(1_000)
    counted = {name.removeprefix("rillet_joiner."): c.count for name, c in runner.keyed.metrics.counters.items()}
    assert {name: count for name, count in counted.items() if count} == {
        **{"features": 1, "actions": 4, "positives": 1, "unknown_actions": 1, "unknown_impressions": 1},
        **{"unknown_action.CLICK.count": 1, "refused.DecodeError.count": 1, "refused.SpecMismatchError.count": 1},
        **{"dead_letters": 2, "examples": 1, "open_requests": 1, "next_close_ms": 19_999},
        **{"unmatched_actions": 1, "waiting_actions": 1, "waiting_bytes": 874, "oldest_waiting_ms": 5_000},
        "reads.memory.count": 2,
    }
    runner.advance(19_999)
    runner.send(of(action(1, 0, "CLICK", 6_000)))
    runner.wait(1_000)
    assert (runner.metric("watermark_ms"), runner.metric("next_close_ms")) == (19_999, 69_999)
    runner.advance(END_OF_TIME_MS)
    assert (runner.metric("watermark_ms"), runner.metric("open_requests"), runner.metric("orphan_actions")) == (
        19_999,
        1,
        1,
    )
    assert (runner.metric("waiting_actions"), runner.metric("oldest_waiting_ms")) == (0, 0)


def test_counts_are_reported_with_records_too_where_timers_do_not_fire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    runner, reports = Runner(JoinerConfig(slice_ms=5_000), tmp_path), []
    report = runner.function._metrics.report
    monkeypatch.setattr(runner.function._metrics, "report", lambda time_ms: reports.append(report(time_ms)))
    runner.keyed.watermark = 4_000
    for number in range(2_000):
        clock[0] += 0.005
        runner.send(of(action(number, 0, "CLICK", 6_000)))
    assert 1_700 < runner.metric("actions") < 2_000
    assert runner.metric("watermark_ms") == 4_000
    assert 5 <= len(reports) <= 10, "at most one per second"


def test_windows_close_by_the_wall_clock_while_nothing_comes_and_all_is_read(tmp_path: Path) -> None:
    _, _, arrivals = stream(11, requests=60)
    del arrivals[len(arrivals) // 2 :]
    config, silence = JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), Silence()
    runner = Runner(config, tmp_path, silence)
    newest = 0
    for bucket, time_ms, data in arrivals:
        runner.send(record(data, key_of(data)), bucket)
        newest = max(newest, time_ms)
        runner.advance(newest - LATENESS_MS - 1)
    before = len(runner.blocks)
    runner.wait(400_000)
    assert len(runner.blocks) == before, "something is left to be read"
    silence.quiet = 9_000
    runner.wait(10_000)
    waiting = runner.metric("next_close_ms")
    assert 0 <= waiting - (newest - LATENESS_MS + 9_000) <= 5_000 + 60_000, "time went on by as much as nothing came"
    silence.quiet = 150_000
    runner.wait(10_000)
    events = [decode(data) for _, _, data in arrivals]
    expected = oracle(
        SPEC, [e for e in events if isinstance(e, FeatureEvent)], [e for e in events if isinstance(e, ActionEvent)]
    )
    assert rows_of(SPEC, runner.blocks) == expected
    assert (runner.metric("open_requests"), runner.metric("next_close_ms")) == (0, 0)
    rows = len(runner.blocks)
    runner.advance(newest + 300_000)  # the watermark of the next record
    assert len(runner.blocks) == rows
    assert not any(runner.keyed.entries.values())


def test_silence_closes_nothing_that_a_record_of_now_would_not_close(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=1_000, action_wait_ms=60_000), tmp_path, silence)
    now_ms = runner.keyed.now_ms
    runner.send(of(feature(1, now_ms - 100, impressions=12)))
    runner.advance(now_ms - 100 - LATENESS_MS)
    silence.quiet = 10**9  # of a clock that runs wild
    closes_ms = now_ms + 10_000 + LATENESS_MS
    runner.wait(closes_ms - now_ms - 1_000)
    assert runner.blocks == []
    runner.wait(3_000)
    assert runner.blocks
    assert runner.metric("watermark_ms") <= runner.keyed.now_ms - LATENESS_MS


def test_what_a_restart_finds_open_closes_though_there_is_no_watermark_yet(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=1_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 50_500, impressions=12)))
    runner.advance(50_500 - LATENESS_MS)
    runner.keyed.watermark = -(1 << 63)
    runner.restart()
    silence.quiet = 13_000
    runner.wait(5_000)
    assert runner.blocks == [], "time begins with the newest event, at most a slice before it"
    silence.quiet = 14_000
    runner.wait(5_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


@pytest.mark.parametrize("restarted", [False, True])
def test_in_silence_time_goes_at_the_pace_of_the_clock_on_an_old_recording(tmp_path: Path, restarted: bool) -> None:
    silence, newest_ms = Silence(), 600_500
    runner = Runner(JoinerConfig(slice_ms=3_000, action_wait_ms=600_000), tmp_path, silence)
    for request in range(151):
        runner.send(of(feature(request, newest_ms - 4_000 * request)))
        runner.send(of(action(10_000 + request, 0, "watch", newest_ms - 4_000 * request)))  # waits for ten minutes
    watermark_ms = newest_ms - LATENESS_MS
    runner.advance(watermark_ms)
    if restarted:
        runner.keyed.watermark, runner.keyed.metrics = -(1 << 63), Metrics()
        runner.restart()
    for quiet_ms in range(FLINK.idle_ms, 500_000, 20_000):
        silence.quiet = quiet_ms
        runner.wait(2_500)
        assert runner.metric("watermark_ms") <= watermark_ms + quiet_ms
    assert runner.metric("watermark_ms") > watermark_ms + quiet_ms - 5_000
    silence.quiet = None
    runner.wait(5_000)
    runner.send(of(feature(999, newest_ms + 700_000)))
    silence.quiet = 20_000
    runner.wait(5_000)
    reached_ms = newest_ms + 700_000 - LATENESS_MS + silence.quiet
    assert reached_ms - 3_000 <= runner.metric("watermark_ms") <= reached_ms, "another silence begins at other records"


def test_timers_of_the_wall_clock_do_not_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.operators.test_joiner_function.FLINK", FlinkConfig(idle_ms=30_000))
    runner, buckets, fired = Runner(JoinerConfig(), tmp_path, Silence()), 16, 0
    pause = random.Random(1)
    for bucket in range(buckets):
        runner.send(of(feature(bucket, runner.keyed.now_ms)), bucket)
    act = of(action(1, 0, "unknown", runner.keyed.now_ms))
    on_timer = runner.function.on_timer

    def counted(*args: Any) -> Any:
        nonlocal fired
        fired += 1
        return on_timer(*args)

    monkeypatch.setattr(runner.function, "on_timer", counted)
    for count in range(60 * 50):
        if count == 30 * 50:
            fired = 0
        runner.send(act, count % buckets)
        runner.wait(pause.randrange(41))
    assert fired <= 30 + 3 * buckets, "a report per second, and a look per bucket and half the idle time"


@pytest.mark.parametrize("all_read", [False, True])
def test_windows_wait_for_a_topic_that_is_silent_until_it_has_caught_up(tmp_path: Path, all_read: bool) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)

    def go_on_to(time_ms: int) -> None:
        runner.advance(time_ms)
        runner.wait(1_000)

    runner.send(of(feature(1, 20_500, impressions=3)))
    go_on_to(21_000)
    silence.silent = {"actions": 15_000}
    for time_ms in range(22_000, 900_000, 50_000):  # a producer stalls, while requests go on
        runner.send(of(feature(time_ms, time_ms, impressions=1)))
        go_on_to(time_ms)
    assert runner.blocks == [], "nothing is known of the actions"
    assert runner.metric("held_ms") == runner.keyed.watermark - 21_000
    assert runner.metric("silent_topic_ms.actions.count") == 15_000
    silence.silent, silence.is_behind = {}, True
    runner.wait(30_000)
    for index in range(3):  # what it had held back
        runner.send(of(action(1, index, "watch", 21_000 + index)))
    assert [(row[3], row[6]) for row in rows_of(SPEC, runner.blocks)] == [(1, LabelKind.POSITIVE)] * 3
    silence.is_behind = not all_read
    if not all_read:  # the watermark stands until it has caught up
        runner.wait(30_000)
        assert len(runner.blocks) == 3
        go_on_to(runner.keyed.watermark + 1)
    runner.wait(30_000)
    assert len({row[0] for row in rows_of(SPEC, runner.blocks)}) > 10
    assert (runner.metric("held_ms"), runner.metric("silent_topic_ms.actions.count")) == (0, 0)
    assert runner.metric("late_actions") == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_a_topic_that_stays_silent_holds_windows_for_as_long_as_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    monkeypatch.setattr("tests.operators.test_joiner_function.FLINK", replace(FLINK, hold_ms=40_000))
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=1_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500, impressions=12)))
    runner.advance(21_000)
    silence.silent = {"actions": 15_000}
    if restarted:
        runner.restart()
    runner.wait(2_000)
    closes_ms = 20_999 + 10_000
    for time_ms in (closes_ms, closes_ms + 39_999):
        runner.advance(time_ms)
        runner.wait(2_000)
        assert runner.blocks == []
    runner.advance(closes_ms + 40_000)
    runner.wait(2_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


def test_silence_of_both_topics_goes_on_from_the_time_that_one_has_held(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500, impressions=12)))
    runner.wait(1_000)
    runner.advance(21_000)
    runner.wait(2_000)
    silence.silent = {"actions": 15_000}
    runner.advance(500_000)
    runner.wait(2_000)
    silence.silent, silence.quiet = {"actions": 99_000, "features": 15_000}, 13_000
    runner.wait(2_000)
    assert runner.blocks == []
    silence.quiet = 14_000
    runner.wait(2_000)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch"}


def test_a_drain_closes_what_a_silent_topic_holds(tmp_path: Path) -> None:
    silence = Silence()
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000), tmp_path, silence)
    runner.send(of(feature(1, 20_500, impressions=12)))
    silence.silent = {"actions": 15_000}
    runner.advance(500_000)
    assert runner.blocks == []
    runner.advance(END_OF_TIME_MS)
    assert {row[2] for row in rows_of(SPEC, runner.blocks)} == {"watch", "like"}


@pytest.mark.parametrize("restarted", [False, True])
def test_buckets_that_are_due_together_take_turns_with_records_and_checkpoints(tmp_path: Path, restarted: bool) -> None:
    config = JoinerConfig(slice_ms=5_000, action_wait_ms=60_000, buckets=64)
    runner = Runner(config, tmp_path)
    shown = [feature(number, 20_500, impressions=12) for number in range(640)]
    for number, event in enumerate(shown):
        runner.send(of(event), number % 64)
    advance, calls = runner.function._joiner.advance, [0]

    def slow(*arguments: Any) -> Any:
        runner.took_s += 0.003
        calls[0] += 1
        return advance(*arguments)

    runner.function._joiner.advance = slow  # type: ignore[method-assign]
    runner.advance(100_000)
    assert calls[0] <= 5, "the rest waits for another turn"
    assert len(runner.keyed.wall_timers) >= 59
    rows = len(rows_of(SPEC, runner.blocks))
    runner.wait(4)
    assert len(rows_of(SPEC, runner.blocks)) == rows, "there is time for records in between"
    if restarted:
        runner.keyed.watermark = -(1 << 63)
        runner.restart()
        runner.wait(2_000)
        runner.advance(100_000)
    runner.wait(2_000)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, shown, [])
    assert not any(runner.keyed.entries.values())


def test_a_drain_closes_what_was_put_off(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(slice_ms=5_000, action_wait_ms=60_000, buckets=64), tmp_path)
    shown = [feature(number, 20_500, impressions=12) for number in range(64)]
    for number, event in enumerate(shown):
        runner.send(of(event), number)
    runner.function._turn.is_over = lambda: True  # type: ignore[method-assign]
    runner.advance(34_999)
    assert runner.blocks == []
    runner.advance(END_OF_TIME_MS)
    assert rows_of(SPEC, runner.blocks) == oracle(SPEC, shown, [])


class Backfill(Runner):
    """A join function that joins a range of requests."""

    requests = RequestRange(0, 1)

    def restart(self) -> None:
        self.function = BackfillFunction(
            self.requests, SpecRegistry(SPEC), self._config, FLINK, None, str(self._directory)
        )
        self.function.open(self.keyed)


def test_a_backfill_makes_the_rows_of_its_range_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (features, _, arrivals) = JoinerConfig(slice_ms=5_000), stream(11, requests=80)
    times = sorted(event.event_time_ms for event in features)
    requests = RequestRange(times[20], times[60])
    monkeypatch.setattr(Backfill, "requests", requests)
    inside = {event.request_id for event in features if requests.wants(event, SPEC)}
    ranged, everything = Backfill(config, tmp_path / "range"), Runner(config, tmp_path / "all")
    newest_ms = 0
    for _, event_time_ms, data in arrivals:
        newest_ms = max(newest_ms, event_time_ms)
        for runner in (ranged, everything):
            runner.send(record(data, key_of(data), ingest=None))
            runner.advance(newest_ms - LATENESS_MS)
    for runner in (ranged, everything):
        runner.advance(newest_ms + 1_000_000)
    found = sorted(rows_of(SPEC, ranged.blocks))
    assert found == sorted(row for row in rows_of(SPEC, everything.blocks) if row[0] in inside)
    assert {row[0] for row in found} <= inside
    assert found


def test_actions_on_requests_after_the_range_are_no_dead_letters_of_a_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backfill, "requests", RequestRange(5_000, 20_000))
    runner = Backfill(JoinerConfig(buckets=1, slice_ms=5_000, action_wait_ms=10_000, waiting_bytes=2_000), tmp_path)
    runner.send(record(b"junk", b"r1"))
    runner.send(of(feature(9, 25_000)))
    for watermark_ms in (20_000, 31_000):
        runner.advance(watermark_ms)
        for number in range(6):
            runner.send(of(action(1_000 * watermark_ms + number, 0, "like", watermark_ms + 5_000)))
    runner.wait(1_000)
    kinds = [letter.reason.partition(":")[0] for letter in runner.letters]
    assert kinds == ["unknown schema", *["request_id"] * 4], "one before the range is settled may be on a request of it"
    assert (runner.metric("features"), runner.metric("orphan_actions")) == (0, 6)
