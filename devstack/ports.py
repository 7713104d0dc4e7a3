"""TCP ports of this machine: whether one is free, and who holds it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rillet.jobs.errors import PortInUseError, ServiceError

_LISTENS = "0A"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    pid: int
    command: str

    def __str__(self) -> str:
        command = self.command if len(self.command) <= _SHOWN else f"{self.command[: _SHOWN - 3]}..."
        return f"process {self.pid} ({command})"


def require_free_port(port: int, what: str, host: str = "127.0.0.1") -> None:
    """Refuses a port that cannot be listened on.

    :param what: the setting to change, for the message.
    :raises PortInUseError: something listens there.
    :raises ServiceError: ``host`` is no address of this machine, or the port is not for this user.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for _, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ServiceError(
                f"port {port} on {host} cannot be listened on ({error.strerror or error}): choose another with {what} or the host"
                " beside it"
            ) from error
        holder = holder_of(port)
        by = "" if holder is None else f" by {holder}"
        stop = "what listens there" if holder is None else "it"
        raise PortInUseError(f"port {port} is in use{by}: stop {stop}, or choose another with {what}") from error


def holder_of(port: int) -> Holder | None:
    """The process that listens on a port; None where it cannot be told: it is another user's, or the system has no /proc."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        # Processes end while they are looked at, and those of others may not be.
        with suppress(OSError):
            if any(str(handle.readlink()) in sockets for handle in (folder / "fd").iterdir()):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                return Holder(int(folder.name), command)
    return None


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
