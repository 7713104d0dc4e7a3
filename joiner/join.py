"""The online joiner as pure logic (Monolith, section 3.1.1): the engine calls it, it returns what to emit.

What the join means is defined in ``docs/join.md``. The joiner knows no clock, no topic and no engine: records
come in with their bucket, time comes as watermarks, and what must survive a crash goes through
:class:`BucketState`. The same records in the same order give the same blocks, whenever the watermarks
come, as long as no record is late. Windows close in steps, and a call that closes takes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.bucket import Bucket
from rillet.joiner.buckets import Buckets
from rillet.joiner.closing import STEP_BYTES, STEP_REQUESTS, Closing
from rillet.joiner.config import JoinerConfig
from rillet.joiner.counters import Counters, NameCounts, ValueCounts
from rillet.joiner.entry import Entry
from rillet.joiner.gathered import Fate, take
from rillet.joiner.header import WorkKind
from rillet.joiner.rows import Positive
from rillet.joiner.sampling import Sampling
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import BucketState
from rillet.joiner.store import SliceStore
from rillet.joiner.waiting import WaitingAction
from rillet.joiner.works import next_work
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    check_event,
    decode_event,
    encode,
)


class Joiner:
    """Joins feature and action events of many buckets into example blocks.

    :param directory: for the disk tier, made when first needed; must not exist.
    :param builder: builds the blocks; by default all rows go out with the event that they are due to.
    :param counters: to count in, ``unknown_actions`` to count names in, and ``values``; by default its own.
    :param step_requests: see :class:`rillet.joiner.closing.Closing`, like ``step_bytes`` and ``left_out``.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: JoinerConfig,
        directory: Path,
        builder: BlockBuilder | None = None,
        *,
        counters: Counters | None = None,
        unknown_actions: NameCounts | None = None,
        values: ValueCounts | None = None,
        step_requests: int = STEP_REQUESTS,
        step_bytes: int = STEP_BYTES,
        left_out: frozenset[int] = frozenset(),
    ) -> None:
        self.counters = Counters() if counters is None else counters
        #: ``counters.unknown_actions`` by the names of the actions
        self.unknown_actions = NameCounts() if unknown_actions is None else unknown_actions
        self.values = ValueCounts() if values is None else values
        self.store = SliceStore(config.memory_bytes, directory if config.disk_tier else None)
        self.spec = self._spec = spec
        self._config = config
        self._schedule = SliceSchedule(spec, config)
        self._builder = builder or BlockBuilder(spec, config.block_bytes)
        self._tasks_of: dict[str, list[int]] = {}
        for index, task in enumerate(spec.tasks):
            for name in task.actions:
                self._tasks_of.setdefault(name, []).append(index)
        #: of the tasks for which one action is not enough
        self._rules = {index: task.at_least for index, task in enumerate(spec.tasks) if task.at_least is not None}
        self._immediate = tuple(index for index, task in enumerate(spec.tasks) if task.labels == "immediate")
        self._sampling = Sampling(spec)
        self._aligned = frozenset(index for index, task in enumerate(spec.tasks) if task.labels == "aligned")
        self.buckets = Buckets(spec, config, self.store)
        self._closing = Closing(
            spec, config, self.buckets, self.store, self._builder, self.counters, step_requests, step_bytes, left_out
        )

    def on_record(
        self,
        bucket: int,
        key: bytes | None,
        data: bytes | None,
        ingest_ms: int,
        state: BucketState,
        entered_ms: int | None = None,
    ) -> list[ExampleBlock]:
        """Takes one feature or action event.

        :param key: what the bucket was made of; has to be the request_id.
        :param data: the record in single-object encoding.
        :param ingest_ms: what its header says of when it was sent, -1 unknown.
        :param entered_ms: when it entered the topic, which bounds its event time; None: at ``ingest_ms``.
        :raises RecordError: the record is unusable; nothing has changed.
        """
        event = decode_event(data, key)
        check_event(self._spec, event, ingest_ms if entered_ms is None else entered_ms, self._config.max_ahead_ms)
        return self.on_event(bucket, event, data or b"", ingest_ms, state)

    def on_event(
        self, bucket: int, event: FeatureEvent | ActionEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        """Takes one event that is decoded and checked already; ``data`` is what goes into the state.

        :raises RecordError: the feature event comes too late for the joiner to know whether it came before.
        :raises WaitingFullError: the action would have to wait, and there is no room; nothing has changed.
        """
        if isinstance(event, FeatureEvent):
            if event.exposed is not None:
                # What nobody saw teaches nothing, so it is not kept.
                shown = event.shown()
                self.counters.unexposed_impressions += len(event.impression_ids) - len(shown.impression_ids)
                event, data = shown, encode(shown)
            return self._on_feature(bucket, event, data, ingest_ms, state)
        return self._on_action(bucket, event, data, ingest_ms, state)

    def advance(self, bucket: int, time_ms: int, state: BucketState) -> list[ExampleBlock]:
        """Takes a step of what is due by a time: closes windows, forgets requests, gives up actions.

        :meth:`next_due_ms` says whether there is more.
        """
        memory = self.buckets.get(bucket, state)
        blocks = self._closing.advance(memory, time_ms, state)
        memory.wake(self._schedule, state, time_ms)
        return blocks

    def drain(self, bucket: int, state: BucketState) -> Iterator[ExampleBlock]:
        """Closes every window that is open, and gives up the actions that wait, as the blocks are asked for.

        No time passes: requests are remembered as long as ever, so that those and actions that come after it are told from
        what was drained.
        """
        return self._closing.drain(self.buckets.get(bucket, state), state)

    def next_due_ms(self, bucket: int, state: BucketState) -> int | None:
        """The earliest watermark at which something is left to be done in a bucket, None where nothing is."""
        due = next_work(self.buckets.get(bucket, state).header, self._schedule)
        return None if due is None else due[0]

    def newest_ms(self, bucket: int, state: BucketState) -> int:
        """An event time that the bucket has certainly seen, at most a slice before its newest; NEVER_MS without any."""
        header = self.buckets.get(bucket, state).header
        newest = max((*header.slices, *header.waiting), default=None)
        return header.closed_ms if newest is None else max(header.closed_ms, newest * self._schedule.slice_ms)

    def remembers(self, bucket: int, request_id: str, state: BucketState) -> bool:
        """Whether the feature event of a request is known."""
        return self.buckets.get(bucket, state).find(request_id, state) is not None

    def holds_anything(self, bucket: int, state: BucketState) -> bool:
        """Whether any request of a bucket is remembered, or any action waits there."""
        header = self.buckets.get(bucket, state).header
        return bool(header.slices or header.waiting)

    def forgotten_ms(self, bucket: int, state: BucketState) -> int:
        """Event time before which the requests of a bucket are forgotten; far in the past where none is."""
        schedule, closed_ms = self._schedule, self.buckets.get(bucket, state).header.closed_ms
        return (closed_ms + 1 - schedule.kept_ms) // schedule.slice_ms * schedule.slice_ms

    def take_waiting(self, bucket: int, request_id: str, state: BucketState) -> list[WaitingAction]:
        """The actions that wait for a request, in order of arrival; they wait here no longer."""
        memory = self.buckets.get(bucket, state)
        waiting = memory.waiting.take(request_id, state)
        if waiting:
            # The turn that was asked for may have been that of an action.
            memory.wake(self._schedule, state)
        return waiting

    def let_wait(self, bucket: int, waiting: list[WaitingAction], state: BucketState) -> None:
        """Lets actions wait that waited under another spec, even where there is no room; those that no task asks for are counted."""
        memory = self.buckets.get(bucket, state)
        for one in waiting:
            action = one.action
            if action.action not in self._tasks_of:
                self._count_unasked(action)
                continue
            slice_ = self._schedule.slice_of(action.event_time_ms)
            memory.waiting.add(action, slice_, one.ingest_ms, encode(action), state)
        memory.wake(self._schedule, state)

    def lose(self) -> None:
        """Forgets what memory and disk hold, as a start would: the engine's state has it all."""
        self.store.lose()
        self.buckets.lose()

    def close(self) -> None:
        """Releases the local store."""
        self.store.close()

    def _on_feature(
        self, bucket: int, event: FeatureEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        memory = self.buckets.get(bucket, state)
        header = memory.header
        slice_ = self._schedule.slice_of(event.event_time_ms)
        if memory.find(event.request_id, state) is not None:
            self.counters.duplicate_features += 1
            return []
        if self._schedule.expiry_ms(slice_) <= header.closed_ms:
            # Whether it was seen before is no longer known, so no row may be made of it.
            raise RecordError(f"event_time_ms: {event.event_time_ms} is later than every label window")
        is_new = slice_ not in header.slices
        if is_new:
            self._schedule.check_room(len(header.slices), event.event_time_ms)
            self.buckets.open_slice(memory, slice_)
        self.counters.features += 1
        entry = Entry(event, ingest_ms, data=data, slice_=slice_, n=memory.count(slice_, state))
        blocks = self._provisional(bucket, entry) if self._immediate else []
        waited = memory.waiting.take(event.request_id, state)
        self.counters.matched_later += len(waited)
        positives: list[Positive] = []
        for waiting in waited:
            # It came before its window closed, whatever the time is now.
            positives += self._label(memory, entry, waiting.action, waiting.ingest_ms, state, waited=True)
        blocks += self._positives(bucket, entry, positives)
        memory.add(entry, state)
        if is_new:
            state.save_header(header.to_bytes())
            memory.wake(self._schedule, state)
        for task in self._closing.tasks:
            if self._closing.is_closed(memory, entry, task):
                blocks += self._closing.window_rows(bucket, [entry], task)
        return blocks

    def _on_action(
        self, bucket: int, action: ActionEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        if action.action not in self._tasks_of:
            self.counters.actions += 1
            self._count_unasked(action)
            return []
        memory = self.buckets.get(bucket, state)
        header = memory.header
        entry = memory.find(action.request_id, state)
        if entry is not None and not header.in_progress(WorkKind.FORGET, entry.slice_):
            self.counters.actions += 1
            pairs_before, times_before = (entry.positives, entry.gathering), entry.times
            positives = self._label(memory, entry, action, ingest_ms, state)
            if (entry.positives, entry.gathering) != pairs_before or entry.times is not times_before:
                memory.keep_labels(entry, len(entry.times) - len(times_before), state)
            return self._positives(bucket, entry, positives)
        slice_ = self._schedule.slice_of(action.event_time_ms)
        expired = self._schedule.waiting_expiry_ms(slice_) <= header.closed_ms
        is_new = slice_ not in header.waiting
        if not expired:
            if is_new:
                self._schedule.check_room(len(header.waiting), action.event_time_ms)
            memory.waiting.check_room(action.request_id, data)
        self.counters.actions += 1
        self.counters.unmatched_actions += 1
        if expired:
            self.counters.orphan_actions += 1
            return []
        memory.waiting.add(action, slice_, ingest_ms, data, state)
        if is_new:
            memory.wake(self._schedule, state)
        return []

    def _count_unasked(self, action: ActionEvent) -> None:
        """Counts an action that no task of ours asks for."""
        if action.action in self._spec.actions:
            self.counters.history_actions += 1
        else:
            self.counters.unknown_actions += 1
            self.unknown_actions.add(action.action)

    def _label(
        self,
        memory: Bucket,
        entry: Entry,
        action: ActionEvent,
        ingest_ms: int,
        state: BucketState,
        waited: bool = False,
    ) -> list[Positive]:
        """Makes pairs positive by an action on a known request, one for each task that asks for it; the state follows after it.

        :param waited: the action was there before its request, and is never late.
        :returns: the rows that go out with the action; those of aligned tasks wait for the close of the window.
        """
        if action.action not in self._tasks_of:
            # It began to wait under a spec that asks for it.
            self._count_unasked(action)
            return []
        index = entry.index_of(action.impression_id)
        if index < 0:
            self.counters.unknown_impressions += 1
            return []
        rows: list[Positive] = []
        for task in self._tasks_of[action.action]:
            after_ms = action.event_time_ms - entry.event.event_time_ms
            if after_ms < -self._spec.tasks[task].early_ms:
                self.counters.early_actions += 1
                continue
            if after_ms >= self._spec.tasks[task].window_ms:
                self.counters.outside_window += 1
                continue
            if entry.is_positive(task, index):
                self.counters.duplicate_actions += 1
                continue
            late = not waited and self._closing.is_closed(memory, entry, task)
            kept = late and self._sampling.keeps(entry.event, task, index)
            if late and not self._takes_late(task, kept):
                self.counters.late_actions += 1
                continue
            if task in self._rules:
                if self._rules[task].needs_values:
                    self.values.add(self._spec.tasks[task].name, action.value)
                fate = take(self._rules[task], entry, task, index, action, state)
                if fate is not Fate.TURNED:
                    self.counters.add(fate.value)
                    continue
            entry.add_positive(task, index)
            if task in self._immediate:
                kind = LabelKind.CORRECTION
                self.counters.corrections += 1
            elif kept and self._closing.was_sent(memory, entry, task):
                kind = LabelKind.LATE_POSITIVE
                self.counters.late_positives += 1
            else:
                kind = LabelKind.POSITIVE
                self.counters.positives += 1
                if task in self._aligned and not late:
                    entry.keep_times(task, index, action.event_time_ms, ingest_ms)
                    continue
            rows.append(Positive(index, task, kind, action.event_time_ms, ingest_ms))
        return rows

    def _positives(self, bucket: int, entry: Entry, rows: list[Positive]) -> list[ExampleBlock]:
        return self._builder.positives(bucket, entry, rows, self._config.block_rows) if rows else []

    def _takes_late(self, task: int, sampled: bool) -> bool:
        """Whether a late action makes a row of a pair, by its task and whether the sample keeps the pair's negative."""
        late = self._spec.tasks[task].late
        return late == "correct" or (late == "emit_unsampled" and not sampled)

    def _provisional(self, bucket: int, entry: Entry) -> list[ExampleBlock]:
        """The provisional negatives of a request that has just come, for the tasks whose labels are immediate."""
        tasks, event = self._immediate, entry.event
        chosen = self._sampling.of_request(event, tasks)
        self.counters.provisional_negatives += int(np.count_nonzero(chosen))
        return self._builder.provisional(bucket, entry, tasks, chosen, self._config.block_rows)
