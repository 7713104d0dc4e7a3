"""The joiner inside Flink: a keyed process function over buckets, with Flink's keyed state as the truth.

Only bytes cross between the JVM and Python. A record arrives as one line of text that says where it
came from, then the record as it lay in Kafka (see :mod:`rillet.operators.records`); blocks leave as (key, value).
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import ListState, ListStateDescriptor, ValueState, ValueStateDescriptor
from pyflink.datastream.time_domain import TimeDomain

from rillet.joiner import END_OF_TIME_MS, HeldTime, Joiner, JoinerConfig, JoinMetrics, ListName, SliceSchedule
from rillet.joiner.slices import MAX_OPEN_SLICES
from rillet.operators.records import JoinRecord, dead_letter_row, split_record
from rillet.schemas import (
    NO_TIME_MS,
    ExampleBlock,
    FeatureSpec,
    RecordError,
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

# Thread mode hands a PRIMITIVE_ARRAY state back as a tuple of integers, so state is declared like this.
_STATE_BYTES = Types.PICKLED_BYTE_ARRAY()
#: list states over which the slices of a list are spread; fixed, because state written with another number
#: could not be found again
_LIST_STATES = 32
_SLICE_BYTES = 8
#: how long counts are gathered before Flink's metrics get them
_REPORT_MS = 1_000
_SHORTEST_LOOK_MS = 200


class FlinkBucketState:
    """:class:`rillet.joiner.BucketState` on Flink's keyed state; always of the key that Flink has set.

    Slices are spread over a fixed number of list states, so that a slice is cleared in one call. When more
    slices are alive than there are list states, slices share one, and a clear rewrites those that stay.
    """

    def __init__(self, context: RuntimeContext, list_states: int = _LIST_STATES) -> None:
        self._header: ValueState = context.get_state(ValueStateDescriptor("header", _STATE_BYTES))
        self._lists: dict[str, list[ListState]] = {
            name: [context.get_list_state(ListStateDescriptor(f"{name}-{i}", _STATE_BYTES)) for i in range(list_states)]
            for name in ("features", "waiting")
        }
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

    def append(self, name: ListName, slice_: int, entry: bytes) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._list_state(name, slice_).add(_slice_bytes(slice_) + entry)

    def read(self, name: ListName, slice_: int) -> Iterable[bytes]:
        """See :class:`rillet.joiner.BucketState`."""
        own = _slice_bytes(slice_)
        return [entry[_SLICE_BYTES:] for entry in self._list_state(name, slice_).get() or () if entry.startswith(own)]

    def clear(self, name: ListName, slice_: int, alive: Collection[int]) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        state = self._list_state(name, slice_)
        staying: list[bytes] = []
        if any(other != slice_ and (other - slice_) % len(self._lists[name]) == 0 for other in alive):
            own = _slice_bytes(slice_)
            staying = [entry for entry in state.get() or () if not entry.startswith(own)]
        state.clear()
        if staying:
            state.update(staying)

    def wake_at(self, watermark_ms: int) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._timers.register_event_time_timer(watermark_ms)

    def _list_state(self, name: ListName, slice_: int) -> ListState:
        states = self._lists[name]
        return states[slice_ % len(states)]


class JoinFunction(KeyedProcessFunction):  # type: ignore[misc]
    """Runs a :class:`rillet.joiner.Joiner` over all buckets of a subtask.

    Windows close by the watermark. While one topic is silent as a whole they wait for it, up to ``[flink] hold_ms``. While
    both are and all of them is read, there is no watermark; then time goes on by as long as nothing has come.

    :param silence: makes what tells whether that is so; None to wait for records always.
    :param local_dir: where the disk tier may put its directories; the system's temporary folder by default.
    :raises JoinerError: see :class:`rillet.joiner.SliceSchedule`.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: JoinerConfig,
        flink: FlinkConfig,
        silence: Callable[[], TopicSilence] | None = None,
        local_dir: str | None = None,
    ) -> None:
        # Refuses settings that cannot work where the job is built, not in a task that would be restarted.
        schedule = SliceSchedule(spec, config)
        # Half of the slices that may be open are for what comes out of order, or from topics that are read apart.
        self._hold_ms = min(flink.hold_ms, schedule.slice_ms * MAX_OPEN_SLICES // 2)
        self._spec = spec
        self._config = config
        self._lateness_ms = flink.lateness_ms
        self._look_ms = max(_SHORTEST_LOOK_MS, flink.idle_ms // 2)
        self._make_silence = silence
        self._local_dir = local_dir

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes an empty joiner; each bucket is rebuilt from Flink's state when it is first touched."""
        # A fresh directory per attempt: a task that died may still hold the lock of its own.
        directory = Path(self._local_dir or tempfile.gettempdir()) / f"rillet-joiner-{uuid.uuid4().hex}"
        self._joiner = Joiner(self._spec, self._config, directory)
        self._state = FlinkBucketState(runtime_context)
        self._metrics = JoinMetrics(runtime_context.get_metrics_group(), self._joiner)
        self._silence = self._make_silence() if self._make_silence else None
        if self._silence is not None:
            self._silence.start()
        self._held_time = HeldTime(self._hold_ms)
        #: wall clock at which each bucket looks whether something is due though nothing comes
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
        self._joiner.close()
        if self._silence is not None:
            self._silence.close()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """One record of either topic."""
        record = split_record(bytes(value))
        timers, bucket = ctx.timer_service(), _bucket(ctx)
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
        """The watermark has reached a time that the joiner asked for, or the wall clock one to look at silence."""
        timers, bucket = ctx.timer_service(), _bucket(ctx)
        watermark_ms = timers.current_watermark()
        time_ms = self._time_ms(watermark_ms)
        state = self._state.at(timers)
        if ctx.time_domain() == TimeDomain.PROCESSING_TIME:
            if timestamp == self._report_ms:  # not a look's, which would start another chain of reports
                self._report_ms = 0
            if self._looks.get(bucket, timestamp) == timestamp:
                self._looks.pop(bucket, None)
                yield from self._emit(self._look(bucket, watermark_ms, time_ms, timers))
        elif timestamp <= time_ms:
            yield from self._emit(self._joiner.on_watermark(bucket, timestamp, time_ms, state))
        else:
            # A silent topic holds time back: a look closes what is due then, or a drain.
            self._wake(bucket, timers)
            timers.register_event_time_timer(END_OF_TIME_MS)
        self._report(time_ms)

    def _time_ms(self, watermark_ms: int) -> int:
        """The event time up to which windows may close; the engine's watermark, unless a topic is silent as a whole."""
        silence = self._silence
        silent: Mapping[str, int] = {} if silence is None else silence.silent_ms()
        time_ms = self._held_time.at(watermark_ms, bool(silent), silence is not None and silence.behind())
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
        now_ms = timers.current_processing_time()
        if not self._report_ms:
            self._report_ms = now_ms + _REPORT_MS
            timers.register_processing_time_timer(self._report_ms)
        if self._silence is not None and bucket not in self._looks:
            self._looks[bucket] = now_ms + self._look_ms
            timers.register_processing_time_timer(self._looks[bucket])

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
            held = self._held_time.known and time_ms < watermark_ms
            began_ms = time_ms if held else max(watermark_ms, newest_ms)
            time_ms = min(now_ms - self._lateness_ms, began_ms + quiet_ms)
            self._metrics.silent_until(time_ms)
            wait_ms = max(_SHORTEST_LOOK_MS, min(wait_ms, due_ms - time_ms))
        while due_ms is not None and due_ms <= time_ms:
            yield from joiner.on_watermark(bucket, due_ms, time_ms, state)
            due_ms = joiner.next_due_ms(bucket, state)
        if due_ms is not None:
            self._looks[bucket] = now_ms + wait_ms
            timers.register_processing_time_timer(self._looks[bucket])

    def _emit(self, blocks: Iterable[ExampleBlock]) -> Iterator[Row]:
        for block in blocks:
            self._metrics.examples += len(block)
            yield Row(str(block.bucket).encode(), encode(block))


def _slice_bytes(slice_: int) -> bytes:
    """What stands in front of an entry, because slices may share a list state."""
    return slice_.to_bytes(_SLICE_BYTES, "little", signed=True)


def _bucket(ctx: Any) -> int:
    """The key: a bare number in thread mode, a row around it in process mode."""
    key = ctx.get_current_key()
    return int(key[0] if isinstance(key, Row | tuple | list) else key)
