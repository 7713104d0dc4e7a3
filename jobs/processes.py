"""Which processes live, and with whom they end."""

from __future__ import annotations

import os
import subprocess
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread


def start_time(pid: int) -> str | None:
    """The kernel's start time of a living process, in a form to be compared; None when there is none or it is a zombie.

    A zombie has ended and holds nothing, and stays for as long as its parent does not ask for its end.
    """
    try:
        # the command name stands in parentheses and may contain spaces
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return None  # it has ended since the file was opened
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        shown = subprocess.run(  # noqa: S603  macOS has no /proc
            ["ps", "-o", "state=,lstart=", "-p", str(pid)],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        return None if not shown or shown[0].startswith("Z") else "".join(shown[1:])
    return None if state in ("Z", "X") else fields[18]


def end_with_parent() -> None:
    """Has a process that multiprocessing started end when the one that started it does, killed or not.

    A process of a pool would wait for work for ever.
    """
    if (parent := parent_process()) is not None:

        def end() -> None:
            parent.join()
            os._exit(1)

        Thread(target=end, name="end-with-parent", daemon=True).start()
