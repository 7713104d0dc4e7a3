"""How the windows of a bucket close: in steps as time goes on, or all at once in a drain.

A step covers requests by number, whenever it is called, so blocks do not depend on watermarks. What is due when is said by
``joiner/works.py``, forgetting requests and giving up actions among it.
"""

from __future__ import annotations

from collections.abc import Iterator

from rillet.joiner.blocks import BlockBuilder
from rillet.joiner.bucket import Bucket
from rillet.joiner.buckets import Buckets
from rillet.joiner.config import JoinerConfig
from rillet.joiner.counters import Counters
from rillet.joiner.entry import Entry
from rillet.joiner.header import Work, WorkKind
from rillet.joiner.sampling import Sampling
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import BucketState
from rillet.joiner.store import SliceStore
from rillet.joiner.works import next_close_at_once, next_work
from rillet.schemas import ExampleBlock, FeatureSpec

#: requests, or waiting actions, that one call closes or forgets; and the bytes of requests from which on it takes no more
STEP_REQUESTS, STEP_BYTES = 128, 1 << 20


class Closing:
    """Closes the windows of buckets.

    :param builder: builds the blocks.
    :param step_requests: requests that one step, and one call of :meth:`advance`, closes or forgets; a block is of one step.
    :param step_bytes: bytes of requests from which on either takes no more.
    :param left_out: tasks of which no row goes out.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        config: JoinerConfig,
        buckets: Buckets,
        store: SliceStore,
        builder: BlockBuilder,
        counters: Counters,
        step_requests: int = STEP_REQUESTS,
        step_bytes: int = STEP_BYTES,
        left_out: frozenset[int] = frozenset(),
    ) -> None:
        self._buckets, self._store, self._builder, self._counters = buckets, store, builder, counters
        self._step_requests, self._step_bytes = step_requests, step_bytes
        self._left_out = left_out
        self._schedule = SliceSchedule(spec, config)
        self._sampling = Sampling(spec)
        self._block_rows, self._negatives_at_end = config.block_rows, config.negatives_at_end
        self._immediate = frozenset(index for index, task in enumerate(spec.tasks) if task.labels == "immediate")
        self._aligned = frozenset(index for index, task in enumerate(spec.tasks) if task.labels == "aligned")
        #: tasks of which rows go out at the close of a window
        self.tasks = tuple(index for index in range(len(spec.tasks)) if index not in self._immediate)

    def is_closed(self, memory: Bucket, entry: Entry, task: int) -> bool:
        """Whether the window of a request has closed for a task: its own step of the close has run, or a drain."""
        header, slice_ = memory.header, entry.slice_
        if entry.n < header.slices[slice_].drained and task not in self._immediate:
            return True
        work = header.in_progress(WorkKind.CLOSE, slice_, task)
        if work is not None:
            return entry.n < work.done
        return header.is_past(self._schedule.close_ms(slice_, task), slice_, task)

    def was_sent(self, memory: Bucket, entry: Entry, task: int) -> bool:
        """Whether the negatives of a closed request went out that the sample keeps: they may have been left out, or a drain may
        have discarded them."""
        discarded = memory.header.slices[entry.slice_].discarded
        return not any(part.task == task and part.first <= entry.n < part.end for part in discarded)

    def advance(self, memory: Bucket, time_ms: int, state: BucketState) -> list[ExampleBlock]:
        """Takes a step of what is due by a time: closes windows, forgets requests, gives up actions."""
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
            memory.waiting.release_slots()
            state.save_header(header.to_bytes())
        return blocks

    def drain(self, memory: Bucket, state: BucketState) -> Iterator[ExampleBlock]:
        """Closes every window that is open, and gives up the actions that wait, as the blocks are asked for.

        No time passes: how many requests of a slice were closed is noted, and they are remembered as long as ever.
        """
        header = memory.header
        while header.work is not None and header.work.kind is WorkKind.CLOSE:
            if header.work.task in self.tasks:
                yield from self._drain_close(memory, header.work, state)
            header.work = next_close_at_once(header, self._schedule, header.work)
        for slice_, open_slice in sorted(header.slices.items()):
            for task in self.tasks:
                if self._schedule.close_ms(slice_, task) > header.closed_ms:
                    work = Work(WorkKind.CLOSE, slice_, task, open_slice.drained)
                    yield from self._drain_close(memory, work, state)
            open_slice.drained = memory.count(slice_, state)
        for slice_, waiting in sorted(header.waiting.items()):
            self._counters.orphan_actions += memory.waiting.give_up(slice_, waiting, state)
        if header.work is not None and header.work.kind is WorkKind.GIVE_UP:
            header.work = None
        memory.waiting.release_slots()
        state.save_header(header.to_bytes())

    def window_rows(
        self, bucket: int, entries: list[Entry], task: int, discard_negatives: bool = False
    ) -> list[ExampleBlock]:
        """The rows that requests give when their windows close: sampled negatives, and the positives of aligned tasks."""
        if not entries:
            return []
        kept = [entry.negatives(task) for entry in entries]
        if discard_negatives:
            self._counters.discarded_at_end += sum(len(indices) for indices in kept)
            kept = [indices[:0] for indices in kept]
        else:
            kept = self._sampling.of_requests([entry.event for entry in entries], kept, task)
        build = self._builder.aligned if task in self._aligned else self._builder.negatives
        self._counters.negatives += sum(len(indices) for indices in kept)
        return build(bucket, entries, kept, task, self._block_rows)

    def _step(self, memory: Bucket, work: Work, state: BucketState, blocks: list[ExampleBlock]) -> int:
        """Does some of a work, adds the rows that it gives, and says how much of a call it has taken, in requests."""
        header, slice_ = memory.header, work.slice_
        if work.kind is WorkKind.CLOSE:
            took = 0
            if work.task not in self._immediate:
                rows, closed = self._close_some(memory, work, state)
                blocks += rows
                took = self._took(closed)
            if work.task in self._immediate or work.done >= memory.count(slice_, state):
                header.work = next_close_at_once(header, self._schedule, work)
            return took
        if work.kind is WorkKind.FORGET:
            forgotten = memory.forget(slice_, work.done, self._step_requests, self._step_bytes, state)
            work.done += len(forgotten)
            if work.done >= memory.count(slice_, state):
                header.work = None
                self._buckets.close_slice(memory, slice_)
            return max(self._took(forgotten), sum(entry.gathering.bit_count() for entry in forgotten))
        done = memory.waiting.give_up(slice_, self._step_requests, state)
        self._counters.orphan_actions += done
        if slice_ not in header.waiting:
            header.work = None
        return done

    def _took(self, entries: list[Entry]) -> int:
        """How much of a call requests have taken: by their number or by their bytes, whichever is more."""
        return max(len(entries), sum(entry.size_bytes for entry in entries) * self._step_requests // self._step_bytes)

    def _close_some(
        self, memory: Bucket, work: Work, state: BucketState, at_end: bool = False
    ) -> tuple[list[ExampleBlock], list[Entry]]:
        """Closes the next requests of a slice for a task; the rows, and the requests."""
        first = work.done
        read = memory.read(work.slice_, first, self._step_requests, self._step_bytes, state)
        work.done += len(read)
        at_end = at_end and self._negatives_at_end == "discard"
        if at_end or work.task in self._left_out:
            memory.header.slices[work.slice_].discard(work.task, first, work.done)
        if work.task in self._left_out:
            return [], read
        cold = [entry for entry in read if not entry.decoded]
        for entry in cold:
            entry.decode(self._store.decode)
        # In order of time, so that a block does not depend on how the requests of a step came in.
        entries = sorted(read, key=lambda e: (e.event.event_time_ms, e.request_id))
        blocks = self.window_rows(memory.number, entries, work.task, at_end)
        for entry in cold:
            entry.release()
        return blocks, read

    def _drain_close(self, memory: Bucket, work: Work, state: BucketState) -> Iterator[ExampleBlock]:
        """Closes what is left of a slice for a task, step by step."""
        while work.done < memory.count(work.slice_, state):
            yield from self._close_some(memory, work, state, at_end=True)[0]
