"""The joiner inside Flink: a keyed process function over buckets, with Flink's keyed state as the truth.

Only bytes cross between the JVM and Python. A record arrives as one line of text that says where it
came from, then the record as it lay in Kafka (see :mod:`rillet.operators.records`); blocks leave as (key, value).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import MapState, MapStateDescriptor, ValueState, ValueStateDescriptor
from pyflink.datastream.time_domain import TimeDomain

from rillet.joiner import END_OF_TIME_MS, HeldTime, JoinerConfig, JoinMetrics, SliceSchedule, SpecJoiners
from rillet.joiner.slices import MAX_OPEN_SLICES
from rillet.operators.key_groups import bucket_keys
from rillet.operators.local_folder import LocalFolder
from rillet.operators.records import JoinRecord, dead_letter_row, split_record
from rillet.operators.turns import Turn
from rillet.schemas import (
    NO_TIME_MS,
    ExampleBlock,
    RecordError,
    SpecRegistry,
    encode,
    entry_time_ms,
    parse_ingest_ms,
)

if TYPE_CHECKING:
    from rillet.connectors.silence import TopicSilence
    from rillet.operators.flink_config import FlinkConfig

BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
#: (key, value) of a Kafka record
KEY_VALUE = Types.ROW([BYTES, BYTES])
DEAD_LETTERS = OutputTag("dead-letters", KEY_VALUE)

# Thread mode hands a PRIMITIVE_ARRAY state back as a tuple of integers, so state is declared like this. Keys are text: the
# heap backend would look for arrays of bytes by their identity.
_STATE_BYTES = Types.PICKLED_BYTE_ARRAY()
#: how long counts are gathered before Flink's metrics get them
_REPORT_MS = 1_000
_SHORTEST_LOOK_MS = 200


class FlinkBucketState:
    """:class:`rillet.joiner.BucketState` on Flink's keyed state; always of the key that Flink has set.

    One map holds every kind of entry: in process mode each state that a bucket has changed is a call of its own.
    """

    def __init__(self, context: RuntimeContext, prefix: str = "") -> None:
        """:param prefix: of the names of its Flink states."""
        self._header: ValueState = context.get_state(ValueStateDescriptor(f"{prefix}header", _STATE_BYTES))
        entries = MapStateDescriptor(f"{prefix}entries", Types.STRING(), _STATE_BYTES)
        self._entries: MapState = context.get_map_state(entries)
        self._timers: Any = None

    def at(self, timers: Any) -> FlinkBucketState:
        """The state, with the timer service of the call in progress."""
        self._timers = timers
        return self

    def load_header(self) -> bytes | None:
        """See :class:`rillet.joiner.BucketState`."""
        header: bytes | None = self._header.value()
        return header

    def save_header(self, header: bytes) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._header.update(header)

    def get(self, key: str) -> bytes | None:
        """See :class:`rillet.joiner.BucketState`."""
        value: bytes | None = self._entries.get(key)
        return value

    def put(self, key: str, value: bytes) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._entries.put(key, value)

    def remove(self, key: str) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._entries.remove(key)

    def wake_at(self, watermark_ms: int) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._timers.register_event_time_timer(watermark_ms)


class FlinkBucketStates:
    """:class:`rillet.joiner.BucketStates` on Flink's keyed state: states of names of their own for each spec."""

    def __init__(self, context: RuntimeContext, specs: SpecRegistry) -> None:
        self._note: ValueState = context.get_state(ValueStateDescriptor("note", _STATE_BYTES))
        hashes = {spec.hash for spec in (specs.current, *specs.others)}
        self._of = {spec_hash: FlinkBucketState(context, prefix=f"{spec_hash:x}-") for spec_hash in hashes}
        self._timers: Any = None

    def at(self, timers: Any) -> FlinkBucketStates:
        """The states, with the timer service of the call in progress: one of records, and one of timers."""
        if timers is not self._timers:
            self._timers = timers
            for state in self._of.values():
                state.at(timers)
        return self

    def of_spec(self, spec_hash: int) -> FlinkBucketState:
        """See :class:`rillet.joiner.BucketStates`."""
        return self._of[spec_hash]

    def load_note(self) -> bytes | None:
        """See :class:`rillet.joiner.BucketStates`."""
        note: bytes | None = self._note.value()
        return note

    def save_note(self, note: bytes) -> None:
        """See :class:`rillet.joiner.BucketStates`."""
        self._note.update(note)


