"""CPU time and memory of a process and of all that it starts, over the time that it runs."""

from __future__ import annotations

import os
import re
import subprocess
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from rillet.benchmarks.errors import BenchError

_SAMPLE_S = 0.2
_TELL_S = 15.0
_END_S = 30.0
_LAST_LINES = 15
#: a thread that has no compiler's name for so long is none
_NAMED_S = 2.0
#: what OpenJDK calls the threads of its compilers; the kernel keeps 15 characters of it
_COMPILER = re.compile("C[12] Compiler")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a tree of processes had used at a time.

    :param time_s: wall clock, epoch seconds.
    :param cpu_s: user and system time since the start, of processes that have ended too, without the next.
    :param compiling_s: that of Java's just-in-time compilers: they are busy for a minute or two, and a joiner runs for weeks.
    :param rss_bytes: resident memory; what processes share counts for each.
    """

    time_s: float
    cpu_s: float
    rss_bytes: int
    compiling_s: float = 0.0


@dataclass(slots=True)
class Usage:
    """The samples of one run, oldest first."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def peak_rss_bytes(self) -> int:
        """The most resident memory at a time."""
        return max((sample.rss_bytes for sample in self.samples), default=0)

    def cpu_at(self, time_s: float) -> float:
        """CPU seconds used up to a time, between two samples by the straight line."""
        samples = self.samples
        after = bisect_right(samples, time_s, key=lambda sample: sample.time_s)
        if after == 0:
            return 0.0
        left = samples[after - 1]
        if after == len(samples):
            return left.cpu_s
        right = samples[after]
        share = (time_s - left.time_s) / (right.time_s - left.time_s)
        return left.cpu_s + share * (right.cpu_s - left.cpu_s)


class ProcessTree:
    """A command that runs, and what it uses. A context manager: leaving it ends all processes of the tree."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        """
        :param log: takes what the command prints.
        :raises BenchError: it cannot be started.
        """
        self.usage = Usage()
        self._log = log
        #: CPU seconds by process; those of one that has ended stay
        self._cpu_s: dict[tuple[int, float], float] = {}
        #: the same by thread, of compilers; what of a thread is no compiler is None
        self._compiling_s: dict[tuple[int, int], float | None] = {}
        try:
            with log.open("wb") as out:
                self._child = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=cwd
                )
        except OSError as error:
            raise BenchError(f"{command[0]} cannot be started: {error.strerror}") from error
        #: when threads that are no compilers were first seen, monotonic seconds
        self._seen_s: dict[tuple[int, int], float] = {}
        self._root = psutil.Process(self._child.pid)
        self._tree: list[psutil.Process] = []

    def __enter__(self) -> ProcessTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sample(self) -> bool:
        """Notes what is used now; False once the command has ended."""
        cpu_s, rss_bytes = self._cpu_s, 0
        with suppress(psutil.NoSuchProcess):
            self._tree = [self._root, *self._root.children(recursive=True)]
        for process in self._tree:
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                    cpu_s[process.pid, process.create_time()] = times.user + times.system
                    rss_bytes += memory.rss
                    if process.name() == "java":
                        self._sample_compilers(process)
            except psutil.NoSuchProcess:  # it has ended meanwhile
                continue
        compiling_s = sum(filter(None, self._compiling_s.values()))
        self.usage.samples.append(Sample(time.time(), sum(cpu_s.values()) - compiling_s, rss_bytes, compiling_s))
        return self._child.poll() is None

    def _sample_compilers(self, java: psutil.Process) -> None:
        """Reads the threads from /proc, since psutil does not tell their names; elsewhere than on Linux there are none."""
        for folder in Path(f"/proc/{java.pid}/task").glob("[0-9]*"):
            thread = java.pid, int(folder.name)
            known = self._compiling_s.get(thread, 0.0)
            if known is None:
                continue
            # One that ends while it is read has been counted up to the sample before.
            with suppress(OSError):
                if thread not in self._compiling_s and not _COMPILER.match((folder / "comm").read_text()):
                    # A thread gets its name a moment after it has begun.
                    now_s = time.monotonic()
                    if now_s - self._seen_s.setdefault(thread, now_s) > _NAMED_S:
                        self._compiling_s[thread] = None
                    continue
                user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
                self._compiling_s[thread] = (int(user) + int(system)) / _TICKS_PER_S

    def wait(self, timeout_s: float, tell: Callable[[float, Sample], None]) -> None:
        """Waits until the command ends by itself.

        :param tell: called now and then with the seconds that it has run, and what it uses.
        :raises BenchError: it takes longer than ``timeout_s``, or fails.
        """
        begin_s = told_s = time.monotonic()
        while self.sample():
            now_s = time.monotonic()
            if now_s - begin_s > timeout_s:
                raise BenchError(f"has not ended after {timeout_s:,.0f} s (--timeout): {self.last_lines()}")
            if now_s - told_s >= _TELL_S:
                tell(now_s - begin_s, self.usage.samples[-1])
                told_s = now_s
            time.sleep(_SAMPLE_S)
        if self._child.returncode:
            raise BenchError(f"ended with status {self._child.returncode}: {self.last_lines()}")

    def stop(self) -> None:
        """Ends all of the tree, and waits for it."""
        if self._child.poll() is None:
            self.sample()
        for process in self._tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self._tree, timeout=_END_S)
        self._child.wait(_END_S)

    def last_lines(self) -> str:
        """The end of what the command has printed, and where all of it is."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        # Java's stack traces say in their first lines what has happened.
        kept = [line for line in lines if not line.lstrip().startswith(("at ", "... "))]
        return os.linesep.join([f"see {self._log}", *kept[-_LAST_LINES:]])
