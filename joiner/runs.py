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
from struct import Struct

from rillet.joiner.errors import JoinerError

log = logging.getLogger(__name__)

#: Flink writes it last, in one step
_COMPLETE = "_metadata"
#: how that begins: a magic number, a version, the number of the snapshot
_HEAD, _MAGIC = Struct(">iiq"), 0x4960672D


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
        return sorted(found, key=_number)

    @property
    def drained(self) -> bool:
        """Whether it has closed every window at its end."""
        newest = self.snapshot
        return newest is not None and newest.parent == self.savepoint_dir(drained=True)

    @property
    def snapshot(self) -> Path | None:
        """The newest state that it has left: the savepoint of its end, or what was complete before it ended otherwise.

        :raises JoinerError: see :func:`_number`.
        """
        ends = [path for drained in (False, True) for path in self._savepoints(drained=drained)]
        return max([*self.checkpoints, *ends], key=_number, default=None)

    @property
    def interrupted_ms(self) -> int | None:
        """When the checkpoint was complete that it has left, by the clock of its disk; None where a stop left a savepoint."""
        newest = self.snapshot
        if newest is None or not newest.is_relative_to(self.checkpoint_dir):
            return None
        return (newest / _COMPLETE).stat().st_mtime_ns // 1_000_000

    def _savepoints(self, *, drained: bool) -> list[Path]:
        return [path.parent for path in self.savepoint_dir(drained=drained).glob(f"*/{_COMPLETE}")]


def _number(snapshot: Path) -> int:
    """Flink numbers the checkpoints and savepoints of a job in one row, so the highest number is the newest.

    Of a checkpoint it is a part of the name. Of a savepoint, of which anybody may take one while the job runs, it follows a
    magic number and a version in the file.

    :raises JoinerError: what should be a savepoint is none of Flink's.
    """
    if snapshot.name.startswith("chk-"):
        return int(snapshot.name.removeprefix("chk-"))
    with (snapshot / _COMPLETE).open("rb") as file:
        head = file.read(_HEAD.size)
    magic, _, number = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0, 0)
    if magic != _MAGIC:
        raise JoinerError(
            f"{snapshot / _COMPLETE} is not the beginning of a snapshot of Flink: copy the savepoint there again, or move its"
            " folder away, and the joiner goes on from the one before it"
        )
    return int(number)


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
