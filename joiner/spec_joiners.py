"""The joiner of several feature specs: requests are joined under the spec that was ours when they came, from begin to end.

A request keeps its windows, rates and label modes, so its rows fit together, whenever the spec changes. There is a
:class:`rillet.joiner.Joiner` per spec, each with a state of its own: that of our spec takes what is new, the others only
finish what they have begun, and are gone when their last request is. All rows go out under our spec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError
from rillet.joiner.header import NEVER_MS
from rillet.joiner.join import Joiner
from rillet.joiner.state import BucketState
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    RecordError,
    SpecRegistry,
    check_event,
    decode_event,
    encode,
)
from rillet.schemas.conversion import SpecConversion, without_idle_rows

#: the part of memory_bytes that is for requests of other specs than ours: a quarter
_SHARE_OF_OTHERS = 4


class BucketStates(Protocol):
    """One bucket's part of the checkpointed state, apart for each feature spec; the engine's adapter implements it."""

    def of_spec(self, spec_hash: int) -> BucketState:
        """The state of one of the registry's specs."""

    def load_note(self) -> bytes | None:
        """What :meth:`save_note` was given last, None for a bucket never seen."""

    def save_note(self, note: bytes) -> None:
        """Replaces the note of which specs have requests in the state."""


class _Note(NamedTuple):
    """What is noted in a bucket's state beside the states of the specs."""

    #: requests from before this event time may have been joined and forgotten by the joiner of an earlier spec
    forgotten_ms: int
    #: the specs that have anything in the state
    specs: list[int]
    #: those of them that a drain has closed: a start does without them where it does not know them
    drained: list[int]

    def to_bytes(self) -> bytes:
        signed = [-spec_hash if spec_hash in self.drained else spec_hash for spec_hash in self.specs]
        return struct.pack(f"<{1 + len(signed)}q", self.forgotten_ms, *signed)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> _Note:
        if data is None:
            return cls(NEVER_MS, [], [])
        forgotten_ms, *signed = struct.unpack(f"<{len(data) // 8}q", data)
        return cls(forgotten_ms, [abs(one) for one in signed], [-one for one in signed if one < 0])


class _Earlier(NamedTuple):
    """A joiner of another spec than ours, and how its rows become ours."""

    joiner: Joiner
    conversion: SpecConversion


