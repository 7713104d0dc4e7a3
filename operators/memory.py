"""How much memory a process needs that runs tasks of the joiner: the sum of what Flink and Python take in it.

Python's memory lies outside of what Flink gives out, in a thread of the TaskManager as in processes beside it. It is
set aside as off-heap memory of the tasks, so that the limit of a container, which Flink computes from the sum, has room for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rillet.joiner import JoinerConfig
from rillet.joiner.config import DISK_TIER_BYTES
from rillet.operators.flink_config import FlinkConfig

_MIB = 1 << 20
#: one interpreter with the libraries of the joiner (measured: 50 MiB in imports, 90 MiB with the broker's client at
#: work), and the records and blocks that it has in hand
INTERPRETER_BYTES = 160 * _MIB
NETWORK_BYTES = 64 * _MIB
#: of Flink itself beside the heap, its defaults: off-heap memory of the framework, and metaspace
_FRAMEWORK_BYTES, _METASPACE_BYTES = 128 * _MIB, 256 * _MIB
#: Flink's bounds of what the JVM needs beside, a tenth of all (taskmanager.memory.jvm-overhead.*)
_OVERHEAD_BYTES = (192 * _MIB, 1024 * _MIB)


@dataclass(frozen=True, slots=True)
class TaskMemory:
    """Memory of one process that runs tasks, in bytes."""

    heap_bytes: int
    managed_bytes: int
    #: feature events in memory, of all subtasks of the process
    features_bytes: int
    #: actions that wait
    waiting_bytes: int
    #: of RocksDB below the joiner's disk tier
    disk_tier_bytes: int
    interpreters_bytes: int

    @classmethod
    def of(
        cls, joiner: JoinerConfig, flink: FlinkConfig, *, subtasks: int = 1, converted_topics: int = 0
    ) -> TaskMemory:
        """
        :param subtasks: of the join that run in the process: one per TaskManager is how it should be, all in ``rillet join``.
        :param converted_topics: topics whose records are made into ours, each in an interpreter of its own in process mode.
        """
        interpreters = 1 if flink.execution_mode == "thread" else subtasks * (1 + converted_topics)
        # Buckets are not spread evenly: a subtask may have twice its share of the actions that wait.
        waiting = min(joiner.waiting_bytes, 2 * subtasks * joiner.waiting_bytes // flink.parallelism)
        return cls(
            heap_bytes=flink.heap_bytes,
            managed_bytes=flink.managed_bytes,
            features_bytes=subtasks * joiner.memory_bytes,
            waiting_bytes=waiting,
            disk_tier_bytes=subtasks * DISK_TIER_BYTES,
            interpreters_bytes=interpreters * INTERPRETER_BYTES,
        )

    @property
    def python_bytes(self) -> int:
        """What Python takes: off-heap memory of the tasks."""
        return self.features_bytes + self.waiting_bytes + self.disk_tier_bytes + self.interpreters_bytes

    @property
    def jvm_bytes(self) -> int:
        """What the JVM takes beside heap, RocksDB and network buffers."""
        known = self._known_bytes
        least, most = _OVERHEAD_BYTES
        # A tenth of the whole, which it is a part of.
        return _FRAMEWORK_BYTES + _METASPACE_BYTES + min(max(known // 9, least), most)

    @property
    def process_bytes(self) -> int:
        """All of it: the limit of a container."""
        return self._known_bytes - _FRAMEWORK_BYTES - _METASPACE_BYTES + self.jvm_bytes

    @property
    def _known_bytes(self) -> int:
        flink = self.heap_bytes + self.managed_bytes + NETWORK_BYTES + _FRAMEWORK_BYTES + _METASPACE_BYTES
        return flink + self.python_bytes

    def settings(self) -> dict[str, str]:
        """For Flink; what is not set here is the rest of the sum: the heap."""
        return {
            "taskmanager.memory.process.size": _mib(self.process_bytes),
            "taskmanager.memory.managed.size": _mib(self.managed_bytes),
            "taskmanager.memory.task.off-heap.size": _mib(self.python_bytes),
            "taskmanager.memory.network.min": _mib(NETWORK_BYTES),
            "taskmanager.memory.network.max": _mib(NETWORK_BYTES),
        }

    def __str__(self) -> str:
        """The sum, for a person.

        >>> print(TaskMemory.of(JoinerConfig(), FlinkConfig()))
        2,898 MiB = heap 1,200 + RocksDB 256 + network 64 + Python 704 (feature events 256, waiting actions 256, disk tier 32, interpreter 160) + JVM 674
        """
        parts = (
            f"feature events {_n(self.features_bytes)}, waiting actions {_n(self.waiting_bytes)},"
            f" disk tier {_n(self.disk_tier_bytes)}, interpreter {_n(self.interpreters_bytes)}"
        )
        return (
            f"{_n(self.process_bytes)} MiB = heap {_n(self.heap_bytes)} + RocksDB {_n(self.managed_bytes)} + network"
            f" {_n(NETWORK_BYTES)} + Python {_n(self.python_bytes)} ({parts}) + JVM {_n(self.jvm_bytes)}"
        )


def _mib(count: int) -> str:
    """Bytes as Flink's settings have them, rounded up."""
    return f"{-(-count // _MIB)}m"


def _n(count: int) -> str:
    return f"{-(-count // _MIB):,}"
