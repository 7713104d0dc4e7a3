"""One service of a kind per data_dir: a lock that the kernel releases when its process ends, however it ends.

A second trainer would take the model from the first, a second joiner its windows. The lock is advisory (flock(2)): it
keeps out services and ``rillet reset``, not other programs. Its file stays; an unlocked one means nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rillet.jobs.errors import ServiceError


@contextmanager
def hold(folder: Path, service: str) -> Iterator[None]:
    """Keeps every other process from holding the same service of the same folder, for the time of a ``with`` block.

    :param folder: data_dir; made where it is missing.
    :param service: what is held: the name of a service, of letters that a file name may have.
    :raises ServiceError: it is held already, with the pid of the holder; or the folder cannot be written to.
    """
    path = folder / "locks" / f"{service}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated by being opened: it may hold the pid of who has the lock. Closed in every child (PEP 446).
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(held, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ServiceError(
                f"{service} runs already on data_dir {folder} (pid {pid}): stop it first,"
                " or give this one a data_dir of its own"
            ) from None
        except OSError as error:
            raise unwritable(folder, error) from error
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def unwritable(folder: Path, error: OSError) -> ServiceError:
    """What to say of a data_dir that cannot be used: who may not do what, and where."""
    return ServiceError(
        f"data_dir {folder} cannot be written to ({error.strerror}: {error.filename or folder}):"
        f" give the user of this process (uid {os.getuid()}) the right to, or set data_dir to another folder"
    )
