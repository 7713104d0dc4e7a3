"""One service of a kind per data_dir: a lock that the kernel releases when its process ends, however it ends.

A second trainer would take the model from the first, a second joiner its windows. The lock is advisory (flock(2)): it
keeps out services and ``rillet reset``, not other programs. Its file stays; an unlocked one means nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from rillet.jobs.errors import ServiceError
from rillet.jobs.processes import start_time

#: for a process that a killed service has started, and that ends when it notices
_WAIT_S, _POLL_S = 30.0, 0.1


@contextmanager
def hold(folder: Path, service: str) -> Iterator[int]:
    """Keeps every other process from holding the same service of the same folder, for the time of a ``with`` block.

    :param folder: data_dir; made where it is missing.
    :param service: what is held: the name of a service, of letters that a file name may have.
    :returns: a file descriptor, for a process that works for the service: while it has it too, the lock is held, also when
        the service itself was killed.
    :raises ServiceError: it is held already, with the pid of the holder; or the folder cannot be written to.
    """
    path = folder / "locks" / f"{service}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated by being opened: it may name who has the lock. Closed in every child (PEP 446).
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        deadline_s = time.monotonic() + _WAIT_S
        while not _locked(held, folder):
            pid, _, started = os.pread(held, 64, 0).decode("ascii", "replace").strip().partition(" ")
            if not _has_ended(pid, started):
                raise ServiceError(
                    f"{service} runs already on data_dir {folder} (pid {pid or 'unknown'}): stop it first, with `rillet down` or"
                    f" {f'kill {pid}' if pid else 'by hand'}"
                )
            if time.monotonic() >= deadline_s:
                raise ServiceError(
                    f"{service} on data_dir {folder} (pid {pid}) has ended, and what it has started has not: end that process,"
                    f" which `fuser {path}` tells"
                )
            time.sleep(_POLL_S)
        os.ftruncate(held, 0)
        # With its start time, for the number of a process that has ended is given to another one some day.
        os.pwrite(held, f"{os.getpid()} {start_time(os.getpid())}\n".encode(), 0)
        yield held
    finally:
        os.close(held)


def _locked(held: int, folder: Path) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unwritable(folder, error) from error
    return True


def _has_ended(pid: str, started: str) -> bool:
    """Whether the process of this number and start time is there no more; what is no number says nothing."""
    return pid.isdecimal() and start_time(int(pid)) != started


def require_writable(folder: Path) -> None:
    """Makes a folder that a service will write to later, and tries it: what fails then would only be told again and again.

    :raises ServiceError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> ServiceError:
    """What to say of data_dir, or a folder in it, that cannot be used: who may not do what, and where."""
    return ServiceError(
        f"{folder} cannot be written to ({error.strerror}: {error.filename or folder}):"
        f" give the user of this process (uid {os.getuid()}) the right to, or set data_dir to another folder"
    )