class JoinFunction(KeyedProcessFunction):  # type: ignore[misc]
    """Runs :class:`rillet.joiner.SpecJoiners` over all buckets of a subtask.

    Windows close by the watermark. While one topic is silent as a whole they wait for it, up to ``[flink] hold_ms``. While
    both are and all of them is read, there is no watermark; then time goes on by as long as nothing has come.

    :param silence: makes what tells whether that is so; None to wait for records always.
    :param local_dir: where the disk tier may put its directories; the system's temporary folder by default.
    :raises JoinerError: see :class:`rillet.joiner.SliceSchedule`.
    """

    def __init__(
        self,
        specs: SpecRegistry,
        config: JoinerConfig,
        flink: FlinkConfig,
        silence: Callable[[], TopicSilence] | None = None,
        local_dir: str | None = None,
    ) -> None:
        # Refuses settings that cannot work where the job is built, not in a task that would be restarted.
        schedule = SliceSchedule(specs.current, config)
        # Half of the slices that may be open are for what comes out of order, or from topics that are read apart.
        self._hold_ms = min(flink.hold_ms, schedule.slice_ms * MAX_OPEN_SLICES // 2)
        self._specs = specs
        self._config = config
        self._lateness_ms = flink.lateness_ms
        self._look_ms = max(_SHORTEST_LOOK_MS, flink.idle_ms // 2)
        self._make_silence = silence
        self._local_dir = local_dir
        #: what was opened and has to be closed; None before :meth:`open` has come to its end
        self._opened: ExitStack | None = None

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes an empty joiner, which asks Flink's state for what it meets."""
        # A task that fails here is closed too, and of two errors the first would be lost.
        with ExitStack() as opened:
            self._open(runtime_context, opened)
            self._opened = opened.pop_all()

    def _open(self, runtime_context: RuntimeContext, opened: ExitStack) -> None:
        parent = Path(self._local_dir or tempfile.gettempdir())
        self._local = opened.enter_context(closing(LocalFolder(parent))) if self._config.disk_tier else None
        directory = parent if self._local is None else self._local.path / "tier"
        self._joiner = opened.enter_context(closing(SpecJoiners(self._specs, self._config, directory)))
        self._state = FlinkBucketStates(runtime_context, self._specs)
        self._bucket_of = {key: bucket for bucket, key in enumerate(bucket_keys(self._config.buckets))}
        self._turn = Turn()
        self._metrics = JoinMetrics(runtime_context.get_metrics_group(), self._joiner)
        self._silence = self._make_silence() if self._make_silence else None
        if self._silence is not None:
            opened.enter_context(closing(self._silence)).start()
        self._held_time = HeldTime(self._hold_ms)
        #: wall clock at which each bucket goes on with what was put off, or looks what is due though nothing comes
        self._looks: dict[int, int] = {}
        #: event time at which silence began for each bucket; what it has closed since must not move that
        self._silent_from: dict[int, int] = {}
        self._report_ms = 0
        #: from when on a record brings a report: timers alone would tell nothing where they do not fire
        self._report_due_s = time.monotonic() + _REPORT_MS / 1_000
        #: wall clock when it was last asked for
        self._now_ms = 0

    def close(self) -> None:
        """Releases the local store and the broker."""
        if self._opened is not None:
            self._opened.close()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """One record of either topic."""
        record = split_record(bytes(value))
        self._turn.interrupt()
        timers, bucket = ctx.timer_service(), self._bucket(ctx)
        state = self._state.at(timers)
        if not self._report_ms or bucket not in self._looks:
            self._wake(bucket, timers)
        if time.monotonic() >= self._report_due_s:
            self._report(self._time_ms(timers.current_watermark()))
        try:
            ingest_ms = parse_ingest_ms(record.ingest)
            entered_ms = self._entered_ms(record, ingest_ms, timers)
            blocks = self._joiner.on_record(bucket, record.key, record.value, ingest_ms, state, entered_ms)
        except RecordError as error:
            yield from self._refuse(error, record, timers)
            return
        yield from self._emit(blocks)

    def _refuse(self, error: RecordError, record: JoinRecord, timers: Any) -> Iterator[tuple[OutputTag, Row]]:
        """A record that cannot be used becomes a dead letter."""
        self._metrics.refusals.add(error)
        yield DEAD_LETTERS, dead_letter_row(error, record)

    def _report(self, time_ms: int) -> None:
        self._report_due_s = time.monotonic() + _REPORT_MS / 1_000
        self._metrics.report(time_ms)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        """The watermark has reached a time that the joiner asked for, or the wall clock one to go on or to look."""
        self._turn.begin()
        timers, bucket = ctx.timer_service(), self._bucket(ctx)
        watermark_ms = timers.current_watermark()
        time_ms = self._time_ms(watermark_ms)
        state = self._state.at(timers)
        if ctx.time_domain() == TimeDomain.PROCESSING_TIME:
            if timestamp == self._report_ms:
                self._report_ms = 0
                self._metrics.report(time_ms)
            if self._looks.get(bucket, timestamp) == timestamp:
                self._looks.pop(bucket, None)
                self._report_soon(timers)
                # Between a drain and the end of the task timers still fire, and no time passes any more.
                if time_ms < END_OF_TIME_MS:
                    yield from self._emit(self._look(bucket, watermark_ms, time_ms, timers))
        elif time_ms == END_OF_TIME_MS:
            # No timer of the wall clock fires any more, so all goes out here, row by row.
            yield from self._emit(self._joiner.drain(bucket, state))
            if self._turn.is_time_to_report():
                self._metrics.report(time_ms)
        elif timestamp <= time_ms:
            self._report_soon(timers)
            yield from self._emit(self._close_due(bucket, time_ms, timers))
        else:
            # A silent topic holds time back: a look closes what is due then, or a drain.
            self._wake(bucket, timers)
            timers.register_event_time_timer(END_OF_TIME_MS)
        self._turn.end()

    def _close_due(self, bucket: int, time_ms: int, timers: Any) -> Iterator[ExampleBlock]:
        """Steps of what is due, as long as the turn lasts; the rest is put off, so that records and checkpoints have theirs.

        Flink fires all timers that are due in one turn, however many buckets they are of.
        """
        joiner, state = self._joiner, self._state
        due_ms = joiner.next_due_ms(bucket, state)
        if due_ms is not None and due_ms > time_ms:
            # What the timer was for is gone, an action that waited: the next one is asked for.
            yield from joiner.advance(bucket, time_ms, state)
        while due_ms is not None and due_ms <= time_ms:
            if self._turn.is_over():
                self._looks[bucket] = timers.current_processing_time() + self._turn.put_off_ms()
                # An event time that has passed would fire in this same turn.
                timers.register_processing_time_timer(self._looks[bucket])
                timers.register_event_time_timer(END_OF_TIME_MS)
                return
            yield from joiner.advance(bucket, time_ms, state)
            due_ms = joiner.next_due_ms(bucket, state)

    def _bucket(self, ctx: Any) -> int:
        """The bucket of the key: a bare number in thread mode, a row around it in process mode."""
        key = ctx.get_current_key()
        return self._bucket_of[int(key[0] if isinstance(key, Row | tuple | list) else key)]

    def _time_ms(self, watermark_ms: int) -> int:
        """The event time up to which windows may close; the engine's watermark, unless a topic is silent as a whole."""
        silence = self._silence
        silent: Mapping[str, int] = {} if silence is None else silence.silent_ms()
        time_ms = self._held_time.at(watermark_ms, silence is not None and silence.holds())
        self._metrics.hold(silent, max(0, watermark_ms - time_ms) if watermark_ms < END_OF_TIME_MS else 0)
        return time_ms

    def _entered_ms(self, record: JoinRecord, ingest_ms: int, timers: Any) -> int:
        """When a record entered its topic. The clock is asked where it may matter: not on a backlog."""
        timestamp_ms = record.timestamp_ms if ingest_ms == NO_TIME_MS else NO_TIME_MS
        known_ms = timestamp_ms if ingest_ms == NO_TIME_MS else ingest_ms
        if not 0 <= known_ms <= self._now_ms:
            self._now_ms = timers.current_processing_time()
        return entry_time_ms(ingest_ms, timestamp_ms, self._now_ms)

    def _wake(self, bucket: int, timers: Any) -> None:
        """Sets the timers of the wall clock that are missing; each is set again when it was reached."""
        self._report_soon(timers)
        if self._silence is not None and bucket not in self._looks:
            self._looks[bucket] = timers.current_processing_time() + self._look_ms
            timers.register_processing_time_timer(self._looks[bucket])

    def _report_soon(self, timers: Any) -> None:
        """Has the counts reported within a second."""
        if not self._report_ms:
            self._report_ms = timers.current_processing_time() + _REPORT_MS
            timers.register_processing_time_timer(self._report_ms)

    def _look(self, bucket: int, watermark_ms: int, time_ms: int, timers: Any) -> Iterator[ExampleBlock]:
        """Closes what is due and no timer is left for: what a silent topic held back, and what comes due in silence.

        Where both topics are silent and read to their ends, time goes on by as long as nothing has come. What was left by a
        restart has no watermark. Then time begins with the newest events of the bucket.
        """
        joiner, state, now_ms = self._joiner, self._state, timers.current_processing_time()
        due_ms = joiner.next_due_ms(bucket, state)
        quiet_ms = None if self._silence is None else self._silence.quiet_ms()
        wait_ms = self._look_ms
        if due_ms is None or quiet_ms is None:
            self._silent_from.pop(bucket, None)
        else:
            newest_ms = self._silent_from.setdefault(bucket, joiner.newest_ms(bucket, state) - self._lateness_ms)
            time_ms = min(now_ms - self._lateness_ms, self._quiet_from_ms(watermark_ms, time_ms, newest_ms) + quiet_ms)
            self._metrics.silent_until(time_ms)
            wait_ms = max(_SHORTEST_LOOK_MS, min(wait_ms, due_ms - time_ms))
        yield from self._close_due(bucket, time_ms, timers)
        if self._silence is not None and bucket not in self._looks and joiner.next_due_ms(bucket, state) is not None:
            self._looks[bucket] = now_ms + wait_ms
            timers.register_processing_time_timer(self._looks[bucket])

    def _quiet_from_ms(self, watermark_ms: int, time_ms: int, newest_ms: int) -> int:
        """The time that silence of both topics has begun at.

        :param newest_ms: of the bucket, for a start since which there is no watermark.
        """
        if self._held_time.known and time_ms < watermark_ms:
            return time_ms
        began_ms = max(watermark_ms, newest_ms)
        if self._held_time.known or self._silence is None:
            return began_ms
        # Since the start one topic has been silent for longer than the other, which alone has moved the watermark meanwhile.
        silent = self._silence.silent_ms().values()
        return max(time_ms, began_ms - (max(silent) - min(silent))) if silent else began_ms

    def _emit(self, blocks: Iterable[ExampleBlock]) -> Iterator[Row]:
        for block in blocks:
            self._metrics.examples += len(block)
            yield Row(str(block.bucket).encode(), encode(block))
