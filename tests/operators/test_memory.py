"""What a process needs in memory is the sum of what is configured, and Flink gives out the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rillet.joiner import JoinerConfig
from rillet.operators.flink_config import FlinkConfig
from rillet.operators.memory import INTERPRETER_BYTES, NETWORK_BYTES, TaskMemory

JOINER, FLINK = JoinerConfig(memory_bytes=1 << 30, waiting_bytes=512 << 20), FlinkConfig(parallelism=4)
_MIB = 1 << 20


def test_what_is_configured_for_the_join_is_set_aside_beside_flinks_memory() -> None:
    memory = TaskMemory.of(JOINER, FLINK)
    assert memory.python_bytes == (1024 + 256 + 32) * _MIB + INTERPRETER_BYTES
    more = TaskMemory.of(replace(JOINER, memory_bytes=2 << 30), FLINK)
    # A tenth of it is what the JVM takes besides.
    assert 1 << 30 <= more.process_bytes - memory.process_bytes <= 1.12 * (1 << 30)


def test_flink_gets_the_heap_that_is_configured_as_the_rest_of_the_process() -> None:
    memory = TaskMemory.of(JOINER, FLINK)
    settings = {name.removeprefix("taskmanager.memory."): int(size[:-1]) for name, size in memory.settings().items()}
    overhead = min(max(settings["process.size"] // 10, 192), 1024)  # as Flink has it
    others = settings["managed.size"] + settings["task.off-heap.size"] + settings["network.max"] + 128 + 256 + overhead
    assert abs(settings["process.size"] - others - FLINK.heap_bytes // _MIB) <= 2
    assert memory.process_bytes == memory.heap_bytes + memory.managed_bytes + NETWORK_BYTES + (
        memory.python_bytes + memory.jvm_bytes
    )


@pytest.mark.parametrize(("parallelism", "subtasks", "share"), [(1, 1, 512), (2, 1, 512), (8, 1, 128), (8, 8, 512)])
def test_a_process_of_few_subtasks_holds_few_of_the_actions_that_wait(
    parallelism: int, subtasks: int, share: int
) -> None:
    memory = TaskMemory.of(JOINER, FlinkConfig(parallelism=parallelism), subtasks=subtasks)
    assert memory.waiting_bytes == share * _MIB
    assert memory.features_bytes == subtasks << 30


def test_in_process_mode_each_python_operator_of_each_subtask_is_an_interpreter() -> None:
    def interpreters(flink: FlinkConfig) -> int:
        return TaskMemory.of(JOINER, flink, subtasks=4, converted_topics=2).interpreters_bytes // INTERPRETER_BYTES

    assert (interpreters(FLINK), interpreters(replace(FLINK, execution_mode="process"))) == (1, 12)
