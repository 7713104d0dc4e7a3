"""Local folders of tasks, of which none outlives its process for long: a process that is killed cannot delete its own.

A lock on a file in it says that a folder's process lives; the kernel ends the lock with the process. Whoever makes a folder
deletes those beside it whose lock is free.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "rillet-joiner-"
_LOCK = "lock"


class LocalFolder:
    """A folder of one attempt of a task, held until :meth:`close`."""

    def __init__(self, parent: Path) -> None:
        """Makes it, and deletes what killed processes have left beside it.

        :param parent: is made if it is not there.
        :raises OSError: it cannot be written to.
        """
        parent.mkdir(parents=True, exist_ok=True)
        _delete_left(parent)
        name = f"{_PREFIX}{uuid.uuid4().hex}"
        making = parent / f".{name}"
        making.mkdir()
        self._lock = os.open(making / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        #: under this name it is locked from the first moment on
        self.path = making.rename(parent / name)

    def close(self) -> None:
        """Deletes it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _delete_left(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # deleted at this moment, or somebody else's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            log.warning("%s was left by a process that was killed, and cannot be deleted: %s", folder, error)
        finally:
            os.close(lock)
