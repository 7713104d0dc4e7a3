"""The joiner as it is deployed on a cluster: submitted, watched for alarms, stopped, and its topics judged."""

from __future__ import annotations

import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rillet.audit.comparison import AuditReport
from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import FlinkJob, JobFigures
from rillet.connectors.topic_reader import read_topic
from rillet.demo.joiner import joiner_lag
from rillet.jobs.config import dump_config
from rillet.joiner import JoinerConfig, JoinerRuns
from rillet.operators.flink_config import FlinkConfig
from rillet.pipelines.job_alarms import JobAlarms
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, LabelKind
from tests.chaos.ha_cluster import HaCluster
from tests.chaos.traffic import MODES, Event, Traffic, wait_until
from tests.jobs.joiner_runs import JoinerRun, make_run
from tests.simulation.joiner_oracle import oracle, rows_of

SCRIPT = Path(__file__).parents[2] / "jobs" / "joiner_job.py"
#: enough buckets for three subtasks, and so little memory that most requests are read from disk or Flink's state
JOINER = JoinerConfig(buckets=64, slice_ms=10_000, memory_bytes=1 << 20)
#: a topic that is read later than the other for a moment makes nothing late; idle for less than an outage of the broker
FLINK = FlinkConfig(lateness_ms=5_000, idle_ms=8_000, max_drift_ms=120_000, checkpoint_interval_ms=1_000)
STOP = SCRIPT.parents[1] / "deploy" / "stop-joiner.sh"
#: within which anything that is waited for has to come; on a busy machine a start of Java alone takes half a minute
WAIT_S = 240.0


@dataclass
class Watched:
    """What the alarms of a cluster would have said, and the last figures."""

    alarms: list[str] = field(default_factory=list)
    figures: JobFigures | None = None
    restarts: int = 0


