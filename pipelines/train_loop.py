"""The trainer's loop: read, train, publish, checkpoint, until told to stop or the source ends.

It is given its parts and knows neither broker nor disk: ``jobs.train`` wires the real ones, tests a list, a log in
memory and a clock that they move.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from rillet.connectors.file_source import FILES_PARTITION
from rillet.connectors.metric_files import MetricFiles
from rillet.pipelines.batch_stage import BatchStage
from rillet.pipelines.checkpoints import Checkpoints
from rillet.pipelines.errors import BatchStageError
from rillet.pipelines.other_specs import OtherSpecs
from rillet.pipelines.publications import Publications
from rillet.pipelines.train_metrics import TrainMetrics
from rillet.pipelines.train_progress import MOST_REFUSED, TrainProgress
from rillet.schemas import BackpressureError, Sink, SpecRegistry, Stage, StageGroup
from rillet.trainer import BadRecord, BlockReader, ExampleSource, OnlineTrainer

log = logging.getLogger(__name__)

#: Longest wait for input; bounds how late a publication or the stop is seen to.
_WAIT_S = 0.05
_POLL_BATCHES = 4
_POLL_BLOCKS = 1000
#: a source that waits for longer than reconnecting takes is cut off from its broker
_CUT_OFF_MS = 5_000

Letter = TypeVar("Letter")


class TrainLoop(Generic[Letter]):
    """One trainer with its source, dead letters, publications and checkpoints."""

    def __init__(
        self,
        trainer: OnlineTrainer,
        specs: SpecRegistry,
        *,
        source: ExampleSource,
        letters: Sink[Letter],
        to_letter: Callable[[BadRecord], Letter],
        publications: Publications,
        checkpoints: Checkpoints,
        stages: Sequence[Stage],
        metrics: TrainMetrics,
        metric_files: MetricFiles,
        now_ms: Callable[[], int],
        batch_stage: BatchStage | None = None,
        in_batch: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        The loop owns ``source``, ``letters``, ``metric_files`` and ``stages``: it starts and closes them.

        :param specs: whose examples are learned from; the current one is the trainer's.
        :param source: gives examples from the trainer's positions on.
        :param letters: takes the records that cannot be trained on; reading waits while it is full.
        :param to_letter: what ``letters`` takes for a record.
        :param stages: what publications and checkpoints work on, such as the delta log; they start first, end last.
        :param now_ms: wall clock.
        :param batch_stage: what ``source`` begins with; its end is published as a base and saved at once, and no
            base is written before.
        :param in_batch: whether rows that follow the last ones are known to be there: a batch that is not full waits for
            them, however long they take to come.
        """
        self.metrics = metrics
        self._trainer = trainer
        self._config = trainer.config
        self._letters = letters
        self._to_letter = to_letter
        self._publications = publications
        self._checkpoints = checkpoints
        self._now_ms = now_ms
        self._in_batch = in_batch
        #: since when the source waits for something, None while all is well
        self._waiting_since_ms: int | None = None
        self._first_positions = dict(trainer.positions)
        self._planned_stage = batch_stage
        # None once it is over.
        self._batch_stage = None if batch_stage is None or batch_stage.finished(trainer.positions) else batch_stage
        # A server that starts from a base would serve a model that has learned from a part of the files, or from none.
        publications.hold_bases = self._batch_stage is not None
        self._reader = BlockReader(
            source,
            specs,
            on_bad=self._on_bad,
            max_rows=self._config.queue_rows,
            poll_rows=_POLL_BATCHES * self._config.batch_size,
            source_wait_s=_WAIT_S,
        )
        # Files that cannot be written are refused before anything else begins.
        self._stages = StageGroup([metric_files, *stages, letters, self._reader])
        self._progress = TrainProgress(
            trainer, self._reader, metrics=metrics, files=metric_files, stage=self._stage, now_ms=now_ms()
        )
        self._stop = threading.Event()
        self._refusal_told = False
        self._other_specs = OtherSpecs(trainer.spec, metrics.other_spec_records)

    @property
    def ready(self) -> bool:
        """Whether readers can follow what is learned, the batch stage, if there is one, is over, and rows come or could come.

        A trainer that refuses most rows is as of no use as one that stands still, and nothing else would show it.
        """
        learning = self._trainer.refused_share <= MOST_REFUSED and not self._cut_off()
        return self._publications.published and self._batch_stage is None and learning

    def _cut_off(self) -> bool:
        """Whether the source has been waiting for seconds, as it does while its broker is away."""
        if not self._reader.trouble:
            self._waiting_since_ms = None
            return False
        now = self._now_ms()
        if self._waiting_since_ms is None:
            self._waiting_since_ms = now
        return now - self._waiting_since_ms >= _CUT_OFF_MS

    def run(self, stop: threading.Event) -> None:
        """Trains until ``stop`` is set or the source ends; then publishes and saves once more; once.

        What is left of a batch is trained on when the source ends. On a stop it is not: its rows lie after the
        position that is saved, and are read again.

        All stages are closed then, whatever happened.

        :raises BackpressureError: it was stopped while there was no room for a refused row; nothing more is saved.
        :raises BatchStageError: the batch stage is over, and its base or its checkpoint is not safe.
        :raises RilletError: waiting does not help. Of a source that cannot be read, what was learned before is saved;
            otherwise, such as of a weight that is not finite, nothing more is.
        """
        self._stages.start()
        try:
            self._run(stop)
        except BaseException as error:
            self._checkpoints.close()
            # What ended the run is what is told, whatever else goes wrong on the way out.
            try:
                self._stages.close()
            except Exception as failure:
                error.add_note(f"and when closing: {type(failure).__name__}: {failure}")
            raise
        self._stages.close()

    def close(self) -> None:
        """Closes the stages of a loop that was not run. Saves nothing."""
        self._stages.close()

    def _run(self, stop: threading.Event) -> None:
        trainer, self._stop = self._trainer, stop
        self._publications.publish(self._now_ms())
        while not stop.is_set():
            # Asked before the poll: once it is false, the first records of the topic are in the reader's queue.
            in_batch = self._in_batch()
            try:
                blocks = self._reader.poll(_POLL_BLOCKS, _WAIT_S)
            except Exception as error:
                self._save_before(error)
                raise
            now = self._now_ms()
            if blocks is None:
                trainer.train(now, more=False, flush=True, on_refused=self._on_refused)
                break
            for block in blocks:
                trainer.offer(block.partition, block.offset, block.block, now)
            trainer.train(now, more=in_batch or bool(blocks), on_refused=self._on_refused)
            self.metrics.update(trainer)
            self._do_what_is_due(self._now_ms())
        # The reader is closed after what was learned is safe: it may be in the midst of a slow read.
        self.metrics.update(trainer)
        now = self._now_ms()
        self._progress.finish(now)
        self._other_specs.tell(self._reader.lag(self._trainer.positions))
        if ended := self._ends_with_files():
            self._leave_batch_stage()
        published = self._publications.publish(now, base=ended)
        saved = self._checkpoints.save(self._stop)
        written = self._publications.finish(now, stop)
        log.info("stopped at %s", trainer.positions)
        if ended and not (published and saved and written):
            safe = {"the publication": published, "the checkpoint": saved, "the base": written}
            raise BatchStageError(
                f"the batch stage is over, but {' and '.join(name for name, done in safe.items() if not done)} failed, see"
                " the log: start the same command again once that is mended"
            )

    def _ends_with_files(self) -> bool:
        """Whether the model has learned from all rows of the batch stage and from nothing else."""
        stage, positions = self._planned_stage, self._trainer.positions
        return stage is not None and stage.finished(positions) and set(positions) == {FILES_PARTITION}

    def _save_before(self, error: Exception) -> None:
        """What was learned before reading failed is sound, and hours of a batch stage; but is not saved a second time."""
        if self._trainer.positions == self._first_positions:
            return
        try:
            self._checkpoints.save(self._stop)
        except Exception as failure:
            error.add_note(f"and when saving: {type(failure).__name__}: {failure}")

    def _do_what_is_due(self, now: int) -> None:
        self._cut_off()  # notes when the trouble began, whether or not somebody asks
        if self._batch_stage is not None and self._batch_stage.finished(self._trainer.positions):
            self._end_batch_stage(now)
        self._publications.publish_if_due(now)
        self._checkpoints.save_if_due()
        if self._progress.report_if_due(now):
            self._refusal_told = False
            self._other_specs.tell(self._reader.lag(self._trainer.positions))

    def _end_batch_stage(self, now: int) -> None:
        """The model as the files have made it: a base of it, and a checkpoint from which no file is read again."""
        self._progress.report(now)
        self._leave_batch_stage()
        log.info("the batch stage is over, going on with the topic")
        self._publications.publish(now, base=True)
        self._checkpoints.save(self._stop)

    def _leave_batch_stage(self) -> None:
        self._batch_stage = None
        self._publications.hold_bases = False

    def _stage(self) -> str:
        """What a progress line begins with."""
        return f"batch stage {self._batch_stage.share(self._trainer.positions):.1%}, " if self._batch_stage else ""

    def _on_bad(self, bad: BadRecord) -> None:
        """In the reading thread."""
        if self._other_specs.passes_over(bad):
            return
        self._letters.submit(self._to_letter(bad))
        self.metrics.bad_records.inc()
        record = bad.record
        log.warning("partition %d offset %d is a dead letter: %s", record.partition, record.offset, bad.error)

    def _on_refused(self, bad: BadRecord) -> None:
        """In the training thread, which waits while there is no room: no position passes the row before."""
        letter = self._to_letter(bad)
        while True:
            try:
                self._letters.submit(letter)
                break
            except BackpressureError:
                if self._stop.wait(_WAIT_S):
                    raise
        # There may be thousands a second: one is told between two progress lines, which tell how many there were.
        if not self._refusal_told:
            self._refusal_told = True
            record = bad.record
            log.warning("partition %d offset %d: %s; it is a dead letter", record.partition, record.offset, bad.error)
