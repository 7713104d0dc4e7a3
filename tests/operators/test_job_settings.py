"""What Flink is told of the job: it restarts while that helps, tolerates failed checkpoints, and keeps few of the good ones."""

from __future__ import annotations

from pathlib import Path

from rillet.operators.flink_config import FlinkConfig
from rillet.operators.job_settings import job_settings

DELAY = "restart-strategy.exponential-delay"


def test_restarts_are_counted_anew_after_a_stable_stretch() -> None:
    """Flink's threshold is an hour by default: failures of an unstable hour would end a job that works between them."""
    settings = job_settings(FlinkConfig(max_restarts=7, stable_ms=120_000))
    assert settings["restart-strategy.type"] == "exponential-delay"
    assert settings[f"{DELAY}.reset-backoff-threshold"] == "120000 ms"
    assert settings[f"{DELAY}.attempts-before-reset-backoff"] == "7"
    assert job_settings(FlinkConfig(max_restarts=0))["restart-strategy.type"] == "none"


def test_restarts_outlast_a_broker_that_is_away_for_a_while() -> None:
    """Each attempt of a sink without a broker takes a minute; the delays between attempts alone last half an hour."""
    config = FlinkConfig()
    waits_s = [min(2.0**attempt, 120.0) for attempt in range(config.max_restarts)]
    settings = job_settings(config)
    assert (settings[f"{DELAY}.initial-backoff"], settings[f"{DELAY}.max-backoff"]) == ("1 s", "2 min")
    assert settings[f"{DELAY}.backoff-multiplier"] == "2.0"
    assert sum(waits_s) > 1_500


def test_some_checkpoints_may_fail_and_few_complete_ones_stay() -> None:
    settings = job_settings(
        FlinkConfig(tolerated_failed_checkpoints=2, checkpoint_timeout_ms=30_000, retained_checkpoints=4)
    )
    prefix = "execution.checkpointing"
    assert settings[f"{prefix}.tolerable-failed-checkpoints"] == "2"
    assert (settings[f"{prefix}.timeout"], settings[f"{prefix}.num-retained"]) == ("30000 ms", "4")


def test_a_drain_has_no_idle_sources() -> None:
    name = "table.exec.source.idle-timeout"
    assert job_settings(FlinkConfig(idle_ms=30_000, checkpoint_interval_ms=5_000))[name] == "40000 ms"
    assert name not in job_settings(FlinkConfig(), idle_sources=False)


def test_only_a_start_from_state_names_it() -> None:
    assert not any("state-recovery" in name for name in job_settings(FlinkConfig()))
    settings = job_settings(FlinkConfig(), restore_from="file:///s")
    assert settings["execution.state-recovery.path"] == "file:///s"
    assert settings["execution.state-recovery.ignore-unclaimed-state"] == "true"


def test_the_joiners_of_one_cluster_have_names_of_their_own() -> None:
    names = [job_settings(FlinkConfig(), runs=runs)["pipeline.name"] for runs in (None, Path("/a"), Path("/b"))]
    assert names == ["rillet joiner", "rillet joiner /a", "rillet joiner /b"]
