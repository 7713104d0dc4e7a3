"""Which processes live."""

from __future__ import annotations

import subprocess
from pathlib import Path


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
