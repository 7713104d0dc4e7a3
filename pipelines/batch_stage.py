"""The batch stage of a model: which files it learns from before it goes online, and how far it is.

A model has one batch stage, and that is its beginning. What was planned at its first start is kept in the checkpoints:
a later start goes on with the same rows in the same order, also when files were added meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rillet.connectors.example_manifest import topic_source
from rillet.connectors.file_source import FILES_PARTITION, FilePlan, FileSource, open_example_files
from rillet.pipelines.errors import BatchStageError
from rillet.schemas import FeatureSpec
from rillet.sync.files import Files
from rillet.trainer import Positions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What ``rillet train --batch-from`` was asked for."""

    url: str
    #: passes over the files; more than one overfits
    epochs: int = 1
    #: every so many rows are mixed among each other; 0 keeps the order
    shuffle_rows: int = 0
    #: go on with the topic afterwards, instead of stopping
    then_online: bool = False


@dataclass(frozen=True, slots=True)
class BatchStage:
    """A planned batch stage."""

    url: str
    #: of the manifest: what the rows were read from, whose offsets follow them
    origin: str
    plan: FilePlan

    @classmethod
    def planned(
        cls,
        options: BatchOptions | None,
        kept: Mapping[str, Any] | None,
        positions: Positions,
        spec: FeatureSpec,
        *,
        topic: str,
        seed: int,
    ) -> BatchStage | None:
        """The batch stage of a model that starts or goes on; None of one that has none.

        :param options: what is asked for now.
        :param kept: what the restored checkpoint kept of an earlier start.
        :param positions: of the restored checkpoint, empty without one.
        :param topic: examples topic that the model goes on with.
        :param seed: of the shuffle.
        :raises BatchStageError: what is asked for is not what the model began with, or the files are of another topic.
        :raises ExampleFilesError: there are no files, or they are of another spec.
        :raises StoreUnavailableError: the storage cannot be read.
        """
        if kept is not None:
            begun = cls(kept["url"], kept["origin"], FilePlan.from_json(kept["plan"]))
            begun._check_topic(topic)
            return begun._resumed(options, positions, seed)
        if options is None:
            return None
        if positions:
            raise BatchStageError(
                f"--batch-from {options.url}: the model has learned from the examples topic already, a batch stage"
                " comes before that; leave the option out, or give the model another name or data directory"
            )
        manifest = open_example_files(Files(options.url, setting="--batch-from"), spec)
        if not manifest.rows:
            raise BatchStageError(
                f"--batch-from {options.url}: no rows have been committed there yet; wait for the dump"
            )
        plan = FilePlan.of(manifest, epochs=options.epochs, shuffle_rows=options.shuffle_rows, seed=seed)
        stage = cls(options.url, manifest.source, plan)
        stage._check_topic(topic)
        return stage

    def _resumed(self, options: BatchOptions | None, positions: Positions, seed: int) -> BatchStage:
        """What a later start goes on with.

        :raises BatchStageError: something else is asked for.
        """
        plan, finished = self.plan, self.finished(positions)
        if options is None:
            if not finished:
                raise BatchStageError(
                    f"the checkpoint is {self.share(positions):.0%} through its batch stage on {self.url}: go on with"
                    f" --batch-from {self.url}, or give the model another name or data directory"
                )
            return self
        if finished:
            # Where the files lie now matters no more, nor does the seed; learning from other ones is another matter.
            if (options.url, options.epochs, options.shuffle_rows) != (self.url, plan.epochs, plan.shuffle_rows):
                raise BatchStageError(
                    f"--batch-from {options.url}: the model has already learned from {self.url}, with --epochs"
                    f" {plan.epochs} --shuffle-rows {plan.shuffle_rows}, and has one batch stage; leave the options out to"
                    " go on with the topic, or give the model another name or data directory"
                )
            log.info("the batch stage on %s is over since an earlier start: no file is read again", self.url)
            return self
        if replace(plan, epochs=options.epochs, shuffle_rows=options.shuffle_rows, seed=seed) != plan:
            raise BatchStageError(
                f"--batch-from {options.url}: the batch stage began with --epochs {plan.epochs} --shuffle-rows"
                f" {plan.shuffle_rows} and model.seed {plan.seed}; go on with these, or give the model another name"
                " or data directory"
            )
        return replace(self, url=options.url)

    def _check_topic(self, topic: str) -> None:
        """Refuses offsets of another topic; rows of a recording have none."""
        if self.plan.next_offsets and self.origin != topic_source(topic):
            raise BatchStageError(
                f"--batch-from {self.url}: its rows and the offsets that follow them are of {self.origin}, but the"
                f" configuration goes on with topic {topic}; name files of that topic, or set [kafka.topics] examples"
            )

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"url": self.url, "origin": self.origin, "plan": self.plan.to_json()}

    def finished(self, positions: Positions) -> bool:
        """Whether every row was learned from."""
        return positions.get(FILES_PARTITION, (0, 0))[0] >= self.plan.records

    def share(self, positions: Positions) -> float:
        """How much of the stage is done, 0 to 1."""
        return positions.get(FILES_PARTITION, (0, 0))[0] / self.plan.records if self.plan.records else 1.0

    def source(self, spec: FeatureSpec, positions: Positions) -> FileSource:
        """The files from a position on."""
        return FileSource(self.url, spec, self.plan, positions)

    def online_positions(self, positions: Positions) -> Positions:
        """Where the topic is to be read from: after the files, or where it was read to since."""
        online = {partition: at for partition, at in positions.items() if partition != FILES_PARTITION}
        return {partition: (offset, 0) for partition, offset in self.plan.next_offsets.items()} | online