class SpecJoiners:
    """Joins the events of a registry's specs into example blocks of its current one.

    :param directory: for the disk tiers, see :class:`Joiner`.
    """

    def __init__(self, specs: SpecRegistry, config: JoinerConfig, directory: Path) -> None:
        self._specs, self._directory = specs, directory
        self._max_ahead_ms = config.max_ahead_ms
        self._hash = specs.current.hash
        # Together they have the memory of one; what is new comes to ours.
        others, share = len(specs.others), config.memory_bytes // _SHARE_OF_OTHERS
        ours = config if not others else replace(config, memory_bytes=config.memory_bytes - share)
        self._config_of_others = replace(config, memory_bytes=max(1, share // max(1, others)))
        self._current = Joiner(specs.current, ours, directory)
        self._earlier: dict[int, _Earlier] = {}
        #: by bucket, as in its state
        self._notes: dict[int, _Note] = {}
        self.counters = self._current.counters
        self.unknown_actions, self.values = self._current.unknown_actions, self._current.values

    def on_record(
        self,
        bucket: int,
        key: bytes | None,
        data: bytes | None,
        ingest_ms: int,
        states: BucketStates,
        entered_ms: int | None = None,
    ) -> list[ExampleBlock]:
        """Takes one feature or action event, see :meth:`Joiner.on_record`.

        :raises RecordError: the record is unusable, or of a spec that is not in the registry; nothing has changed.
        """
        event = decode_event(data, key)
        ours = self._specs.event(event)
        entered_ms = ingest_ms if entered_ms is None else entered_ms
        check_event(self._specs.current, ours, entered_ms, self._max_ahead_ms)
        note = self._bucket(bucket, states)
        for spec_hash in note.specs:
            if spec_hash == self._hash:
                continue
            joiner, conversion = self._earlier[spec_hash]
            state = states.of_spec(spec_hash)
            if joiner.remembers(bucket, ours.request_id, state):
                if isinstance(ours, ActionEvent) and self._asked_since(ours, conversion):
                    self.counters.actions += 1
                    self.counters.earlier_requests += 1
                    return []
                # A feature event is a duplicate, whatever spec it is of.
                return list(_converted(joiner.on_event(bucket, ours, data or b"", ingest_ms, state), conversion))
        self._move_waiting(bucket, ours.request_id, states)
        if (
            isinstance(ours, FeatureEvent)
            and ours.event_time_ms < note.forgotten_ms
            and not self._current.remembers(bucket, ours.request_id, states.of_spec(self._hash))
        ):
            raise RecordError(
                f"event_time_ms: {ours.event_time_ms} is later than every label window of an earlier feature spec"
            )
        if ours is not event:
            data = encode(ours)
        blocks = self._current.on_event(bucket, ours, data or b"", ingest_ms, states.of_spec(self._hash))
        if self._hash not in note.specs or self._hash in note.drained:
            self._note(bucket, states, drained=[one for one in note.drained if one != self._hash])
        return blocks

    def advance(self, bucket: int, time_ms: int, states: BucketStates) -> list[ExampleBlock]:
        """Takes a step of what is due by a time under each spec, see :meth:`Joiner.advance`."""
        blocks: list[ExampleBlock] = []
        for spec_hash in self._bucket(bucket, states).specs:
            if spec_hash != self._hash:
                joiner, conversion = self._earlier[spec_hash]
                blocks += _converted(joiner.advance(bucket, time_ms, states.of_spec(spec_hash)), conversion)
        blocks += self._current.advance(bucket, time_ms, states.of_spec(self._hash))
        self._note(bucket, states)
        return blocks

    def drain(self, bucket: int, states: BucketStates) -> Iterator[ExampleBlock]:
        """Closes every window that is open, as the blocks are asked for, see :meth:`Joiner.drain`."""
        for spec_hash in self._bucket(bucket, states).specs:
            if spec_hash != self._hash:
                joiner, conversion = self._earlier[spec_hash]
                yield from _converted(joiner.drain(bucket, states.of_spec(spec_hash)), conversion)
        yield from self._current.drain(bucket, states.of_spec(self._hash))
        self._note(bucket, states, drained=self._notes[bucket].specs)

    def next_due_ms(self, bucket: int, states: BucketStates) -> int | None:
        """The earliest watermark at which something is left to be done in a bucket, None where nothing is."""
        due = (joiner.next_due_ms(bucket, state) for joiner, state in self._all_in(bucket, states))
        return min((due_ms for due_ms in due if due_ms is not None), default=None)

    def newest_ms(self, bucket: int, states: BucketStates) -> int:
        """An event time that the bucket has certainly seen, see :meth:`Joiner.newest_ms`."""
        return max(joiner.newest_ms(bucket, state) for joiner, state in self._all_in(bucket, states))

    def next_close_ms(self, watermark_ms: int) -> int | None:
        """The watermark at which the next label window closes of the requests that are remembered, None without any."""
        closes = (joiner.buckets.next_close_ms(watermark_ms) for joiner in self._all())
        return min((close_ms for close_ms in closes if close_ms is not None), default=None)

    @property
    def open_requests(self) -> int:
        """Requests that are remembered, of buckets that were touched since the start."""
        return sum(joiner.buckets.open_requests for joiner in self._all())

    @property
    def reads(self) -> dict[str, int]:
        """Requests that were asked for, see :attr:`rillet.joiner.store.SliceStore.reads`."""
        return {tier: sum(joiner.store.reads[tier] for joiner in self._all()) for tier in self._current.store.reads}

    @property
    def waiting_actions(self) -> int:
        """Actions that wait for their feature event; of buckets that were touched since the start."""
        return sum(joiner.buckets.waiting_actions for joiner in self._all())

    @property
    def waiting_bytes(self) -> int:
        """What they cost in memory, by estimate."""
        return sum(joiner.buckets.waiting_bytes for joiner in self._all())

    def oldest_waiting_ms(self) -> int | None:
        """Event time of the action that has waited longest; None while none waits."""
        oldest = (joiner.buckets.oldest_waiting_ms() for joiner in self._all())
        return min((time_ms for time_ms in oldest if time_ms is not None), default=None)

    def lose(self) -> None:
        """Forgets what memory and disk hold, as a start would: the engine's state has it all."""
        for joiner in self._all():
            joiner.lose()

    def close(self) -> None:
        """Releases the local stores."""
        for joiner in self._all():
            joiner.close()

    def _all(self) -> Iterator[Joiner]:
        yield self._current
        for earlier in self._earlier.values():
            yield earlier.joiner

    def _all_in(self, bucket: int, states: BucketStates) -> Iterator[tuple[Joiner, BucketState]]:
        for spec_hash in self._bucket(bucket, states).specs:
            if spec_hash != self._hash:
                yield self._earlier[spec_hash].joiner, states.of_spec(spec_hash)
        yield self._current, states.of_spec(self._hash)

    def _asked_since(self, action: ActionEvent, conversion: SpecConversion) -> bool:
        """Whether an action counts for our spec, and for nothing in the spec that its request was joined under."""
        return action.action in self._specs.current.actions and action.action not in conversion.old.actions

    def _bucket(self, bucket: int, states: BucketStates) -> _Note:
        """The note of a bucket; read from its state at the first touch after a start."""
        note = self._notes.get(bucket)
        if note is None:
            note = _Note.from_bytes(states.load_note())
            known = [one for one in note.specs if one not in note.drained or self._specs.find(one) is not None]
            note = self._notes[bucket] = note._replace(specs=known)
            for spec_hash in known:
                if spec_hash != self._hash:
                    self._know(spec_hash)
            self._note(bucket, states)
        return self._notes[bucket]

    def _note(self, bucket: int, states: BucketStates, drained: list[int] | None = None) -> None:
        """Brings the note up to date: a start without one of its specs is refused, and with it nothing is lost.

        :param drained: the specs that a drain has closed; None for those of before.
        """
        before = self._notes[bucket]
        drained = before.drained if drained is None else drained
        forgotten_ms, specs = before.forgotten_ms, []
        for joiner, state in self._all_in(bucket, states):
            holds = joiner.holds_anything(bucket, state)
            if holds:
                specs.append(joiner.spec.hash)
            # What holds nothing is not asked again, and the next start may make another spec the current one.
            if joiner is not self._current or not holds:
                forgotten_ms = max(forgotten_ms, joiner.forgotten_ms(bucket, state))
        now = _Note(forgotten_ms, specs, [one for one in drained if one in specs])
        if now != before:
            self._notes[bucket] = now
            states.save_note(now.to_bytes())

    def _move_waiting(self, bucket: int, request_id: str, states: BucketStates) -> None:
        """Actions that came for a request before the spec changed wait for one of our spec from now on.

        Before anything else is done for the request, so that they stay in order of arrival. It is noted at once: the record
        may be refused, and they have moved all the same.
        """
        note, moved = self._notes[bucket], False
        for spec_hash in note.specs:
            if spec_hash != self._hash:
                waiting = self._earlier[spec_hash].joiner.take_waiting(bucket, request_id, states.of_spec(spec_hash))
                if waiting:
                    self._current.let_wait(bucket, waiting, states.of_spec(self._hash))
                    moved = True
        if moved:
            self._note(bucket, states, drained=[one for one in note.drained if one != self._hash])

    def _know(self, spec_hash: int) -> None:
        """Makes the joiner of an earlier spec."""
        if spec_hash not in self._earlier:
            conversion = self._specs.conversion(spec_hash)
            if conversion is None:
                raise JoinerError(
                    f"the kept state has requests, or actions that wait for theirs, from under feature spec {spec_hash:#x},"
                    " which is neither spec nor among also_accepts of rillet.toml: name its file there until their label"
                    " windows have closed and [joiner] action_wait_ms has passed"
                )
            # Of its own: a task that died may still hold the lock of the other's.
            directory = self._directory.with_name(f"{self._directory.name}-{spec_hash:x}")
            asked = {task.name for task in self._specs.current.tasks}
            joiner = Joiner(
                conversion.old,
                self._config_of_others,
                directory,
                counters=self.counters,
                unknown_actions=self.unknown_actions,
                values=self.values,
                left_out=frozenset(index for index, task in enumerate(conversion.old.tasks) if task.name not in asked),
            )
            self._earlier[spec_hash] = _Earlier(joiner, conversion)


def _converted(blocks: Iterable[ExampleBlock], conversion: SpecConversion) -> Iterator[ExampleBlock]:
    """Blocks of another spec as ours; rows of tasks that ours does not have are left out."""
    for block in blocks:
        converted = without_idle_rows(conversion.block(block))
        if len(converted):
            yield converted
