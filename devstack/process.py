"""One background process: started with a log and a pid file, found again later, stopped by its pid.

The pid file also holds the kernel's start time of the process, so that a pid that was given to
another program since is never signalled.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rillet.jobs.data_lock import unwritable
from rillet.jobs.errors import ServiceError
from rillet.jobs.processes import start_time

_POLL_S = 0.1
_TELL_S = 15.0


@dataclass(frozen=True, slots=True)
class Process:
    """A service of the local stack, running or not; all that is known of it lies in ``folder``."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """Where its output goes, appended over restarts."""
        return self.folder / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """Its pid and nothing else, while it runs."""
        return self.folder / f"{self.name}.pid"

    @property
    def started_file(self) -> Path:
        """When it was started, in ticks since the machine was: another process may have its pid by now.

        And behind that how long its log was then: what stands before is of earlier processes.
        """
        return self.folder / f"{self.name}.started"

    @property
    def pid(self) -> int | None:
        """The pid if it runs, None otherwise."""
        try:
            pid, started = int(self.pid_file.read_text()), self.started_file.read_text().split()[0]
        except (OSError, ValueError, IndexError):
            return None
        return pid if start_time(pid) == started else None

    @property
    def started_ms(self) -> int | None:
        """Wall clock at which it was started, epoch milliseconds; None while it does not run."""
        try:
            return self.pid_file.stat().st_mtime_ns // 1_000_000 if self.pid is not None else None
        except FileNotFoundError:  # it was stopped meanwhile
            return None

    @property
    def configuration_file(self) -> Path:
        """What it was started with, as its starter has told."""
        return self.folder / f"{self.name}.configuration"

    @property
    def configuration(self) -> str | None:
        """What it was started with, None where that is not known."""
        try:
            return self.configuration_file.read_text("utf-8")
        except OSError:
            return None

    def start(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        configuration: str = "",
    ) -> int:
        """Starts it in a session of its own; the pid.

        :param configuration: what it is started with, for :attr:`configuration`.
        :raises ServiceError: it runs already, or the command does not exist.
        """
        if (running := self.pid) is not None:
            raise ServiceError(f"{self.name} runs already (pid {running}): stop it first")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            with self.log.open("ab") as log:
                log_bytes = log.tell()
                child = subprocess.Popen(  # noqa: S603
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(f"{self.name} cannot be started: {command[0]}: {error.strerror}") from error
        try:
            self.started_file.write_text(f"{start_time(child.pid)} {log_bytes}")
            self.pid_file.write_text(f"{child.pid}\n")
            self.configuration_file.write_text(configuration, "utf-8")
        except BaseException:
            # Nobody would find it again.
            child.kill()
            raise
        return child.pid

    def wait_until(
        self,
        ready: Callable[[], bool],
        timeout_s: float,
        waiting: Callable[[float], None] = lambda _: None,
        advice: str = "",
    ) -> None:
        """Waits until ``ready()``.

        :param waiting: called every 15 s with the seconds that it has taken so far.
        :param advice: what to do where it lives and is not ready in time.
        :raises ServiceError: it died or took too long; with the last line of its log.
        """
        start_s = time.monotonic()
        deadline, due_s = start_s + timeout_s, start_s + _TELL_S
        while not ready():
            self.require_alive()
            if time.monotonic() > deadline:
                text = f"{self.name} is not ready after {timeout_s:.0f} s, see {self.log}: {self.last_words()}"
                raise ServiceError(f"{text}; {advice}" if advice else text)
            if (now_s := time.monotonic()) >= due_s:
                waiting(now_s - start_s)
                due_s += _TELL_S
            time.sleep(_POLL_S)

    def require_alive(self) -> None:
        """
        :raises ServiceError: it has died since it was started; with the last line of its log.
        """
        if self.pid is None:
            raise ServiceError(f"{self.name} died while starting, see {self.log}: {self.last_words()}")

    def stop(self, timeout_s: float = 20.0, *, kill: bool = False) -> bool:
        """Asks it to end, and ends it when it does not within ``timeout_s``; False when it did not run.

        :param kill: end it at once (SIGKILL), as a crash would.
        """
        pid = self.pid
        if pid is None:
            self.pid_file.unlink(missing_ok=True)
            return False
        _signal(pid, signal.SIGKILL if kill else signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.pid is not None:
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
                deadline += timeout_s
            time.sleep(_POLL_S)
        with suppress(ChildProcessError):  # our own child would stay as a zombie
            os.waitpid(pid, os.WNOHANG)
        self.pid_file.unlink(missing_ok=True)
        return True

    def last_words(self) -> str:
        """The last line of its log that is not empty and was written since it was started."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return "(no log)"
        return next((line.strip() for line in reversed(lines) if line.strip()), "(it has logged nothing yet)")

    @property
    def _log_start(self) -> int:
        """Where in its log the lines of the newest start begin; all of a log that was cut since are."""
        try:
            start = int(self.started_file.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return start if start <= self.log.stat().st_size else 0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(pid, number)
