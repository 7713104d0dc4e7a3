"""A folder of a task's own for what is not needed after it, without what tasks have left that were killed.

A worker that is killed for its memory is started again in the same container, on the same volume: each time it would leave
its disk tier there, until the volume is full.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
import weakref
from pathlib import Path

from rillet.joiner import StoreError

log = logging.getLogger(__name__)

_PREFIX, _LOCK = "rillet-joiner-", ".lock"


class LocalFolder:
    """A new folder, locked (flock(2)) until it is closed or the process ends, however it ends.

    :param parent: of the folders of all tasks on this machine; made where it is missing.
    :raises StoreError: it cannot be written to.
    """

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"{_PREFIX}{uuid.uuid4().hex}"
        self._lock = self.path.with_suffix(_LOCK)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_left(parent)
            # Closed also where nobody asks for it: a task may fail while it is opened.
            self._unlock = weakref.finalize(self, os.close, _lock(self._lock))
            self.path.mkdir()
        except OSError as error:
            raise StoreError(
                f"no folder for the disk tier can be made in {parent}: {error}. Name another with --local-dir, or set"
                " [joiner] disk_tier = false"
            ) from error

    def close(self) -> None:
        """Removes it."""
        if self._unlock.alive:
            _remove(self.path, self._lock)
            self._unlock()


def _lock(path: Path) -> int:
    """A new file, locked."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            # Before it was locked, another task may have taken it for one that was left, and removed it.
            if os.fstat(held).st_nlink:
                return held
        except OSError:
            os.close(held)
            raise
        os.close(held)


def _remove_left(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*{_LOCK}"):
        try:
            held = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue  # another task was faster
        except PermissionError:
            continue  # of another user, whose next task removes it
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("removing %s, which a task has left that was killed", lock.with_suffix(""))
            _remove(lock.with_suffix(""), lock)
        except BlockingIOError:
            pass  # its task is at work
        finally:
            os.close(held)


def _remove(folder: Path, lock: Path) -> None:
    # The lock file last: as long as anything is left, the next task finds it.
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink(missing_ok=True)
