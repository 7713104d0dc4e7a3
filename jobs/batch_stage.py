"""The batch stage of a model: which files it learns from before it goes online, and how far it is.

A model has one batch stage, and that is its beginning. What was planned at its first start is kept in the checkpoints:
a later start goes on with the same rows in the same order, also when files were added meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rillet.connectors.file_source import FILES_PARTITION, FilePlan, FileSource, open_example_files
from rillet.jobs.errors import ServiceError
from rillet.schemas import FeatureSpec
from rillet.sync.files import Files
from rillet.trainer import Positions


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
    plan: FilePlan

    @classmethod
    def planned(
        cls,
        options: BatchOptions | None,
        kept: Mapping[str, Any] | None,
        positions: Positions,
        spec: FeatureSpec,
        *,
        seed: int,
    ) -> BatchStage | None:
        """The batch stage of a model that starts or goes on; None of one that has none.

        :param options: what is asked for now.
        :param kept: what the restored checkpoint kept of an earlier start.
        :param positions: of the restored checkpoint, empty without one.
        :param seed: of the shuffle.
        :raises ServiceError: what is asked for is not what the model began with.
        :raises ExampleFilesError: there are no files, or they are of another spec.
        :raises StoreUnavailableError: the storage cannot be read.
        """
        if options is None:
            if kept is None:
                return None
            stage = cls(kept["url"], FilePlan.from_json(kept["plan"]))
            if not stage.finished(positions):
                raise ServiceError(
                    f"the checkpoint is {stage.share(positions):.0%} through its batch stage on {stage.url}: go on with"
                    f" --batch-from {stage.url}, or give the model another name or data directory"
                )
            return stage
        if kept is None:
            if positions:
                raise ServiceError(
                    f"--batch-from {options.url}: the model has learned from the examples topic already, a batch stage"
                    " comes before that; leave the option out, or give the model another name or data directory"
                )
            manifest = open_example_files(Files(options.url, setting="--batch-from"), spec)
            if not manifest.rows:
                raise ServiceError(
                    f"--batch-from {options.url}: no rows have been committed there yet; wait for the dump"
                )
            return cls(
                options.url,
                FilePlan.of(manifest, epochs=options.epochs, shuffle_rows=options.shuffle_rows, seed=seed),
            )
        plan = FilePlan.from_json(kept["plan"])
        if not cls(options.url, plan).finished(positions):
            asked = replace(plan, epochs=options.epochs, shuffle_rows=options.shuffle_rows, seed=seed)
            if asked != plan:
                raise ServiceError(
                    f"--batch-from {options.url}: the batch stage began with --epochs {plan.epochs} --shuffle-rows"
                    f" {plan.shuffle_rows} and model.seed {plan.seed}; go on with these, or give the model another name"
                    " or data directory"
                )
        return cls(options.url, plan)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"url": self.url, "plan": self.plan.to_json()}

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
