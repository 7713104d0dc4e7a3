"""What Flink is told of the joiner's job, as plain settings: the same in the mini-cluster, on a cluster and on Kubernetes."""

from __future__ import annotations

from pathlib import Path

from rillet.operators.flink_config import FlinkConfig
from rillet.operators.key_groups import KEY_GROUPS


def job_name(runs: Path | None = None) -> str:
    """What the job is called on its cluster: the joiners of one cluster are told apart by the folders of their runs.

    >>> job_name(Path("/state/films"))
    'rillet joiner /state/films'
    """
    return "rillet joiner" if runs is None else f"rillet joiner {runs}"


def job_settings(
    config: FlinkConfig, *, runs: Path | None = None, idle_sources: bool = True, restore_from: str | None = None
) -> dict[str, str]:
    """Settings that belong to the job, whichever cluster it runs on.

    :param runs: see :func:`job_name`.
    :param idle_sources: whether partitions without records stop to hold the watermark back.
    :param restore_from: URI of the savepoint or checkpoint to go on from.
    """
    settings = {
        "python.execution-mode": config.execution_mode,
        "python.fn-execution.bundle.time": str(config.bundle_time_ms),
        # Python has memory of its own, see memory.py: all of the managed memory is RocksDB's.
        "python.fn-execution.memory.managed": "false",
        "pipeline.name": job_name(runs),
        "pipeline.object-reuse": "true",
        # An operator without a uid is refused: its state could not be found again in a job that was changed.
        "pipeline.auto-generate-uids": "false",
        "parallelism.default": str(config.parallelism),
        # Never another: Flink goes on with no state of other key groups, offsets included.
        "pipeline.max-parallelism": str(KEY_GROUPS),
        # The joiner keeps what it needs again; PyFlink would hold a thousand entries of each bucket in the worker besides.
        "python.map-state.read-cache-size": "1",
        # A header and a map of each bucket, so that their changes go to Flink once per bundle.
        "python.state.cache-size": str(2 * KEY_GROUPS),
        # In which times become text, see the SQL of operators/topic_sql.py.
        "table.local-time-zone": "UTC",
        "execution.checkpointing.interval": f"{config.checkpoint_interval_ms} ms",
        "execution.checkpointing.timeout": f"{config.checkpoint_timeout_ms} ms",
        "execution.checkpointing.tolerable-failed-checkpoints": str(config.tolerated_failed_checkpoints),
        "execution.checkpointing.num-retained": str(config.retained_checkpoints),
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.incremental": str(config.state_backend == "rocksdb").lower(),
        "state.backend.type": config.state_backend,
        # Most of what is asked of the state is whether a request that is new was there before.
        "state.backend.rocksdb.use-bloom-filter": "true",
    }
    if idle_sources:
        # That a topic is silent as a whole is known by what checkpoints have committed: it has to be known before.
        settings["table.exec.source.idle-timeout"] = f"{config.idle_ms + 2 * config.checkpoint_interval_ms} ms"
    if restore_from is not None:
        settings["execution.state-recovery.path"] = restore_from
        # A drained join of other settings: nothing of it is needed but the offsets of the same topics.
        settings["execution.state-recovery.ignore-unclaimed-state"] = "true"
    return settings | _restarts(config)


def _restarts(config: FlinkConfig) -> dict[str, str]:
    """Bounded, since Flink would otherwise restart a job that cannot start for ever.

    Flink counts failures that follow each other: the count begins anew when the job has run for the threshold since its
    last restart. The threshold is an hour by default, in which ten failures with long stretches of work between them
    would end the job.
    """
    if not config.max_restarts:
        return {"restart-strategy.type": "none"}
    prefix = "restart-strategy.exponential-delay"
    return {
        "restart-strategy.type": "exponential-delay",
        f"{prefix}.initial-backoff": "1 s",
        f"{prefix}.backoff-multiplier": "2.0",
        f"{prefix}.max-backoff": "2 min",
        f"{prefix}.jitter-factor": "0.1",
        f"{prefix}.reset-backoff-threshold": f"{config.stable_ms} ms",
        f"{prefix}.attempts-before-reset-backoff": str(config.max_restarts),
    }
