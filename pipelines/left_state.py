"""Whether the last run of a joiner has left its state where the next start looks for it."""

from __future__ import annotations

from collections.abc import Mapping

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.lag import GroupLag
from rillet.joiner import JoinerError, JoinerRuns


def check_left(runs: JoinerRuns, kafka: KafkaConnection | str, groups: Mapping[str, str]) -> None:
    """Refuses to go on from an older run than the one that has written the last rows.

    ``flink stop`` puts its savepoint where the cluster's configuration or its argument says, whatever the job does, and Flink
    then deletes the checkpoints. And somebody may move a savepoint, or delete it.

    :param groups: raw topic to the joiner's consumer group, put back by each start.
    :raises JoinerError: the last run has read records, and its state is not in its folder.
    """
    if (run := runs.without_state) is None:
        return
    with GroupLag(kafka, groups) as lag:
        if not lag.has_read():
            return
    raise JoinerError(
        f"{run.folder}: the last run has written rows, and its state is not here: it was stopped with a savepoint elsewhere, or its"
        f" savepoint was moved. To go on from it, move its folder (savepoint-...) into {run.savepoint_dir(drained=False)}, or into"
        f" {run.savepoint_dir(drained=True)} where it was drained (rillet join, and on a cluster deploy/stop-joiner.sh, stop so that it"
        f" is there). To go on from the state before it, or from nothing, and write rows again, delete {run.folder}"
    )
