"""Says what an operator has to know of the Flink job itself: restarts, checkpoints that fail, rows that are lost."""

from __future__ import annotations

from rillet.connectors.flink_metrics import JobFigures


class JobAlarms:
    """Watches a job's figures; each change for the worse is told once."""

    def __init__(self, tolerated_failed_checkpoints: int, max_restarts: int) -> None:
        self._tolerated, self._max_restarts = tolerated_failed_checkpoints, max_restarts
        self._restarts = self._lost = self._failed = 0

    def judge(self, figures: JobFigures) -> list[str]:
        """What has to be told now, one line each."""
        lines, lost = [], figures.lost_transactions or 0
        if figures.restarts > self._restarts:
            lines.append(
                f"the job has failed and goes on from its last checkpoint, restart {figures.restarts} since the start (it ends"
                f" after {self._max_restarts} that follow each other): {figures.failure or 'no cause is known'}"
            )
        if figures.failed_in_a_row > self._failed:
            lines.append(
                f"checkpoints fail, {figures.failed_in_a_row} one after the other, and no row goes out (beyond"
                f" {self._tolerated} the job is restarted): {figures.checkpoint_failure}; is the broker slow, or the disk, or"
                " [flink] checkpoint_timeout_ms too short for rillet_joiner_checkpoint_bytes?"
            )
        if lost > self._lost:
            lines.append(
                f"rows are lost: {lost - self._lost} transactions could not be committed, since the broker"
                " had ended them. Raise [flink] transaction_timeout_ms, and the broker's transaction.max.timeout.ms, above the"
                " longest outage; `rillet backfill` writes the rows of the time again"
            )
        self._restarts, self._failed, self._lost = figures.restarts, figures.failed_in_a_row, lost
        return lines
