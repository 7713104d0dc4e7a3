"""The demo's joiner: started so that it can be drained, watched for its lag, drained.

Flink commits its offsets to its consumer groups at each checkpoint; nothing but this reads them. From the lag
follow the driver's pace, so that a slow machine is driven slower, and the moment when the joiner may be drained.
"""

from __future__ import annotations

import sys
import time

from rillet.connectors.lag import GroupLag
from rillet.demo.errors import DemoError
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig
from rillet.jobs.toolchain import python_environment

_START_TIMEOUT_S = 180.0
_DRAIN_TIMEOUT_S = 180.0
#: the joiner's consumer groups are this and the name of the table (``rillet.jobs.joiner_job.JobOptions``)
GROUP_PREFIX = "rillet-joiner"


def joiner_lag(config: RilletConfig) -> GroupLag:
    """The features and actions on their topics after the joiner's last checkpoint."""
    topics = config.kafka.topics
    groups = {topics.features: f"{GROUP_PREFIX}-features", topics.actions: f"{GROUP_PREFIX}-actions"}
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
    command = [sys.executable, "-m", "rillet", "join", "--drain", "--config", str(stack.config_path)]
    stack.process("join").start(command, python_environment())


def wait_for_joiner(stack: Stack) -> None:
    """Waits for the first checkpoint: Flink calls a job running before its tasks are, and only tasks checkpoint.

    :raises ServiceError: it died, or took too long.
    """
    checkpoints = stack.config.data_dir / "joiner" / "checkpoints"
    stack.process("join").wait_until(lambda: any(checkpoints.glob("*/chk-*/_metadata")), _START_TIMEOUT_S)


def drain_joiner(stack: Stack) -> None:
    """Lets the joiner emit what is still open, commit it, and end.

    :raises DemoError: it failed, or did not end in time.
    """
    process = stack.process("join")
    started = time.monotonic()
    process.stop(timeout_s=_DRAIN_TIMEOUT_S)
    if time.monotonic() - started >= _DRAIN_TIMEOUT_S:
        raise DemoError(f"the joiner did not finish within {_DRAIN_TIMEOUT_S:.0f} s, see {process.log}")
