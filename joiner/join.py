"""The online joiner as pure logic (Monolith, section 3.1.1): the engine calls it, it returns what to emit.

What the join means is defined in ``docs/join.md``. The joiner knows no clock, no topic and no engine: records
come in with their bucket, time comes as watermarks, and what must survive a crash goes through
:class:`BucketState`. The same records in the same order give the same blocks, whenever the watermarks
come, as long as no record is late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.config import JoinerConfig
from rillet.joiner.counters import Counters, NameCounts
from rillet.joiner.entry import Entry, pack_positives
from rillet.joiner.errors import JoinerError
from rillet.joiner.kept_state import KeptSettings
from rillet.joiner.sampling import highest_kept, keeps, request_hash
from rillet.joiner.slices import MAX_OPEN_SLICES, SliceSchedule
from rillet.joiner.state import (
    NEVER_MS,
    BucketHeader,
    BucketState,
    EntryKind,
    pack_entry,
    pack_positives_entry,
    pack_waiting_entry,
    unpack_entry,
    unpack_positives_entry,
)
from rillet.joiner.store import SliceStore
from rillet.joiner.waiting import WaitingActions
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    check_event,
    decode_as,
    decode_event,
)
from rillet.schemas.arrays import Int64s

#: the watermark of the end of a bounded stream and of ``stop --drain`` (Flink's Long.MAX_VALUE)
END_OF_TIME_MS = (1 << 63) - 1


class _Bucket(NamedTuple):
    """The joiner's memory of one bucket, beside the entries in the store."""

    header: BucketHeader
    waiting: WaitingActions


