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
from rillet.joiner import Counters, Joiner, JoinerConfig, ListName
from rillet.schemas import NO_TIME_MS, ExampleBlock, FeatureSpec, RecordError, encode, encode_dead_letter

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
    """

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, local_dir: str | None = None) -> None:
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


def _slice_bytes(slice_: int) -> bytes:
    """What stands in front of an entry, because slices may share a list state."""
    return slice_.to_bytes(_SLICE_BYTES, "little", signed=True)


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
