"""The joiner inside Flink: a keyed process function over buckets, with Flink's keyed state as the truth.

Only bytes cross between the JVM and Python. A record arrives as one line of text that says where it
came from, then the record as it lay in Kafka (see ``jobs/joiner_job.py``); blocks leave as (key, value).
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, OutputTag, RuntimeContext
from pyflink.datastream.state import ListState, ListStateDescriptor, ValueState, ValueStateDescriptor

from rillet.connectors.dead_letters import letter_for
from rillet.connectors.producers import INGEST_HEADER
from rillet.joiner import Counters, Joiner, JoinerConfig, JournalName
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, RecordError, encode, encode_dead_letter

BYTES = Types.PRIMITIVE_ARRAY(Types.BYTE())
#: (key, value) of a Kafka record
KEY_VALUE = Types.ROW([BYTES, BYTES])
DEAD_LETTERS = OutputTag("dead-letters", KEY_VALUE)

# Thread mode hands a PRIMITIVE_ARRAY state back as a tuple of integers, so state is declared like this.
_STATE_BYTES = Types.PICKLED_BYTE_ARRAY()
#: fixed, because state written with another number of places could not be found again
_RING = 32
_SLICE_BYTES = 8


class FlinkBucketState:
    """:class:`rillet.joiner.BucketState` on Flink's keyed state; always of the key that Flink has set.

    A journal is a ring of list states, one a live slice, so that a slice is cleared in one call. When more
    slices live than the ring has places, slices share a place and a clear rewrites the ones that stay.
    """

    def __init__(self, context: RuntimeContext, ring: int) -> None:
        self._header: ValueState = context.get_state(ValueStateDescriptor("header", _STATE_BYTES))
        self._rings: dict[str, list[ListState]] = {
            journal: [context.get_list_state(ListStateDescriptor(f"{journal}-{i}", _STATE_BYTES)) for i in range(ring)]
            for journal in ("features", "waiting")
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

    def append(self, journal: JournalName, slice_: int, entry: bytes) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._place(journal, slice_).add(slice_.to_bytes(_SLICE_BYTES, "little", signed=True) + entry)

    def read(self, journal: JournalName, slice_: int) -> Iterable[bytes]:
        """See :class:`rillet.joiner.BucketState`."""
        mark = slice_.to_bytes(_SLICE_BYTES, "little", signed=True)
        return [entry[_SLICE_BYTES:] for entry in self._place(journal, slice_).get() or () if entry.startswith(mark)]

    def clear(self, journal: JournalName, slice_: int, living: Collection[int]) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        place = self._place(journal, slice_)
        staying: list[bytes] = []
        if any((other - slice_) % len(self._rings[journal]) == 0 for other in living):
            mark = slice_.to_bytes(_SLICE_BYTES, "little", signed=True)
            staying = [entry for entry in place.get() or () if not entry.startswith(mark)]
        place.clear()
        if staying:
            place.update(staying)

    def wake_at(self, watermark_ms: int) -> None:
        """See :class:`rillet.joiner.BucketState`."""
        self._timers.register_event_time_timer(watermark_ms)

    def _place(self, journal: JournalName, slice_: int) -> ListState:
        ring = self._rings[journal]
        return ring[slice_ % len(ring)]


class JoinFunction(KeyedProcessFunction):  # type: ignore[misc]
    """Runs a :class:`rillet.joiner.Joiner` over all buckets of a subtask.

    :param local_dir: where the disk tier may put its directories; the system's temporary folder by default.
    """

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, local_dir: str | None = None) -> None:
        self._spec = spec
        self._config = config
        self._local_dir = local_dir

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes an empty joiner; each bucket is rebuilt from Flink's state when it is first touched."""
        # A fresh directory an attempt: a task that died may still hold the lock of its own.
        directory = Path(self._local_dir or tempfile.gettempdir()) / f"rillet-joiner-{uuid.uuid4().hex}"
        self._joiner = Joiner(self._spec, self._config, directory)
        self._state = FlinkBucketState(runtime_context, _RING)
        group = runtime_context.get_metrics_group().add_group("rillet_joiner")
        self._metrics = {name: group.counter(name) for name in Counters().as_dict()}
        self._metrics["dead_letters"] = group.counter("dead_letters")
        self._reported = Counters().as_dict()

    def close(self) -> None:
        """Releases the local store."""
        self._joiner.close()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """One record of either topic."""
        origin, _, rest = bytes(value).partition(b"\n")
        topic, partition, offset, key_length, ingest_ms = origin.decode().split(",")
        key, data = _split(rest, int(key_length))
        state = self._state.at(ctx.timer_service())
        try:
            if key is None:
                raise RecordError("key: there is none; features and actions are joined by request_id")
            if ingest_ms == "?":
                raise RecordError("header ingest_ms: not a decimal number of milliseconds")
            blocks = self._joiner.on_record(_bucket(ctx), key, data, int(ingest_ms or NO_TIME_MS), state)
        except RecordError as error:
            self._metrics["dead_letters"].inc()
            yield DEAD_LETTERS, _dead_letter(error, topic, int(partition), int(offset), key, data, ingest_ms)
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


def _bucket(ctx: Any) -> int:
    """The key: a bare number in thread mode, a row around it in process mode."""
    key = ctx.get_current_key()
    return int(key[0] if isinstance(key, Row | tuple | list) else key)


def _split(rest: bytes, key_length: int) -> tuple[bytes | None, bytes]:
    """Key and record; a negative length stands for no key."""
    return (None, rest) if key_length < 0 else (rest[:key_length], rest[key_length:])


def _dead_letter(
    error: RecordError, topic: str, partition: int, offset: int, key: bytes | None, data: bytes, ingest_ms: str
) -> Row:
    # Of the headers the job reads only this one; a record without it may have had others.
    headers = [(INGEST_HEADER, ingest_ms.encode())] if ingest_ms.isdigit() else None
    letter = letter_for(error, topic, partition, offset, key=key, value=data, headers=headers)
    return Row(letter.letter_key, encode_dead_letter(letter))
