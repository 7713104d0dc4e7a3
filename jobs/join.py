"""``rillet join``: the joiner job in Flink's mini-cluster, in this process, until told to stop.

A restart goes on from the savepoint of the last clean stop, or from the newest checkpoint after a crash.
On a cluster the same job is submitted with ``flink run -py jobs/joiner_job.py`` instead.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from rillet.connectors.start_positions import StartAt
from rillet.jobs.config import RilletConfig
from rillet.jobs.data_lock import hold
from rillet.jobs.joiner_run import Bounds, prepare, run_to_end
from rillet.jobs.signals import end_at_once_on_signals

log = logging.getLogger(__name__)


def run_join(
    config: RilletConfig, *, until_latest: bool = False, drain: bool = False, start: StartAt | None = None
) -> int:
    """Runs the joiner until SIGTERM or SIGINT, or until it has read up to the present ends of the topics.

    Either way it ends with a savepoint, from which the next start goes on.

    :param until_latest: stop at the ends that the topics have now.
    :param drain: at the end close every open window, instead of keeping them in the savepoint.
    :param start: where a first start begins to read; at the beginning of the topics without one.
    :raises BrokerUnavailableError: no broker answers.
    :raises JoinerError: windows are open that were opened with other settings, or settings cannot work; or there is
        state, and so no first start.
    :raises ServiceError: another joiner runs on the same data_dir; or the job failed, with Flink's root cause.
    """
    # Until there is a job, there is nothing to keep.
    end_at_once_on_signals()
    with hold(config.data_dir, "join") as lock:
        prepare(config, lock)
        at_ends = Bounds(start, lambda lag: lag.ends(), drain)
        run_to_end(config, at_ends if until_latest else Bounds(start))
        if drain and not until_latest:
            # Sources that have nothing to read may be idle, and drop what a drain tells them; and what lies on the topics
            # may belong to windows that a drain closes.
            log.info("closing every window in a run of its own, which reads up to the ends of the topics")
            run_to_end(config, replace(at_ends, start=None))
    return 0
