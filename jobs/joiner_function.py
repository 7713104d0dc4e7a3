"""The joiner inside Flink: a keyed process function over buckets, with Flink's keyed state as the truth.

Only bytes cross between the JVM and Python. A record arrives as one line of text that says where it
came from, then the record as it lay in Kafka (see :func:`split_record`); blocks leave as (key, value).
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import ListState, ListStateDescriptor, ValueState, ValueStateDescriptor

from rillet.connectors.dead_letters import letter_for
from rillet.connectors.producers import INGEST_HEADER
from rillet.joiner import Counters, Joiner, JoinerConfig, ListName, SliceSchedule
from rillet.schemas import (
    NO_TIME_MS,
    ExampleBlock,
    FeatureSpec,
    RecordError,
    encode,
    encode_dead_letter,
    parse_ingest_ms,
)

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

    :param local_dir: where the disk tier may put its directories; the system's temporary folder by default.
    :raises JoinerError: see :class:`rillet.joiner.SliceSchedule`.
    """

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, local_dir: str | None = None) -> None:
        # Refuses settings that cannot work where the job is built, not in a task that would be restarted.
        SliceSchedule(spec, config)
        self._spec = spec
        self._config = config
        self._local_dir = local_dir

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes an empty joiner; each bucket is rebuilt from Flink's state when it is first touched."""
        # A fresh directory per attempt: a task that died may still hold the lock of its own.
        directory = Path(self._local_dir or tempfile.gettempdir()) / f"rillet-joiner-{uuid.uuid4().hex}"
        self._joiner = Joiner(self._spec, self._config, directory)
        self._state = FlinkBucketState(runtime_context)
        group = runtime_context.get_metrics_group().add_group("rillet_joiner")
        self._metrics = {name: group.counter(name) for name in Counters().as_dict()}
        self._metrics["dead_letters"] = group.counter("dead_letters")
        self._reported = Counters().as_dict()

    def close(self) -> None:
        """Releases the local store."""
        self._joiner.close()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """One record of either topic."""
        record = split_record(bytes(value))
        state = self._state.at(ctx.timer_service())
        try:
            ingest_ms = parse_ingest_ms(record.ingest)
            blocks = self._joiner.on_record(_bucket(ctx), record.key, record.value, ingest_ms, state)
        except RecordError as error:
            self._metrics["dead_letters"].inc()
            yield DEAD_LETTERS, dead_letter_row(error, record)
            return
        yield from self._emit(blocks)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        """The watermark has reached a time that the joiner asked for."""
        timers = ctx.timer_service()
        state = self._state.at(timers)
        yield from self._emit(self._joiner.on_watermark(_bucket(ctx), timestamp, timers.current_watermark(), state))
        self._report()

    def _emit(self, blocks: Iterable[ExampleBlock]) -> Iterator[Row]:
        for block in blocks:
            yield Row(str(block.bucket).encode(), encode(block))

    def _report(self) -> None:
        counts = self._joiner.counters.as_dict()
        for name, count in counts.items():
            if count != self._reported[name]:
                self._metrics[name].inc(count - self._reported[name])
        self._reported = counts


def _slice_bytes(slice_: int) -> bytes:
    """What stands in front of an entry, because slices may share a list state."""
    return slice_.to_bytes(_SLICE_BYTES, "little", signed=True)


def _bucket(ctx: Any) -> int:
    """The key: a bare number in thread mode, a row around it in process mode."""
    key = ctx.get_current_key()
    return int(key[0] if isinstance(key, Row | tuple | list) else key)


class RawRecord(NamedTuple):
    """A record as it lay in Kafka; a tuple, because one is made per record.

    :param timestamp: the record's, as text of UTC ("2024-05-01 12:00:00.000"), because Flink's SQL has no cheaper form
        of it; empty where it has none.
    :param headers: how many names of headers it had; of them only ``ingest_ms`` is read, the last where it has several.
    """

    topic: str
    partition: int
    offset: int
    timestamp: str
    headers: int
    key: bytes | None
    ingest: bytes | None
    value: bytes | None

    @property
    def timestamp_ms(self) -> int:
        """Epoch milliseconds, -1 where unknown."""
        if not self.timestamp:
            return NO_TIME_MS
        try:
            since = datetime.fromisoformat(self.timestamp).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        except ValueError:
            # A producer may stamp any number; of a year that has no four digits a letter says nothing.
            return NO_TIME_MS
        return since // timedelta(milliseconds=1)


def split_record(data: bytes) -> RawRecord:
    """Takes apart what the SQL of ``jobs/joiner_job.py`` makes of a record.

    One line, ``topic,partition,offset,timestamp,headers,key length,ingest length,sign``, then key, ingest header
    and value. A length of -1 and the sign ``-`` stand for a key, header and value that is not there.
    """
    line, _, rest = data.partition(b"\n")
    topic, partition, offset, timestamp, headers, key_length, ingest_length, sign = line.decode().split(",")
    key_end = max(int(key_length), 0)
    ingest_end = key_end + max(int(ingest_length), 0)
    return RawRecord(
        topic,
        int(partition),
        int(offset),
        timestamp,
        int(headers),
        None if key_length == "-1" else rest[:key_end],
        None if ingest_length == "-1" else rest[key_end:ingest_end],
        None if sign == "-" else rest[ingest_end:],
    )


def dead_letter_row(error: RecordError, record: RawRecord) -> Row:
    headers = [] if record.ingest is None else [(INGEST_HEADER, record.ingest)]
    letter = letter_for(
        error,
        record.topic,
        record.partition,
        record.offset,
        key=record.key,
        value=record.value,
        timestamp_ms=record.timestamp_ms,
        headers=headers,
        more_headers=record.headers > len(headers),
    )
    return Row(letter.letter_key, encode_dead_letter(letter))