class Deployment:
    """One joiner with topics and a folder of runs of its own."""

    def __init__(
        self,
        cluster: HaCluster,
        folder: Path,
        servers: str,
        config: JoinerConfig = JOINER,
        raw_topics_of: JoinerRun | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.made = make_run(folder, servers, joiner=config, flink=FLINK, spec=MODES, raw_topics_of=raw_topics_of)
        self.config = self.made.config
        self.runs = JoinerRuns(folder / "runs")
        self.watched = Watched()
        self._job = ""
        self._restored_ms: int | None = None

    def traffic(self, events: Sequence[Event], speed: float | None = 5.0) -> Traffic:
        """Not yet begun."""
        return Traffic(self.config.kafka.bootstrap_servers, self.config.kafka.topics, events, speed)

    def use_specs(self, current: str, other: str) -> None:
        """Holds from the next start on."""
        self.config = replace(self.config, spec=Path(current), also_accepts=(Path(other),))
        self.made.path.write_text(dump_config(self.config))

    def configure(self, flink: FlinkConfig) -> None:
        """Holds from the next start on."""
        self.config = replace(self.config, flink=flink)
        self.made.path.write_text(dump_config(self.config))

    def start(self) -> None:
        """Submits the job, which goes on from its newest run, and waits for its first checkpoint."""
        arguments = ["--config", str(self.made.path), "--runs", str(self.runs.folder)]
        arguments += ["--local-dir", str(self.made.path.parent)]
        snapshot = self.runs.newest.snapshot if self.runs.newest is not None else None
        of_checkpoint = snapshot is not None and snapshot.name.startswith("chk-")
        self._restored_ms = snapshot.stat().st_mtime_ns // 1_000_000 if snapshot and of_checkpoint else None
        self._job = self.cluster.submit(SCRIPT, arguments)
        newest = self.runs.folder / max(path.name for path in self.runs.folder.iterdir())
        wait_until(lambda: bool(list(newest.rglob("chk-*/_metadata"))), WAIT_S, "the first checkpoint")

    def task_manager(self) -> int:
        """Number of a TaskManager that runs a subtask of the join."""
        busy = self.cluster.busy_task_managers()
        assert busy, "no TaskManager runs a task"
        return busy[0]

    @property
    def checkpoint(self) -> int:
        """Number of the newest complete checkpoint; over restarts it only grows."""
        newest = self.runs.newest
        found = newest.checkpoints if newest is not None else []
        return int(found[-1].name.removeprefix("chk-")) if found else 0

    def recovered(self, before: int) -> float:
        """Waits for checkpoints that were begun after a fault; the seconds.

        :param before: the newest checkpoint at the fault: the next one may have been under way.
        """
        return wait_until(lambda: self.checkpoint > before + 1, WAIT_S, "a checkpoint after the fault")

    def windows_close(self, after_ms: int) -> float:
        """Waits until windows of requests after an event time close, and nothing holds them any more; the seconds."""

        def closed(block: ExampleBlock) -> bool:
            of_negatives = block.feature_time_ms[block.label_kind == LabelKind.NEGATIVE]
            return bool((of_negatives > after_ms).any())

        return wait_until(lambda: any(map(closed, self.made.blocks())), WAIT_S, "a window that closes", pause_s=2.0)

    @contextmanager
    def watching(self) -> Iterator[Watched]:
        """Asks for the job's figures every second as ``rillet join`` does, and judges them."""
        ended = threading.Event()

        def watch() -> None:
            asked, job, alarms = ("", ""), *self._new_watch()
            while not ended.wait(1.0):
                if asked != (now := (self.cluster.rest_url, self._job)):
                    asked, job, alarms = now, *self._new_watch()
                try:
                    figures = job.read()
                except ConnectorError:  # no JobManager, or the job is being recovered
                    continue
                self.watched.figures = figures
                self.watched.restarts = max(self.watched.restarts, figures.restarts)
                self.watched.alarms += alarms.judge(figures)

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield self.watched
        finally:
            ended.set()
            thread.join(30)

    def _new_watch(self) -> tuple[FlinkJob, JobAlarms]:
        """What asks the job that runs now, as it is seen from the JobManager of now."""
        job = FlinkJob(
            self.cluster.rest_url,
            self._job,
            transaction_timeout_ms=FLINK.transaction_timeout_ms,
            longest_transaction_ms=FLINK.longest_transaction_ms,
            restored_ms=self._restored_ms,
        )
        return job, JobAlarms(FLINK.tolerated_failed_checkpoints, FLINK.max_restarts)

    def stop(self) -> None:
        """As deploy/stop-joiner.sh does: open windows are kept."""
        command = [str(STOP), str(self.runs.folder)]
        done = subprocess.run(
            command, env=self.cluster.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._ended()

    def stop_elsewhere(self) -> Path:
        """``flink stop JOB``: the savepoint, which lies where the cluster's configuration says."""
        savepoint = self.cluster.stop_job(self._job)
        self._ended()
        return savepoint

    def _ended(self, state: str = "FINISHED") -> None:
        wait_until(lambda: self.cluster.job_state(self._job) == state, WAIT_S, "the end of the job")

    def cancel(self) -> None:
        """``flink cancel JOB``: as if it had failed for good."""
        self.cluster.cancel(self._job)
        self._ended("CANCELED")

    def wait_read(self) -> None:
        """Waits until a checkpoint has read all that is on the topics."""
        with joiner_lag(self.config) as lag:
            wait_until(lambda: lag.records() == 0, WAIT_S, "the ends of the topics")

    def drain(self) -> None:
        """Closes every window once all is read."""
        self.wait_read()
        self.cluster.drain(self._job)
        self._ended()

    def judged(self, events: Sequence[Event], spec: FeatureSpec = MODES) -> AuditReport:
        """The audit, which has to be clean; and the rows, which have to be those of an oracle of the events that were sent."""
        report = self.made.audit()
        assert report.ok, "\n".join(report.lines())
        assert (report.late_dropped, report.unusable_events) == (0, 0), "\n".join(report.lines())
        features = [event for event in events if isinstance(event, FeatureEvent)]
        actions = [event for event in events if isinstance(event, ActionEvent)]
        assert report.requests == len(features)
        assert rows_of(spec, self.made.blocks()) == oracle(spec, features, actions)
        assert self.dead_letters() == 0
        assert not self.lost, self.watched.alarms
        return report

    @property
    def lost(self) -> bool:
        """Whether an alarm has told of rows that are lost."""
        return any(line.startswith("rows are lost") for line in self.watched.alarms)

    def dead_letters(self) -> int:
        """How many there are."""
        return sum(1 for _ in read_topic(self.config.kafka.connection, self.config.kafka.topics.dead_letters))

    def rows(self) -> list[tuple[object, ...]]:
        """Every column of every row, sorted; blocks are cut otherwise in each run."""
        rows: list[tuple[object, ...]] = []
        for block in self.made.blocks():
            fids, lengths = block.row_fids()
            assert lengths is not None
            n = len(block)
            ends = np.cumsum(lengths.reshape(n, -1).sum(axis=1, dtype=np.int64))[:-1]
            names = [*("dense", "labels", "mask", "sampling_rate", "label_kind", "served_logits")]
            names += [f"{kind}_{what}_ms" for kind in ("feature", "action") for what in ("time", "ingest")]
            columns: list[list[object]] = [
                [block.request_ids[at] for at in block.request_index],
                block.impression_ids.tolist(),
                [part.tolist() for part in np.split(fids, ends)],
                *([part.tobytes() for part in np.asarray(getattr(block, name)).reshape(n, -1)] for name in names),
            ]
            rows += zip(*columns, strict=True)
        return sorted(rows)

    def requests_by_partition(self) -> list[list[str]]:
        """Request ids of the features topic in order of their offsets."""
        found: dict[int, list[str]] = defaultdict(list)
        for record in read_topic(self.config.kafka.connection, self.config.kafka.topics.features):
            found[record.partition].append((record.key or b"").decode())
        return list(found.values())

    def tell(self, rows: int, **figures: float) -> None:
        """What the scenario was like, on the test's output."""
        told = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
        print(f"\n{rows} rows, {self.watched.restarts} restarts, {told}")
        for line in self.watched.alarms:
            print("alarm:", line)
