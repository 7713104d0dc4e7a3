"""The runs of a joiner that runs by itself (``rillet join``), each with its state in a numbered folder of its own.

A start goes on from the newest run that has a complete snapshot. Rows go out when a checkpoint is complete, so from then on
nothing else may be gone on with; the order of the folders says so without a note that a crash could come before, and
without a clock.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

#: Flink writes it last, in one step
_COMPLETE = "_metadata"


@dataclass(frozen=True, slots=True)
class JoinerRun:
    """The folder of one run."""

    folder: Path

    @property
    def note(self) -> Path:
        """What its state is kept under; written before there is any."""
        return self.folder / "kept.json"

    @property
    def checkpoint_dir(self) -> Path:
        """Where Flink keeps its checkpoints, below the job's id."""
        return self.folder / "checkpoints"

    def savepoint_dir(self, *, drained: bool) -> Path:
        """Where the savepoint of its end goes."""
        return self.folder / ("drained" if drained else "stopped")

    @property
    def checkpoints(self) -> list[Path]:
        """Its complete checkpoints, oldest first."""
        found = [path.parent for path in self.checkpoint_dir.glob(f"*/chk-*/{_COMPLETE}")]
        return sorted(found, key=lambda path: int(path.name.removeprefix("chk-")))

    @property
    def drained(self) -> bool:
        """Whether it has closed every window at its end."""
        return bool(self._savepoints(drained=True))

    @property
    def snapshot(self) -> Path | None:
        """The state that it has left: the savepoint of its end, otherwise its newest checkpoint."""
        ends = self._savepoints(drained=True) or self._savepoints(drained=False)
        found = ends or self.checkpoints
        return found[-1] if found else None

    def _savepoints(self, *, drained: bool) -> list[Path]:
        return [path.parent for path in self.savepoint_dir(drained=drained).glob(f"*/{_COMPLETE}")]


@dataclass(frozen=True, slots=True)
class JoinerRuns:
    """All runs of a data_dir that are still there."""

    folder: Path

    @property
    def newest(self) -> JoinerRun | None:
        """The newest run that has left state, which a start goes on from."""
        return next((run for run in reversed(self._all()) if run.snapshot is not None), None)

    @property
    def without_state(self) -> JoinerRun | None:
        """The last run, if it has left no state here."""
        runs = self._all()
        return runs[-1] if runs and runs[-1].snapshot is None else None

    def begin(self, note: str, keep: int = 1) -> JoinerRun:
        """Makes the folder of the next run; of the earlier ones the newest that have left state stay, and no others.

        :param note: what its state is kept under.
        :param keep: how many stay, that which it goes on from among them.
        """
        runs = self._all()
        staying = [run for run in runs if run.snapshot is not None][-keep:]
        run = JoinerRun(self.folder / f"{int(runs[-1].folder.name) + 1 if runs else 1:06}")
        run.folder.mkdir(parents=True)
        with run.note.open("w", encoding="utf-8") as out:
            out.write(note)
            out.flush()
            os.fsync(out.fileno())
        # The oldest first: what is left of an interrupted deletion must not be the newest state.
        for other in runs:
            if other not in staying:
                try:
                    shutil.rmtree(other.folder)
                except OSError as error:
                    log.warning("%s cannot be deleted, and is not needed any more: %s", other.folder, error)
        return run

    def _all(self) -> list[JoinerRun]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        return [JoinerRun(self.folder / name) for name in sorted(names, key=int)]
