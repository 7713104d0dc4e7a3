"""What is told of the Flink job: each restart with its cause, checkpoints that fail one after the other, lost rows."""

from __future__ import annotations

from rillet.connectors.flink_metrics import JobFigures
from rillet.pipelines.job_alarms import JobAlarms

WELL = JobFigures(0, "", 7, 0, 0, "", 1_000, 10, 50, 0)


def test_a_job_that_does_well_is_not_told_of() -> None:
    alarms = JobAlarms(3, 20)
    assert alarms.judge(WELL) == alarms.judge(WELL._replace(completed_checkpoints=8)) == []


def test_each_restart_is_told_with_its_cause() -> None:
    alarms = JobAlarms(3, 20)
    failed = WELL._replace(restarts=1, failure="TimeoutException: no broker")
    (line,) = alarms.judge(failed)
    assert "restart 1 since the start (it ends after 20 that follow each other): TimeoutException: no broker" in line
    assert alarms.judge(failed) == []
    assert "restart 3" in alarms.judge(failed._replace(restarts=3))[0]


def test_checkpoints_that_fail_one_after_the_other_are_told_as_they_grow_and_anew_after_a_good_one() -> None:
    alarms = JobAlarms(3, 20)
    failing = WELL._replace(failed_in_a_row=2, failed_checkpoints=2, checkpoint_failure="expired")
    (line,) = alarms.judge(failing)
    assert line.startswith(
        "checkpoints fail, 2 one after the other, and no row goes out (beyond 3 the job is restarted)"
    )
    assert "expired" in line
    assert alarms.judge(failing) == []
    assert "checkpoints fail, 3" in alarms.judge(failing._replace(failed_in_a_row=3))[0]
    assert alarms.judge(WELL) == []
    assert "checkpoints fail, 1" in alarms.judge(failing._replace(failed_in_a_row=1))[0]


def test_rows_that_the_broker_dropped_are_told_with_what_brings_them_back() -> None:
    """Flink goes on without a word after a transaction that is not there any more."""
    alarms = JobAlarms(3, 20)
    (line,) = alarms.judge(WELL._replace(lost_transactions=2))
    assert line.startswith("rows are lost: 2 transactions could not be committed")
    assert "transaction_timeout_ms" in line
    assert "rillet backfill" in line
    assert alarms.judge(WELL._replace(lost_transactions=2)) == []
    assert "rows are lost: 1 transactions" in alarms.judge(WELL._replace(lost_transactions=3))[0]
