"""The demo's joiner: started so that it can be drained, watched for its lag, drained.

Flink commits its offsets to its consumer groups at each checkpoint; nothing but this reads them. From the lag
follow the driver's pace, so that a slow machine is driven slower, and the moment when the joiner may be drained.
"""

from __future__ import annotations

import time

from rillet.connectors.lag import GroupLag
from rillet.demo.errors import DemoError
from rillet.devstack.configuration import record
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig
from rillet.jobs.toolchain import python_environment
from rillet.operators.flink_config import joiner_group

_DRAIN_TIMEOUT_S = 180.0


def joiner_lag(config: RilletConfig) -> GroupLag:
    """The features and actions on their topics after the joiner's last checkpoint."""
    topics = config.kafka.topics
    groups = {
        topics.features: joiner_group(topics.examples, "features"),
        topics.actions: joiner_group(topics.examples, "actions"),
    }
    return GroupLag(config.kafka.connection, groups)


def next_rate(rate: float, target: float, lag_records: int) -> float:
    """Requests per second to drive at, given the rate now and the joiner's lag.

    Falls by a third per second while the joiner's lag is more than five seconds' worth, else climbs by a tenth.
    """
    # A request is worth a feature event and about two actions.
    if lag_records > 15 * rate:
        return max(0.1 * target, rate * 0.67)
    return min(target, rate * 1.1)


def start_joiner(stack: Stack) -> None:
    """Starts the joiner so that a SIGTERM closes every open window (a drain) instead of keeping it for later."""
    command = [*stack.command("join"), "--drain"]
    stack.process("join").start(command, python_environment(), configuration=record(stack.config))


def drain_joiner(stack: Stack) -> None:
    """Lets the joiner emit what is still open, commit it, and end.

    :raises DemoError: it failed, or did not end in time.
    """
    process = stack.process("join")
    started = time.monotonic()
    process.stop(timeout_s=_DRAIN_TIMEOUT_S)
    if time.monotonic() - started >= _DRAIN_TIMEOUT_S:
        raise DemoError(f"the joiner did not finish within {_DRAIN_TIMEOUT_S:.0f} s, see {process.log}")