class Joiner:
    """Joins feature and action events of many buckets into example blocks.

    :param directory: for the disk tier, made when first needed; must not exist.
    :param builder: builds the blocks; by default all rows go out with the event that they are due to.
    """

    def __init__(
        self, spec: FeatureSpec, config: JoinerConfig, directory: Path, builder: BlockBuilder | None = None
    ) -> None:
        self.counters = Counters()
        #: ``counters.unknown_actions`` by the names of the actions
        self.unknown_actions = NameCounts()
        self.store = SliceStore(config.memory_bytes, directory)
        self._spec = spec
        self._config = config
        self._schedule = SliceSchedule(spec, config)
        self._builder = builder or BlockBuilder(spec, config.block_bytes)
        self._tasks_of: dict[str, list[int]] = {}
        for index, task in enumerate(spec.tasks):
            self._tasks_of.setdefault(task.action, []).append(index)
        self._immediate = tuple(index for index, task in enumerate(spec.tasks) if task.labels == "immediate")
        self._all_kept = all(spec.tasks[task].negative_rate >= 1 for task in self._immediate)
        #: what :func:`keeps` needs of the immediate tasks, uint64[k, 1]
        self._highest = np.array(
            [[highest_kept(spec.tasks[task].negative_rate)] for task in self._immediate], np.uint64
        ).reshape(-1, 1)
        self._aligned = frozenset(index for index, task in enumerate(spec.tasks) if task.labels == "aligned")
        #: tasks of which rows go out at the close of a window
        self._closing = tuple(index for index in range(len(spec.tasks)) if index not in self._immediate)
        self._buckets: dict[int, _Bucket] = {}
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
            return self._on_feature(bucket, event, data, ingest_ms, state)
        return self._on_action(bucket, event, data, ingest_ms, state)

    def on_watermark(self, bucket: int, due_ms: int, watermark_ms: int, state: BucketState) -> list[ExampleBlock]:
        """The watermark has reached a time that was asked for: closes slices, forgets what has expired.

        :param due_ms: the time asked for.
        :param watermark_ms: the watermark now, at or after ``due_ms``.
        """
        memory = self._bucket(bucket, state)
        header = memory.header
        if watermark_ms == END_OF_TIME_MS:
            # Everything closes, but no time has passed: a job that goes on after a drain must not take its windows
            # for closed.
            due_ms, before = END_OF_TIME_MS, header.closed_ms
            header.drained_slice = max(header.drained_slice, *header.slices, NEVER_MS)
        else:
            before, header.closed_ms = header.closed_ms, max(header.closed_ms, due_ms)
        blocks: list[ExampleBlock] = []
        for slice_ in sorted(header.slices):
            for task in self._closing:
                if before < self._schedule.close_ms(slice_, task) <= due_ms:
                    blocks += self._close(bucket, slice_, task, at_end=watermark_ms == END_OF_TIME_MS)
            if self._schedule.expiry_ms(slice_) <= due_ms:
                header.slices.discard(slice_)
                self.store.drop(slice_, bucket)
                state.clear("features", slice_, header.slices)
        for slice_ in sorted(header.waiting_slices):
            if self._schedule.waiting_expiry_ms(slice_) <= due_ms:
                header.waiting_slices.discard(slice_)
                state.clear("waiting", slice_, header.waiting_slices)
                self.counters.orphan_actions += memory.waiting.give_up(slice_)
        state.save_header(header.to_bytes())
        return blocks

    def next_due_ms(self, bucket: int, state: BucketState) -> int | None:
        """The earliest watermark at which something is left to be done in a bucket, None where nothing is."""
        header, schedule = self._bucket(bucket, state).header, self._schedule
        due = [due_ms for slice_ in header.slices for due_ms in schedule.timers_ms(slice_) if due_ms > header.closed_ms]
        due += [schedule.waiting_expiry_ms(slice_) for slice_ in header.waiting_slices]
        return min(due, default=None)

    def newest_ms(self, bucket: int, state: BucketState) -> int:
        """An event time that the bucket has certainly seen, at most a slice before its newest; NEVER_MS without any."""
        header = self._bucket(bucket, state).header
        newest = max(header.slices | header.waiting_slices, default=None)
        return header.closed_ms if newest is None else max(header.closed_ms, newest * self._schedule.slice_ms)

    def next_close_ms(self, watermark_ms: int) -> int | None:
        """The watermark at which the next label window closes of the requests that are remembered, None without any."""
        schedule, tasks = self._schedule, range(len(self._spec.tasks))
        closes = (schedule.close_ms(slice_, task) for slice_ in self.store.slices() for task in tasks)
        return min((close_ms for close_ms in closes if close_ms > watermark_ms), default=None)

    @property
    def waiting_actions(self) -> int:
        """Actions that wait for their feature event; of buckets that were touched since the start."""
        return sum(len(memory.waiting) for memory in self._buckets.values())

    @property
    def waiting_bytes(self) -> int:
        """What they cost in memory, by estimate."""
        return sum(memory.waiting.used_bytes for memory in self._buckets.values())

    def oldest_waiting_ms(self) -> int | None:
        """Event time of the action that has waited longest; None while none waits."""
        oldest = (memory.waiting.oldest_ms() for memory in self._buckets.values())
        return min((time_ms for time_ms in oldest if time_ms is not None), default=None)

    def close(self) -> None:
        """Releases the local store."""
        self.store.close()

    def _on_feature(
        self, bucket: int, event: FeatureEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        memory = self._bucket(bucket, state)
        header = memory.header
        slice_ = self._schedule.slice_of(event.event_time_ms)
        if self.store.find(bucket, event.request_id) is not None:
            self.counters.duplicate_features += 1
            return []
        if self._schedule.expiry_ms(slice_) <= header.closed_ms:
            # Whether it was seen before is no longer known, so no row may be made of it.
            raise RecordError(f"event_time_ms: {event.event_time_ms} is later than every label window")
        if slice_ <= header.drained_slice:
            raise RecordError(f"event_time_ms: {event.event_time_ms} lies in a slice that a drain has closed")
        self._check_room(header.slices, slice_, event.event_time_ms)
        self.counters.features += 1
        entry = Entry(event, ingest_ms)
        self.store.put(slice_, bucket, entry)
        state.append("features", slice_, pack_entry(EntryKind.FEATURE, ingest_ms, data))
        if slice_ not in header.slices:
            header.slices.add(slice_)
            state.save_header(header.to_bytes())
            for due_ms in self._schedule.timers_ms(slice_):
                if due_ms > header.closed_ms:
                    state.wake_at(due_ms)
        blocks = self._provisional(bucket, entry) if self._immediate else []
        waited = memory.waiting.take(event.request_id)
        self.counters.matched_later += len(waited)
        # The request may be forgotten before the actions are: a restart must not let them wait again.
        for waiting_slice in dict.fromkeys(self._schedule.slice_of(w.action.event_time_ms) for w in waited):
            arrived = pack_entry(EntryKind.ARRIVED, ingest_ms, event.request_id.encode())
            state.append("waiting", waiting_slice, arrived)
        for waiting in waited:
            blocks += self._label(bucket, slice_, entry, waiting.action, waiting.ingest_ms, state, closed_ms=NEVER_MS)
        for task in self._closing:
            if self._schedule.close_ms(slice_, task) <= header.closed_ms:
                blocks += self._window_rows(bucket, [entry], task)
        return blocks

    def _on_action(
        self, bucket: int, action: ActionEvent, data: bytes, ingest_ms: int, state: BucketState
    ) -> list[ExampleBlock]:
        if action.action not in self._tasks_of:
            self.counters.actions += 1
            if action.action in self._spec.actions:
                self.counters.history_actions += 1
            else:
                self.counters.unknown_actions += 1
                self.unknown_actions.add(action.action)
            return []
        memory = self._bucket(bucket, state)
        header = memory.header
        found = self.store.find(bucket, action.request_id)
        if found is not None:
            self.counters.actions += 1
            slice_, entry = found
            return self._label(bucket, slice_, entry, action, ingest_ms, state, header.closed_ms)
        slice_ = self._schedule.slice_of(action.event_time_ms)
        expired = self._schedule.waiting_expiry_ms(slice_) <= header.closed_ms
        if not expired:
            self._check_room(header.waiting_slices, slice_, action.event_time_ms)
            memory.waiting.check_room(data)
        self.counters.actions += 1
        self.counters.unmatched_actions += 1
        if expired:
            self.counters.orphan_actions += 1
            return []
        number = memory.waiting.add(action, ingest_ms, data)
        state.append("waiting", slice_, pack_entry(EntryKind.WAITING, ingest_ms, pack_waiting_entry(number, data)))
        if slice_ not in header.waiting_slices:
            header.waiting_slices.add(slice_)
            state.save_header(header.to_bytes())
            state.wake_at(self._schedule.waiting_expiry_ms(slice_))
        return []

    def _check_room(self, open_slices: set[int], slice_: int, event_time_ms: int) -> None:
        """What a bucket's header and timers cost is bounded, whatever times events name.

        :raises RecordError: the bucket has as many slices open as it may.
        """
        if slice_ not in open_slices and len(open_slices) >= MAX_OPEN_SLICES:
            raise RecordError(
                f"event_time_ms: {event_time_ms} would open slice {len(open_slices) + 1:,} of its bucket, "
                f"at most {MAX_OPEN_SLICES:,} may be open: are its times spread over years, or is [joiner] slice_ms "
                f"({self._schedule.slice_ms}) too short for how far apart the topics are read ([flink] max_drift_ms)?"
            )

    def _label(
        self,
        bucket: int,
        slice_: int,
        entry: Entry,
        action: ActionEvent,
        ingest_ms: int,
        state: BucketState,
        closed_ms: int,
    ) -> list[ExampleBlock]:
        """Makes pairs positive by an action on a known request, one for each task that asks for it.

        :returns: the rows that go out with the action; those of aligned tasks wait for the close of the window.
        """
        index = entry.index_of(action.impression_id)
        if index < 0:
            self.counters.unknown_impressions += 1
            return []
        blocks: list[ExampleBlock] = []
        positives_before = entry.positives
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
            late = self._schedule.close_ms(slice_, task) <= closed_ms
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
            blocks += self._builder.positive(bucket, entry, index, task, kind, action.event_time_ms, ingest_ms)
        if entry.positives != positives_before:
            self.store.update(slice_, bucket, entry)
            positives = pack_positives(entry.positives)
            body = pack_positives_entry(entry.event.request_id, positives, action.event_time_ms)
            state.append("features", slice_, pack_entry(EntryKind.POSITIVES, ingest_ms, body))
        return blocks

    def _emits_late(self, entry: Entry, index: int, task: int) -> bool:
        """Whether a late action makes a row of a pair, by its task and, where that asks, by whether its negative went out."""
        settings = self._spec.tasks[task]
        if settings.late != "emit_unsampled":
            return settings.late == "emit"
        request = request_hash(self._spec.sampling_seed, settings.name, entry.event.request_id)
        impression = entry.event.impression_ids[index : index + 1]
        return not keeps(np.array([request], np.uint64), impression, highest_kept(settings.negative_rate))[0]

    def _provisional(self, bucket: int, entry: Entry) -> list[ExampleBlock]:
        """The provisional negatives of a request that has just come, for the tasks whose labels are immediate."""
        tasks, event = self._immediate, entry.event
        if self._all_kept:
            chosen = np.ones((len(tasks), len(event.impression_ids)), np.bool_)
        else:
            seed = self._spec.sampling_seed
            hashes = [request_hash(seed, self._spec.tasks[task].name, event.request_id) for task in tasks]
            chosen = keeps(np.array(hashes, np.uint64)[:, None], event.impression_ids, self._highest)
        self.counters.provisional_negatives += int(np.count_nonzero(chosen))
        return self._builder.provisional(bucket, entry, tasks, chosen, self._config.block_rows)

    def _close(self, bucket: int, slice_: int, task: int, at_end: bool) -> list[ExampleBlock]:
        # In order of time, so that a block does not depend on how partitions were interleaved.
        entries = sorted(self.store.scan(slice_, bucket), key=lambda e: (e.event.event_time_ms, e.event.request_id))
        discard = at_end and self._config.negatives_at_end == "discard"
        return self._window_rows(bucket, entries, task, discard)

    def _window_rows(
        self, bucket: int, entries: list[Entry], task: int, discard_negatives: bool = False
    ) -> list[ExampleBlock]:
        """The rows that requests give when their windows close: sampled negatives, and the positives of aligned tasks."""
        if not entries:
            return []
        kept = [entry.negatives(task) for entry in entries]
        rate = self._spec.tasks[task].negative_rate
        if discard_negatives:
            self.counters.discarded_at_end += sum(len(indices) for indices in kept)
            kept = [indices[:0] for indices in kept]
        elif rate < 1:
            kept = self._sample(entries, kept, task, rate)
        build = self._builder.aligned if task in self._aligned else self._builder.negatives
        self.counters.negatives += sum(len(indices) for indices in kept)
        return build(bucket, entries, kept, task, self._config.block_rows)

    def _sample(self, entries: list[Entry], negatives: list[Int64s], task: int, rate: float) -> list[Int64s]:
        name, seed = self._spec.tasks[task].name, self._spec.sampling_seed
        counts = [len(indices) for indices in negatives]
        hashes = np.fromiter((request_hash(seed, name, e.event.request_id) for e in entries), np.uint64, len(entries))
        ids = np.concatenate([e.event.impression_ids[i] for e, i in zip(entries, negatives, strict=True)])
        keep = keeps(np.repeat(hashes, counts), ids, highest_kept(rate))
        parts = np.split(keep, np.cumsum(counts)[:-1])
        return [indices[part] for indices, part in zip(negatives, parts, strict=True)]

    def _bucket(self, bucket: int, state: BucketState) -> _Bucket:
        """The bucket's memory, rebuilt from the checkpointed state at the first touch after a start."""
        memory = self._buckets.get(bucket)
        if memory is None:
            saved = state.load_header()
            header = BucketHeader(self._settings_digest) if saved is None else BucketHeader.from_bytes(saved)
            if header.settings_digest != self._settings_digest:
                raise JoinerError(
                    f"the kept state was written with other settings than now (spec {self._spec.name}, "
                    f"slice_ms {self._schedule.slice_ms}, buckets {self._config.buckets}, "
                    f"late_retention_ms {self._config.late_retention_ms}, action_wait_ms {self._config.action_wait_ms}): "
                    f"go on with those it was written with; to change them, stop that job with `flink stop --drain` first, and "
                    f"submit this one with `flink run --allowNonRestoredState -s SAVEPOINT`"
                )
            memory = _Bucket(header, WaitingActions(self._schedule, self._config.waiting_bytes // self._config.buckets))
            for slice_ in sorted(header.slices):
                for entry in _rebuild_entries(state.read("features", slice_), self._aligned):
                    self.store.engine_reads += 1
                    self.store.put(slice_, bucket, entry)
            memory.waiting.restore(header.waiting_slices, state)
            self._buckets[bucket] = memory
        return memory


def _rebuild_entries(saved: Iterable[bytes], aligned: frozenset[int]) -> Iterator[Entry]:
    entries: dict[str, Entry] = {}
    for kind, ingest_ms, body in map(unpack_entry, saved):
        if kind is EntryKind.FEATURE:
            event = decode_as(FeatureEvent, body)
            entries[event.request_id] = Entry(event, ingest_ms)
        else:
            request_id, positives, action_time_ms = unpack_positives_entry(body)
            entries[request_id].restore(positives, action_time_ms, ingest_ms, aligned)
    return iter(entries.values())
