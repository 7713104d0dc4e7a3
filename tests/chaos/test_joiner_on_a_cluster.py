"""The joiner on a real Flink cluster beside a real broker, while parts of both are killed: no row is lost, doubled or wrong."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rillet.devstack.broker import Broker
from rillet.jobs.errors import ServiceError
from rillet.schemas import ActionEvent, FeatureEvent, SpecRegistry, dump_spec
from rillet.schemas.conversion import SpecConversion, without_idle_rows
from tests.chaos.deployment import FLINK, JOINER, Deployment
from tests.chaos.ha_cluster import HaCluster, ha_cluster
from tests.chaos.traffic import MODES, START_MS, Event, make_events
from tests.joiner.specs import CHANGES
from tests.simulation.joiner_oracle import Row, oracle, rows_of

pytestmark = [pytest.mark.long, pytest.mark.integration, pytest.mark.timeout(900)]

#: 250 s of events, sent in 50 s
EVENTS = make_events(5_000, 250_000)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HaCluster]:
    failed_before = request.session.testsfailed
    with ha_cluster(tmp_path / "flink", task_managers=getattr(request, "param", 1)) as running:
        yield running
        if request.session.testsfailed > failed_before:
            print(running.complaints())


@pytest.fixture
def joiner(cluster: HaCluster, broker: str, tmp_path: Path) -> Deployment:
    return Deployment(cluster, tmp_path / tmp_path.name, broker)


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_killed_task_managers_cost_time_and_no_row(joiner: Deployment) -> None:
    """First a spare one takes over, then there is none until another is started: state, offsets and transactions go along."""
    joiner.start()
    cluster, took = joiner.cluster, []
    with joiner.watching() as watched:
        with joiner.traffic(EVENTS) as traffic:
            for share, another in ((0.2, False), (0.6, True)):
                traffic.wait_for(share)
                before = joiner.checkpoint
                cluster.task_manager(joiner.task_manager()).stop(kill=True)
                if another:
                    cluster.start_task_manager(2)
                took.append(joiner.recovered(before))
        joiner.drain()
    joiner.tell(joiner.judged(EVENTS).found, spare_s=took[0], started_s=took[1])
    assert watched.restarts >= 2
    assert any("the job has failed and goes on" in line for line in watched.alarms)


def test_a_killed_job_manager_is_followed_by_the_one_that_stands_by(joiner: Deployment) -> None:
    """The job is recovered from what ZooKeeper points at, not from the state that it was submitted with."""
    joiner.start()
    standby = joiner.cluster.start_job_manager(1)
    with joiner.watching() as watched, joiner.traffic(EVENTS, 3.5) as traffic:
        traffic.wait_for(0.3)
        before = joiner.checkpoint
        joiner.cluster.job_manager_number(0).stop(kill=True)
        joiner.cluster = standby
        took = joiner.recovered(before)
        # Once more, with none that stands by: another one is started.
        traffic.wait_for(0.6)
        before = joiner.checkpoint
        standby.job_manager_number(1).stop(kill=True)
        joiner.cluster = standby.start_job_manager(2)
        again = joiner.recovered(before)
    joiner.drain()
    joiner.tell(joiner.judged(EVENTS).found, standby_s=took, started_s=again)
    assert watched.figures is not None


@pytest.mark.parametrize("away_s", [3, 30])
def test_a_killed_broker_is_waited_for(joiner: Deployment, broker_process: Broker, away_s: int) -> None:
    """Also where it is away for longer than a partition has to be silent to be left out of the watermark."""
    joiner.start()
    with joiner.watching(), joiner.traffic(EVENTS, 3.0) as traffic:
        traffic.wait_for(0.3)
        before = joiner.checkpoint
        broker_process.stop(kill=True)
        try:
            time.sleep(away_s)
        finally:
            broker_process.start()
        took = joiner.recovered(before)
        closed = joiner.windows_close(traffic.now_ms)
    joiner.drain()
    joiner.tell(joiner.judged(EVENTS).found, recovery_s=took, windows_close_s=closed)


@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_a_rescaled_joiner_goes_on_with_every_open_request(joiner: Deployment) -> None:
    """One subtask, three, two: a start goes on from the savepoint of the last one, and from nothing else."""
    joiner.start()
    with joiner.watching(), joiner.traffic(EVENTS, 3.0) as traffic:
        traffic.wait_for(0.2)
        began = time.monotonic()
        savepoint = joiner.stop_elsewhere()
        joiner.configure(replace(FLINK, parallelism=3))
        with pytest.raises(ServiceError, match="its state is not here"):
            joiner.start()
        stopped = joiner.runs.folder / "000001" / "stopped"
        stopped.mkdir()
        savepoint.rename(stopped / savepoint.name)
        joiner.start()
        to_three = time.monotonic() - began
        traffic.wait_for(0.6)
        began = time.monotonic()
        joiner.stop()
        joiner.configure(replace(FLINK, parallelism=2))
        joiner.start()
        to_two = time.monotonic() - began
    joiner.drain()
    joiner.tell(joiner.judged(EVENTS).found, to_three_s=to_three, to_two_s=to_two)


def test_a_changed_spec_is_rolled_out_under_traffic(joiner: Deployment) -> None:
    """Each request has the rows of the spec that the joiner had when it came, whichever spec its producer had."""
    new = CHANGES["everything"]
    conversion = SpecConversion(MODES, new)
    events: list[Event] = [
        conversion.feature(event) if isinstance(event, FeatureEvent) and _sent_new(at / len(EVENTS), at) else event
        for at, event in enumerate(EVENTS)
    ]
    folder = joiner.made.path.parent
    (folder / "new.toml").write_text(dump_spec(new))
    joiner.use_specs("spec.toml", "new.toml")
    joiner.start()
    with joiner.watching(), joiner.traffic(events) as traffic:
        traffic.wait_for(0.5)
        joiner.stop()
        joiner.use_specs("new.toml", "spec.toml")
        joiner.start()
    joiner.drain()
    features = {event.request_id: event for event in EVENTS if isinstance(event, FeatureEvent)}
    actions = [event for event in EVENTS if isinstance(event, ActionEvent)]
    before = _by_request(oracle(MODES, features.values(), actions))
    after = _by_request(oracle(new, map(conversion.feature, features.values()), actions))
    specs = SpecRegistry(new, [MODES])
    taught = [without_idle_rows(specs.block(block)) for block in joiner.made.blocks()]
    found = _by_request(rows_of(new, [block for block in taught if len(block)]))
    of_old = 0
    for partition in joiner.requests_by_partition():
        # The savepoint lies between two requests of each partition, and tells nobody between which.
        cut = next(at for at, request_id in enumerate(partition) if found[request_id] != before[request_id])
        later = {request_id: (found[request_id], after[request_id]) for request_id in partition[cut:]}
        assert {request_id: pair for request_id, pair in later.items() if pair[0] != pair[1]} == {}
        of_old += cut
    assert 0.3 * len(features) < of_old < 0.7 * len(features)
    report = joiner.made.audit()
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.late_dropped, report.unusable_events) == (len(features), 0, 0)
    # A request that either spec gives the same rows counts for the new one.
    under_old, under_new = report.requests_by_spec.values()
    assert 0.9 * of_old < under_old <= of_old
    assert under_old + under_new == len(features)
    assert (joiner.dead_letters(), joiner.lost) == (0, False), joiner.watched.alarms
    joiner.tell(sum(map(len, found.values())), of_old_spec=of_old)


def _by_request(rows: list[Row]) -> dict[object, list[Row]]:
    found: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


def _sent_new(share: float, at: int) -> bool:
    """More and more producers are on the new spec, from the second tenth on; all are, at last."""
    return at * 7919 % 1_000 < 1_000 * (share - 0.1) / 0.7


def test_an_outage_of_six_hours_is_caught_up_with_and_a_replay_gives_the_same_rows(
    cluster: HaCluster, broker: str, tmp_path: Path
) -> None:
    """The job ends for good; what came meanwhile is read at full speed, and a TaskManager is killed while it is."""
    # Hours lie in what is read at once before partitions are read side by side, too many for slices of seconds.
    config = replace(JOINER, slice_ms=60_000, memory_bytes=16 << 20)
    joiner = Deployment(cluster, tmp_path / tmp_path.name, broker, config)
    hours = 6 * 3_600_000
    events = make_events(12_000, hours + 600_000)
    first, rest = START_MS + 300_000, START_MS + 300_000 + hours
    parts = [
        [event for event in events if begin <= event.event_time_ms < end]
        for begin, end in ((0, first), (first, rest), (rest, 2 * rest))
    ]
    joiner.start()
    with joiner.watching() as watched:
        with joiner.traffic(parts[0], 20.0):
            pass
        joiner.cancel()
        with joiner.traffic(parts[1], None):
            pass
        began = time.monotonic()
        joiner.start()
        with joiner.traffic(parts[2], 20.0):
            before = joiner.checkpoint
            cluster.task_manager(0).stop(kill=True)
            cluster.start_task_manager(1)
            joiner.recovered(before)
            joiner.wait_read()
            took = time.monotonic() - began
        joiner.drain()
    joiner.tell(joiner.judged(events).found, caught_up_s=took)
    assert watched.restarts
    again = Deployment(cluster, tmp_path / f"{tmp_path.name}-again", broker, config, raw_topics_of=joiner.made)
    again.start()
    again.drain()
    again.judged(events)
    assert again.rows() == joiner.rows()
