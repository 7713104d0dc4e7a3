"""The buckets of a subtask that were touched since its start, and what is known of all of them together."""

from __future__ import annotations

from collections import Counter

from rillet.joiner.bucket import Bucket
from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError
from rillet.joiner.header import BucketHeader, OpenSlice
from rillet.joiner.kept_state import KeptSettings
from rillet.joiner.slices import SliceSchedule
from rillet.joiner.state import BucketState
from rillet.joiner.store import SliceStore
from rillet.joiner.waiting import WaitingActions
from rillet.schemas import FeatureSpec


class Buckets:
    """Buckets by number."""

    def __init__(self, spec: FeatureSpec, config: JoinerConfig, store: SliceStore) -> None:
        self._spec, self._config, self._store = spec, config, store
        self._schedule = SliceSchedule(spec, config)
        self._settings_digest = KeptSettings.of(spec, config).digest
        self._buckets: dict[int, Bucket] = {}
        #: how many buckets have each slice open
        self._open_slices: Counter[int] = Counter()

    def get(self, number: int, state: BucketState) -> Bucket:
        """A bucket; at the first touch after a start its header is read, and the actions that wait.

        :raises JoinerError: the header was written under other settings.
        """
        memory = self._buckets.get(number)
        if memory is None:
            memory = self._buckets[number] = self._read(number, state)
        return memory

    def open_slice(self, memory: Bucket, slice_: int) -> None:
        """A bucket has a first request of a slice."""
        memory.header.slices[slice_] = OpenSlice(exact=True)
        self._open_slices[slice_] += 1

    def close_slice(self, memory: Bucket, slice_: int) -> None:
        """The last request of a bucket's slice is forgotten."""
        memory.close_slice(slice_)
        self._open_slices[slice_] -= 1
        if not self._open_slices[slice_]:
            del self._open_slices[slice_]

    def next_close_ms(self, watermark_ms: int) -> int | None:
        """The watermark at which the next label window closes after one, None where none is open."""
        schedule, tasks = self._schedule, range(len(self._spec.tasks))
        closes = (schedule.close_ms(slice_, task) for slice_ in self._open_slices for task in tasks)
        return min((close_ms for close_ms in closes if close_ms > watermark_ms), default=None)

    @property
    def open_requests(self) -> int:
        """Requests that are remembered."""
        return sum(one.count for memory in self._buckets.values() for one in memory.header.slices.values())

    @property
    def waiting_actions(self) -> int:
        """Actions that wait for their feature event."""
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
        """Forgets what is in memory, as a start would."""
        self._buckets.clear()
        self._open_slices.clear()

    def _read(self, number: int, state: BucketState) -> Bucket:
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
        waiting = WaitingActions(header, self._config.waiting_bytes // self._config.buckets, state)
        memory = Bucket(number, header, waiting, self._store)
        self._open_slices.update(header.slices.keys())
        # A drain leaves no timer.
        memory.wake(self._schedule, state)
        return memory
