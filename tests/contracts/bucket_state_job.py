"""Runs the suite of bucket states inside a Flink task, on keyed state; prints what it breaks as JSON.

A process of its own, because Flink's JVM and its settings stay with the process that started them:
``python -m tests.contracts.bucket_state_job thread rocksdb``.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from rillet.jobs.toolchain import python_environment

os.environ.update(python_environment())

from pyflink.common import Configuration, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext, StreamExecutionEnvironment

from rillet.operators.joiner_function import FlinkBucketState
from tests.contracts.bucket_state_suite import STEPS, broken_rules, perform


class Suite(KeyedProcessFunction):  # type: ignore[misc]
    """One step of the suite per element; timers are the wake-ups."""

    def open(self, runtime_context: RuntimeContext) -> None:
        self._state = FlinkBucketState(runtime_context)

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[str]:
        number = value[1]
        result = perform(STEPS[number], self._state.at(ctx.timer_service()))
        yield repr(("result", number, result))

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[str]:
        key = ctx.get_current_key()
        yield repr(("wake-up", key[0] if isinstance(key, tuple) else key, timestamp))


def main(execution_mode: str, backend: str) -> list[str]:
    """The rules that Flink's state breaks."""
    flink = Configuration()
    for name, value in {
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "python.execution-mode": execution_mode,
        "state.backend.type": backend,
        "python.map-state.read-cache-size": "1",
        "parallelism.default": "1",
        "rest.bind-port": "0",
        "restart-strategy.type": "none",
        "taskmanager.memory.managed.size": "128m",
    }.items():
        flink.set_string(name, value)
    env = StreamExecutionEnvironment.get_execution_environment(flink)
    steps = [(step.bucket, number) for number, step in enumerate(STEPS)]
    stream = env.from_collection(steps, Types.TUPLE([Types.INT(), Types.INT()]))
    keyed = stream.key_by(lambda step: step[0], Types.INT())
    results: dict[int, Any] = {}
    wake_ups: list[tuple[int, int]] = []
    with keyed.process(Suite(), Types.STRING()).execute_and_collect() as outputs:
        for output in outputs:
            kind, first, second = ast.literal_eval(output)
            if kind == "result":
                results[first] = second
            else:
                wake_ups.append((first, second))
    return broken_rules([results[number] for number in range(len(STEPS))], wake_ups)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
