"""The online joiner as pure logic (Monolith, section 3.1.1): the engine calls it, it returns what to emit.

What the join means is defined in ``docs/join.md``. The joiner knows no clock, no topic and no engine: records
come in with their bucket, time comes as watermarks, and what must survive a crash goes through
:class:`BucketState`. The same records in the same order give the same blocks, whenever the watermarks
come, as long as no record is late. Windows close in steps, and a call that closes takes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.bucket import Bucket
from rillet.joiner.config import JoinerConfig
from rillet.joiner.counters import Counters, NameCounts
from rillet.joiner.entry import Entry
from rillet.joiner.errors import JoinerError
from rillet.joiner.header import NEVER_MS, BucketHeader, OpenSlice, Work, WorkKind
from rillet.joiner.kept_state import KeptSettings
from rillet.joiner.sampling import Sampling
from rillet.joiner.slices import MAX_OPEN_SLICES, SliceSchedule
from rillet.joiner.state import BucketState
from rillet.joiner.store import SliceStore
from rillet.joiner.waiting import WaitingAction, WaitingActions
from rillet.joiner.works import next_close_at_once, next_work
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

#: the watermark of the end of a bounded stream and of ``stop --drain`` (Flink's Long.MAX_VALUE)
END_OF_TIME_MS = (1 << 63) - 1


#: requests, or waiting actions, that one call closes or forgets; and the bytes of requests from which on it takes no more
STEP_REQUESTS, STEP_BYTES = 128, 1 << 20


class Joiner:
    """Joins feature and action events of many buckets into example blocks.

    :param directory: for the disk tier, made when first needed; must not exist.
    :param builder: builds the blocks; by default all rows go out with the event that they are due to.
    :param step_requests: requests that one call of :meth:`advance` closes or forgets; a block is of one step.
    :param step_bytes: bytes of requests from which on it takes no more.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: JoinerConfig,
        directory: Path,
        builder: BlockBuilder | None = None,
        step_requests: int = STEP_REQUESTS,
        step_bytes: int = STEP_BYTES,
    ) -> None:
        self.counters = Counters()
        #: ``counters.unknown_actions`` by the names of the actions
        self.unknown_actions = NameCounts()
        self.store = SliceStore(config.memory_bytes, directory if config.disk_tier else None)
        self._step_requests, self._step_bytes = step_requests, step_bytes
        self.spec = self._spec = spec
        self._config = config
        self._schedule = SliceSchedule(spec, config)
        self._builder = builder or BlockBuilder(spec, config.block_bytes)
        self._tasks_of: dict[str, list[int]] = {}
        for index, task in enumerate(spec.tasks):
            self._tasks_of.setdefault(task.action, []).append(index)
        self._immediate = tuple(index for index, task in enumerate(spec.tasks) if task.labels == "immediate")
        self._sampling = Sampling(spec)
        self._aligned = frozenset(index for index, task in enumerate(spec.tasks) if task.labels == "aligned")
        #: tasks of which rows go out at the close of a window
        self._closing = tuple(index for index in range(len(spec.tasks)) if index not in self._immediate)
        self._buckets: dict[int, Bucket] = {}
        #: how many buckets have each slice open
        self._open_slices: Counter[int] = Counter()
        self._settings_digest = KeptSettings.of(spec, config).digest

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
        memory = self._bucket(bucket, state)
        header = memory.header
        blocks: list[ExampleBlock] = []
        done = 0
        while done < self._step_requests:
            due = next_work(header, self._schedule)
            if due is None or due[0] > time_ms:
                break
            header.closed_ms, header.work = max(header.closed_ms, due[0]), due[1]
            done += 1 + self._step(memory, due[1], state, blocks)
        if done:
            state.save_header(header.to_bytes())
        self._wake(memory, state, time_ms)
        return blocks

    def drain(self, bucket: int, state: BucketState) -> Iterator[ExampleBlock]:
        """Closes every window that is open, and gives up the actions that wait, as the blocks are asked for.

        No time passes: requests are remembered as long as ever, so that those and actions that come after it are told from
        what was drained.
        """
        memory = self._bucket(bucket, state)
        header = memory.header
        while header.work is not None and header.work.kind is WorkKind.CLOSE:
            if header.work.task in self._closing:
                yield from self._drain_close(memory, header.work, state)
            header.work = next_close_at_once(header, self._schedule, header.work)
        for slice_, open_slice in sorted(header.slices.items()):
            for task in self._closing:
                if self._schedule.close_ms(slice_, task) > header.closed_ms:
                    work = Work(WorkKind.CLOSE, slice_, task, open_slice.drained)
                    yield from self._drain_close(memory, work, state)
            open_slice.drained = memory.count(slice_, state)
        for slice_ in sorted(header.waiting):
            self.counters.orphan_actions += memory.waiting.give_up(slice_, 0, header.waiting[slice_].count, state)
            memory.waiting.close_slice(slice_)
        if header.work is not None and header.work.kind is WorkKind.GIVE_UP:
            header.work = None
        state.save_header(header.to_bytes())

    def next_due_ms(self, bucket: int, state: BucketState) -> int | None:
        """The earliest watermark at which something is left to be done in a bucket, None where nothing is."""
        due = next_work(self._bucket(bucket, state).header, self._schedule)
        return None if due is None else due[0]

    def newest_ms(self, bucket: int, state: BucketState) -> int:
        """An event time that the bucket has certainly seen, at most a slice before its newest; NEVER_MS without any."""
        header = self._bucket(bucket, state).header
        newest = max((*header.slices, *header.waiting), default=None)
        return header.closed_ms if newest is None else max(header.closed_ms, newest * self._schedule.slice_ms)

    def next_close_ms(self, watermark_ms: int) -> int | None:
        """The watermark at which the next label window closes of the requests that are remembered, None without any.

        Of buckets that were touched since the start.
        """
        schedule, tasks = self._schedule, range(len(self._spec.tasks))
        closes = (schedule.close_ms(slice_, task) for slice_ in self._open_slices for task in tasks)
        return min((close_ms for close_ms in closes if close_ms > watermark_ms), default=None)

    @property
    def open_requests(self) -> int:
        """Requests that are remembered; of buckets that were touched since the start."""
        return sum(one.count for memory in self._buckets.values() for one in memory.header.slices.values())

    def remembers(self, bucket: int, request_id: str, state: BucketState) -> bool:
        """Whether the feature event of a request is known."""
        return self._bucket(bucket, state).find(request_id, state) is not None

    def holds_anything(self, bucket: int, state: BucketState) -> bool:
        """Whether any request of a bucket is remembered, or any action waits there."""
        header = self._bucket(bucket, state).header
        return bool(header.slices or header.waiting)

    def forgotten_ms(self, bucket: int, state: BucketState) -> int:
        """Event time before which the requests of a bucket are forgotten; far in the past where none is."""
        schedule, closed_ms = self._schedule, self._bucket(bucket, state).header.closed_ms
        return (closed_ms + 1 - schedule.kept_ms) // schedule.slice_ms * schedule.slice_ms

    def give_up_waiting(self, bucket: int, state: BucketState) -> list[WaitingAction]:
        """The actions of a bucket that wait, those of a request in order of arrival; they wait here no longer."""
        memory = self._bucket(bucket, state)
        header = memory.header
        waiting = memory.waiting.take_all(state)
        for slice_ in list(header.waiting):
            memory.waiting.close_slice(slice_)
        if header.work is not None and header.work.kind is WorkKind.GIVE_UP:
            header.work = None
        state.save_header(header.to_bytes())
        return waiting

    def let_wait(self, bucket: int, waiting: list[WaitingAction], state: BucketState) -> None:
        """Lets actions wait that waited elsewhere, even where there is no room for them."""
        memory = self._bucket(bucket, state)
        for action, ingest_ms, _ in waiting:
            slice_ = self._schedule.slice_of(action.event_time_ms)
            memory.waiting.add(action, slice_, ingest_ms, encode(action), state)
        state.save_header(memory.header.to_bytes())
        self._wake(memory, state)

    @property
    def reads(self) -> dict[str, int]:
        """Requests that were asked for, by the tier that was asked: memory, a slice on disk, the engine's state."""
        store = self.store
        return {"memory": store.memory_reads, "disk": store.disk_reads, "engine": store.engine_reads}

    @property
    def waiting_actions(self) -> int:
        """Actions that wait for their feature event; of buckets that were touched since the start."""
        return sum(len(memory.waiting) for memory in self._buckets.values())

    @property
    def waiting_bytes(self) -> int:
        """What they cost in memory, by estimate."""
        return sum(memory.header.waiting_bytes for memory in self._buckets.values())

    def oldest_waiting_ms(self) -> int | None:
        """The earliest event time of an action that waits, at most a slice before it; None while none waits."""
        oldest = (memory.waiting.oldest_slice() for memory in self._buckets.values())
        first = min((slice_ for slice_ in oldest if slice_ is not None), default=None)
        return None if first is None else first * self._schedule.slice_ms

    def lose(self) -> None:
        """Forgets what memory and disk hold, as a start would: the engine's state has it all."""
        self.store.lose()
        for memory in self._buckets.values():
            memory.waiting.lose()

    def close(self) -> None:
        """Releases the local store."""
        self.store.close()

    def _on_feature(
        self, bucket: int, event: FeatureEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        memory = self._bucket(bucket, state)
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
            self._check_room(len(header.slices), event.event_time_ms)
            header.slices[slice_] = OpenSlice(exact=True)
            self._open_slices[slice_] += 1
        self.counters.features += 1
        entry = memory.add(event, data, ingest_ms, slice_, state)
        blocks = self._provisional(bucket, entry) if self._immediate else []
        waited = memory.waiting.take(event.request_id, state)
        self.counters.matched_later += len(waited)
        if is_new or waited:
            state.save_header(header.to_bytes())
        if is_new:
            self._wake(memory, state)
        for waiting in waited:
            # It came before its window closed, whatever the time is now.
            blocks += self._label(memory, entry, waiting.action, waiting.ingest_ms, state, waited=True)
        for task in self._closing:
            if self._is_closed(memory, entry, task):
                blocks += self._window_rows(bucket, [entry], task)
        return blocks

    def _on_action(
        self, bucket: int, action: ActionEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        if action.action not in self._tasks_of:
            self.counters.actions += 1
            self._count_unasked(action)
            return []
        memory = self._bucket(bucket, state)
        header = memory.header
        entry = memory.find(action.request_id, state)
        if entry is not None and not header.in_progress(WorkKind.FORGET, entry.slice_):
            self.counters.actions += 1
            return self._label(memory, entry, action, ingest_ms, state)
        slice_ = self._schedule.slice_of(action.event_time_ms)
        expired = self._schedule.waiting_expiry_ms(slice_) <= header.closed_ms
        is_new = slice_ not in header.waiting
        if not expired:
            if is_new:
                self._check_room(len(header.waiting), action.event_time_ms)
            memory.waiting.check_room(action.request_id, data, state)
        self.counters.actions += 1
        self.counters.unmatched_actions += 1
        if expired:
            self.counters.orphan_actions += 1
            return []
        memory.waiting.add(action, slice_, ingest_ms, data, state)
        state.save_header(header.to_bytes())
        if is_new:
            self._wake(memory, state)
        return []

    def _count_unasked(self, action: ActionEvent) -> None:
        """Counts an action that no task of ours asks for."""
        if action.action in self._spec.actions:
            self.counters.history_actions += 1
        else:
            self.counters.unknown_actions += 1
            self.unknown_actions.add(action.action)

    def _check_room(self, open_slices: int, event_time_ms: int) -> None:
        """What a bucket's header costs is bounded, whatever times events name.

        :raises RecordError: the bucket has as many slices open as it may.
        """
        if open_slices >= MAX_OPEN_SLICES:
            raise RecordError(
                f"event_time_ms: {event_time_ms} would open slice {open_slices + 1:,} of its bucket, "
                f"at most {MAX_OPEN_SLICES:,} may be open: are its times spread over years, or is [joiner] slice_ms "
                f"({self._schedule.slice_ms}) too short for how far apart the topics are read ([flink] max_drift_ms)?"
            )

    def _is_closed(self, memory: Bucket, entry: Entry, task: int) -> bool:
        """Whether the window of a request has closed for a task: its own step of the close has run, or a drain."""
        header, slice_ = memory.header, entry.slice_
        if entry.n < header.slices[slice_].drained and task not in self._immediate:
            return True
        work = header.in_progress(WorkKind.CLOSE, slice_, task)
        if work is not None:
            return entry.n < work.done
        return header.is_past(self._schedule.close_ms(slice_, task), slice_, task)

    def _label(
        self,
        memory: Bucket,
        entry: Entry,
        action: ActionEvent,
        ingest_ms: int,
        state: BucketState,
        waited: bool = False,
    ) -> list[ExampleBlock]:
        """Makes pairs positive by an action on a known request, one for each task that asks for it.

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
        blocks: list[ExampleBlock] = []
        positives_before, times_before = entry.positives, len(entry.times)
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
            late = not waited and self._is_closed(memory, entry, task)
            if late and not self._emits_late(entry, index, task):
                self.counters.late_actions += 1
                continue
            entry.add_positive(task, index)
            if task in self._immediate:
                kind = LabelKind.CORRECTION
                self.counters.corrections += 1
            elif late:
                kind = LabelKind.LATE_POSITIVE
                self.counters.late_positives += 1
            else:
                kind = LabelKind.POSITIVE
                self.counters.positives += 1
                if task in self._aligned:
                    entry.keep_times(task, index, action.event_time_ms, ingest_ms)
                    continue
            blocks += self._builder.positive(memory.number, entry, index, task, kind, action.event_time_ms, ingest_ms)
        if entry.positives != positives_before:
            memory.keep_labels(entry, len(entry.times) - times_before, state)
        return blocks

    def _emits_late(self, entry: Entry, index: int, task: int) -> bool:
        """Whether a late action makes a row of a pair, by its task and, where that asks, by whether its negative went out."""
        late = self._spec.tasks[task].late
        if late != "emit_unsampled":
            return late == "emit"
        return not self._sampling.of_request(entry.event, [task])[0, index]

    def _provisional(self, bucket: int, entry: Entry) -> list[ExampleBlock]:
        """The provisional negatives of a request that has just come, for the tasks whose labels are immediate."""
        tasks, event = self._immediate, entry.event
        chosen = self._sampling.of_request(event, tasks)
        self.counters.provisional_negatives += int(np.count_nonzero(chosen))
        return self._builder.provisional(bucket, entry, tasks, chosen, self._config.block_rows)

    def _step(self, memory: Bucket, work: Work, state: BucketState, blocks: list[ExampleBlock]) -> int:
        """Does some of a work, adds the rows that it gives, and says how many requests or actions it has dealt with."""
        header, slice_ = memory.header, work.slice_
        if work.kind is WorkKind.CLOSE:
            done = 0
            if work.task not in self._immediate:
                rows, done = self._close_some(memory, work, state)
                blocks += rows
            if work.task in self._immediate or work.done >= memory.count(slice_, state):
                header.work = next_close_at_once(header, self._schedule, work)
            return done
        if work.kind is WorkKind.FORGET:
            done = memory.forget(slice_, work.done, self._step_requests, state)
            work.done += done
            if work.done >= memory.count(slice_, state):
                header.work = None
                self._close_slice(memory, slice_)
            return done
        waits = header.waiting[slice_]
        done = min(self._step_requests, waits.count - work.done) if waits.waiting else 0
        self.counters.orphan_actions += memory.waiting.give_up(slice_, work.done, done, state)
        work.done += done
        if not waits.waiting:
            header.work = None
            memory.waiting.close_slice(slice_)
        return done

    def _close_slice(self, memory: Bucket, slice_: int) -> None:
        memory.close_slice(slice_)
        self._open_slices[slice_] -= 1
        if not self._open_slices[slice_]:
            del self._open_slices[slice_]

    def _close_some(
        self, memory: Bucket, work: Work, state: BucketState, at_end: bool = False
    ) -> tuple[list[ExampleBlock], int]:
        """Closes the next requests of a slice for a task; the rows, and how many requests."""
        read = memory.read(work.slice_, work.done, self._step_requests, self._step_bytes, state)
        work.done += len(read)
        cold = [entry for entry in read if not entry.decoded]
        for entry in cold:
            entry.decode(self.store.decode)
        # In order of time, so that a block does not depend on how the requests of a step came in.
        entries = sorted(read, key=lambda e: (e.event.event_time_ms, e.request_id))
        discard = at_end and self._config.negatives_at_end == "discard"
        blocks = self._window_rows(memory.number, entries, work.task, discard)
        for entry in cold:
            entry.release()
        return blocks, len(read)

    def _drain_close(self, memory: Bucket, work: Work, state: BucketState) -> Iterator[ExampleBlock]:
        """Closes what is left of a slice for a task, step by step."""
        while work.done < memory.count(work.slice_, state):
            yield from self._close_some(memory, work, state, at_end=True)[0]

    def _wake(self, memory: Bucket, state: BucketState, after_ms: int = NEVER_MS) -> None:
        """Asks for the bucket's turn when the next thing is due, unless that is not after a time."""
        due = next_work(memory.header, self._schedule)
        if due is not None and due[0] > after_ms and (memory.woken_ms != due[0] or after_ms != NEVER_MS):
            state.wake_at(due[0])
            memory.woken_ms = due[0]

    def _window_rows(
        self, bucket: int, entries: list[Entry], task: int, discard_negatives: bool = False
    ) -> list[ExampleBlock]:
        """The rows that requests give when their windows close: sampled negatives, and the positives of aligned tasks."""
        if not entries:
            return []
        kept = [entry.negatives(task) for entry in entries]
        if discard_negatives:
            self.counters.discarded_at_end += sum(len(indices) for indices in kept)
            kept = [indices[:0] for indices in kept]
        else:
            kept = self._sampling.of_requests([entry.event for entry in entries], kept, task)
        build = self._builder.aligned if task in self._aligned else self._builder.negatives
        self.counters.negatives += sum(len(indices) for indices in kept)
        return build(bucket, entries, kept, task, self._config.block_rows)

    def _bucket(self, bucket: int, state: BucketState) -> Bucket:
        """The bucket's memory; at the first touch after a start its header is read, and nothing else."""
        memory = self._buckets.get(bucket)
        if memory is None:
            saved = state.load_header()
            header = BucketHeader(self._settings_digest) if saved is None else BucketHeader.from_bytes(saved)
            if header.settings_digest != self._settings_digest:
                raise JoinerError(
                    f"the kept state was written with other settings than now (spec {self._spec.name}, "
                    f"slice_ms {self._schedule.slice_ms}, buckets {self._config.buckets}, "
                    f"late_retention_ms {self._config.late_retention_ms}, action_wait_ms {self._config.action_wait_ms}): "
                    f"go on with those it was written with. To change them, stop that job with `flink stop --drain` first, then "
                    f"submit jobs/joiner_job.py with the new ones and `flink run --allowNonRestoredState -s SAVEPOINT`: the "
                    f"uid of its operator is another, so it goes on at the offsets and leaves this state behind"
                )
            waiting = WaitingActions(header, self._config.waiting_bytes // self._config.buckets)
            memory = self._buckets[bucket] = Bucket(bucket, header, waiting, self.store)
            self._open_slices.update(header.slices.keys())
            # A drain leaves no timer.
            self._wake(memory, state)
        return memory
