"""The dump's loop: read, write, commit, until told to stop or the source ends.

It is given its parts and knows no broker: ``jobs.dump`` wires the real ones, tests a list and a storage that fails. The
manifest on the storage holds the offsets, and nothing else does: no consumer group, no file of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from rillet.connectors.example_writer import ExampleWriter
from rillet.pipelines.other_specs import OtherSpecs
from rillet.schemas import FlushTimeoutError, Sink, SpecRegistry, StageGroup
from rillet.sync import StoreUnavailableError
from rillet.trainer import BadRecord, BlockReader, ExampleSource, Positions, ReadBlock

log = logging.getLogger(__name__)

#: longest wait for input; bounds how late a commit or the stop is seen to
_WAIT_S = 0.05
_POLL_BLOCKS = 1000
#: decoded rows that wait in memory beside those of the group
_QUEUE_ROWS = 65_536
_LETTERS_TIMEOUT_S = 30.0
#: between two attempts while the storage is away
_RETRY_S = 5.0

Letter = TypeVar("Letter")


class DumpMetrics:
    """What the dump tells Prometheus; counters start at 0 with the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            return Counter(f"rillet_dump_{name}", text, registry=self.registry)

        self.rows = counter("rows", "Example rows committed.")
        self.files = counter("files", "Files committed.")
        self.bytes = counter("bytes", "Bytes of files committed.")
        self.commits = counter("commits", "Commits.")
        self.bad_records = counter("bad_records", "Example records sent to the dead letters.")
        self.other_spec_records = counter("other_spec_records", "Example records of another feature spec, passed over.")
        self.failures = counter("storage_failures", "Attempts to write that failed; each is made again.")
        self.uncommitted = Gauge("rillet_dump_uncommitted_rows", "Rows read since the commit.", registry=self.registry)


class DumpLoop(Generic[Letter]):
    """One dump with its source, dead letters and files."""

    def __init__(
        self,
        writer: ExampleWriter,
        specs: SpecRegistry,
        *,
        source: Callable[[Positions], ExampleSource],
        letters: Sink[Letter],
        to_letter: Callable[[BadRecord], Letter],
        metrics: DumpMetrics,
        starts: Callable[[], dict[int, int]],
        commit_interval_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        """
        The loop starts and closes its source and ``letters``.

        :param specs: the current one is that of the files; records of the others are written as its own.
        :param source: makes the source of records from given positions on.
        :param letters: takes the records that cannot be used; reading waits while it is full.
        :param starts: first offset of each partition of the topic. The manifest names every partition, so that a record
            which a partition gets later cannot be deleted unread without anybody noticing.
        :param commit_interval_ms: rows count, and may be trained on, so long after they were read at the latest.
        :param now_ms: a clock that is never set back; only differences count.
        """
        self.metrics = metrics
        self._writer = writer
        self._specs = specs
        self._make_source = source
        self._starts = starts
        self._letters = letters
        self._to_letter = to_letter
        self._commit_interval_ms = commit_interval_ms
        self._now_ms = now_ms
        self._last_commit_ms = now_ms()
        self._next_offsets: dict[int, int] = {}
        self._bad_records = 0
        self._ready = False
        self._other_specs = OtherSpecs(specs.current, metrics.other_spec_records)

    @property
    def ready(self) -> bool:
        """Whether it reads."""
        return self._ready

    def run(self, stop: threading.Event) -> None:
        """Dumps until ``stop`` is set or the source ends, and commits what was read; once.

        While the storage is away it waits, and reading with it. On a stop what cannot be written is given up, and read
        again by the next start.

        :raises ExampleFilesError: the files are of another spec or topic, or another dump has taken them over.
        :raises StoreUnavailableError: at the start, or when there is no time left to wait.
        :raises FlushTimeoutError: at the end, dead letters were not delivered; what was read since the last commit is
            read again by the next start.
        :raises RilletError: waiting does not help, such as a position that is gone from the topic.
        """
        manifest = self._writer.open()
        log.info(
            "writing to %s: %d rows are there, going on at %s", self._writer.url, manifest.rows, manifest.next_offsets
        )
        positions: Positions = {partition: (offset, 0) for partition, offset in manifest.next_offsets.items()}
        reader = BlockReader(
            self._make_source(positions),
            self._specs,
            on_bad=self._on_bad,
            max_rows=_QUEUE_ROWS,
            source_wait_s=_WAIT_S,
        )
        stages = StageGroup([self._letters, reader])
        stages.start()
        try:
            self._next_offsets = {n: first for n, first in self._starts().items() if n not in manifest.next_offsets}
            self._ready = True
            while not stop.is_set() and (blocks := reader.poll(_POLL_BLOCKS, _WAIT_S)) is not None:
                for block in blocks:
                    self._take(block, stop)
                self.metrics.uncommitted.set(self._writer.uncommitted_rows)
                if self._now_ms() - self._last_commit_ms >= self._commit_interval_ms:
                    self._commit_if_possible(stop)
                    self._other_specs.tell(reader.lag(self._positions()))
            self._commit()
            self._other_specs.tell(reader.lag(self._positions()))
            log.info("stopped at %s", self._writer.manifest.next_offsets)
        finally:
            self._ready = False
            stages.close()

    def _positions(self) -> Positions:
        """After the last record that was read."""
        offsets = self._writer.manifest.next_offsets | self._next_offsets
        return {partition: (offset, 0) for partition, offset in offsets.items()}

    def _take(self, record: ReadBlock, stop: threading.Event) -> None:
        self._writer.add(record)
        self._next_offsets[record.partition] = record.offset + 1
        self._bad_records += record.block is None
        while self._writer.full:
            try:
                self._writer.write_group()
            except StoreUnavailableError as error:
                self._note(error)
                if stop.wait(_RETRY_S):
                    raise

    def _commit_if_possible(self, stop: threading.Event) -> None:
        """What fails is tried again after a while, with what was read meanwhile."""
        self._last_commit_ms = self._now_ms()
        try:
            self._commit()
        except StoreUnavailableError as error:
            self._note(error)
            stop.wait(_RETRY_S)
        except FlushTimeoutError as error:
            log.warning("not committed: %s", error)

    def _commit(self) -> None:
        if not self._next_offsets:
            return
        # The offsets pass refused records: their letters have to be safe first.
        self._letters.flush(_LETTERS_TIMEOUT_S)
        before = self._writer.manifest
        after = self._writer.commit(self._next_offsets, bad_records=self._bad_records)
        self._next_offsets, self._bad_records = {}, 0
        new = after.files[len(before.files) :]
        rows = sum(file.rows for file in new)
        self.metrics.commits.inc()
        self.metrics.files.inc(len(new))
        self.metrics.rows.inc(rows)
        self.metrics.bytes.inc(sum(file.bytes for file in new))
        self.metrics.uncommitted.set(0)
        log.info("%d rows in %d files committed, %d in all, at %s", rows, len(new), after.rows, after.next_offsets)

    def _note(self, error: StoreUnavailableError) -> None:
        self.metrics.failures.inc()
        log.warning("not written, trying again: %s", error)

    def _on_bad(self, bad: BadRecord) -> None:
        """In the reading thread."""
        if self._other_specs.passes_over(bad):
            return
        self._letters.submit(self._to_letter(bad))
        self.metrics.bad_records.inc()
        record = bad.record
        log.warning("partition %d offset %d is a dead letter: %s", record.partition, record.offset, bad.error)
