"""``rillet demo``: starts the real stack, drives it, lets it finish, audits and reports. What it starts, it stops.

Every part is the product's own: the broker, ``rillet join``, ``rillet train`` and ``rillet serve`` as
processes of their own. The demo only sends requests and actions and reads topics and metrics.
"""

from __future__ import annotations

import asyncio
import json
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rillet.audit.comparison import audit_topics
from rillet.audit.report import AuditReport
from rillet.backtest.delays import Delays
from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.producers import EventProducer
from rillet.connectors.topic_reader import read_topic
from rillet.connectors.topics import topic_ends
from rillet.demo.baselines import References, scored_beside
from rillet.demo.batch_stage import join_recording, start_trainer
from rillet.demo.display import Display
from rillet.demo.driver import Driver, DriveStats
from rillet.demo.errors import DemoError
from rillet.demo.frozen import frozen_logits
from rillet.demo.joiner import drain_joiner, joiner_lag, next_rate, start_joiner
from rillet.demo.monitor import FRESHNESS, LoopMonitor
from rillet.demo.page import render
from rillet.demo.plan import Plan, live_events
from rillet.demo.prepare import fresh_folder, interruptible, open_recording, uninterrupted
from rillet.demo.report import SCORES, Report, in_event_order, judge, latency_summary, summarise_deltas
from rillet.demo.settings import DEFAULT_RATE, DemoSettings, make_settings
from rillet.devstack.stack import Stack
from rillet.jobs.config import load_config
from rillet.recordings import Recording

DEFAULT_OUT = Path("out/demo")
#: In the order in which they are started.
_SERVICES = ("train", "serve", "join")
#: Flink takes its time on a cold machine
_READY_TIMEOUT_S = 180.0
#: the trainer is ready once it has learned from the batch stage's files
_BATCH_TIMEOUT_S = 900.0
_CATCH_UP_TIMEOUT_S = 300.0
_SETTLE_S = 0.5
_PACE_S = 1.0


def run_demo(
    requests: int | None = None,
    recording: Path | None = None,
    out: Path = DEFAULT_OUT,
    *,
    dataset: str = "movielens",
    rate: float = DEFAULT_RATE,
    console: Console | None = None,
) -> int:
    """Runs the whole demo.

    :param requests: how many requests to drive; None for 50,000, or a fifth of a given recording. Four times as many that
        come before them are for the batch stage.
    :param recording: a directory; None makes one of ``dataset``.
    :param out: gets ``report.json``, ``report.html`` and ``run/`` with the run's data and logs.
    :param dataset: ``movielens`` or ``synthetic``.
    :param rate: requests per second to aim at.
    :returns: 0, 1 when the audit found anything, 130 when interrupted.
    :raises RilletError: whatever keeps it from running, in one sentence.
    """
    started_s = time.monotonic()
    console = console or Console(highlight=False)
    folder = fresh_folder(Path(out) / "run")
    with interruptible():
        try:
            source = open_recording(recording, dataset, requests, folder, console)
            plan = Plan.of(source, requests)
            settings = make_settings(source.info, plan, folder, rate)
            demo = _Demo(source, plan, settings, console)
            report = demo.run(started_s)
        except KeyboardInterrupt:
            console.print(f"interrupted: everything that was started is stopped; logs are in {folder}", markup=False)
            return 130
    return _finish(report, Path(out), console)


class _Demo:
    """One run: the stack, the driver, and the numbers that come of it."""

    def __init__(self, recording: Recording, plan: Plan, settings: DemoSettings, console: Console) -> None:
        self.recording = recording
        self.plan = plan
        self.settings = settings
        # Read back from the file, as the services do: paths are resolved, and the file is proven to be good.
        self.stack = Stack(load_config(settings.config_path, environment={}), settings.config_path)
        self.config = self.stack.config
        self.console = console
        self.stats = DriveStats(plan.live)
        self.display = Display(self.stats, console)
        self.monitor = LoopMonitor(self.config, self.stats, self.display.show)
        self.started_ms = 0
        #: end of the delta log before the first live example; the frozen model is the one of then
        self.frozen_position = 0

    def run(self, started_s: float) -> Report:
        """Starts, drives, drains, audits; stops everything whatever happens."""
        try:
            self._start()
            with self.display:
                self.monitor.start()
                try:
                    self._drive()
                finally:
                    self.monitor.close()
            return self._conclude(started_s)
        finally:
            with uninterrupted():
                # A joiner that still runs here failed or was interrupted: what it holds is of no use to anyone.
                self.stack.stop("join", kill=True)
                for name in ("serve", "train"):
                    self.stack.stop(name)
                self.stack.broker.stop()

    def _start(self) -> None:
        say = self.display.say
        self.stack.start_broker()
        say(f"broker  ready at {self.config.kafka.bootstrap_servers}")
        batch = self.settings.batch_files
        if self.plan.batch:
            say(f"batch   joining the first {self.plan.batch:,} requests into files")
            join_recording(self.stack, self.recording, self.plan.batch, batch)
        start_trainer(self.stack, batch if self.plan.batch else None)
        if self.plan.batch:
            say("batch   learning from them; what follows is learned online")
        for name in _SERVICES[1:]:
            start_joiner(self.stack) if name == "join" else self.stack.start(name)
        for name in _SERVICES:
            self.stack.wait_ready(name, _BATCH_TIMEOUT_S if name == "train" else _READY_TIMEOUT_S)
            say(f"{name:7} ready (pid {self.stack.process(name).pid}), log {self.stack.process(name).log}")
        kafka = self.config.kafka
        ends = topic_ends(kafka.connection, kafka.topics.deltas)
        if ends is None:
            raise DemoError(f"topic {kafka.topics.deltas} is gone")
        self.frozen_position = ends[0][1]

    def _drive(self) -> None:
        kafka = self.config.kafka
        spec = self.recording.info.spec
        actions = EventProducer(kafka.connection, kafka.topics.actions)
        self.started_ms = time.time_ns() // 1_000_000
        driver = Driver(
            spec,
            self.settings.drive,
            self.settings.drive.client(),
            actions,
            self.stats,
            watched=spec.tasks[0].actions[0],
        )
        stop = threading.Event()
        pacer = threading.Thread(target=self._pace, args=(driver, stop), name="pace", daemon=True)
        pacer.start()
        try:
            asyncio.run(driver.run(live_events(self.recording, self.plan)))
        except BaseExceptionGroup as group:
            # The first failure is the cause; the others are its consequences.
            raise group.exceptions[0] from group
        finally:
            stop.set()
            pacer.join()
            actions.close()

    def _conclude(self, started_s: float) -> Report:
        say = self.display.say
        say("all requests are answered; waiting for the joiner to read them, then closing the label windows")
        self._wait_for_joining()
        requests = self.plan.batch + self.plan.live
        delays = Delays.of(self.config, self._speedup)
        # On a core of its own, while the topics are read: it takes as long as all the rest.
        with scored_beside(self.recording, self.config, delays, requests=requests) as references:
            drain_joiner(self.stack)
            return self._judge(started_s, references)

    def _judge(self, started_s: float, references: Callable[[], References]) -> Report:
        say = self.display.say
        say("auditing the topics")
        kafka = self.config.kafka
        audit, joined = audit_topics(
            kafka.connection,
            self.recording.info.spec,
            features=kafka.topics.features,
            actions=kafka.topics.actions,
            examples=kafka.topics.examples,
            sources=self.config.sources,
            max_ahead_ms=self.config.joiner.max_ahead_ms,
            lateness_ms=self.config.flink.lateness_ms,
        )
        for line in audit.lines():
            say(line)
        self._wait_for_training(audit)
        final = self.monitor.read()
        requests = in_event_order(joined)
        say("scoring the same impressions with the batch model as it was")
        frozen = frozen_logits(self.config, joined, requests, self.frozen_position)
        say("and in simulated time by popularity and logistic regression, from the first request on")
        others = {"frozen": frozen, **references().of(joined, requests)}
        return Report(
            dataset=self.recording.info.dataset,
            audit=audit,
            unlogged=self.plan.live - audit.requests,
            quality=judge(joined, requests, others, task=0, first_request=self.plan.batch),
            watched=self.recording.info.spec.tasks[0].actions[0],
            deltas=summarise_deltas(read_topic(kafka.connection, kafka.topics.deltas), self.started_ms),
            readings=self.monitor.readings,
            freshness=self.monitor.served.histograms.get(FRESHNESS, ([], [])),
            latency_ms=latency_summary(self.stats.latency_s),
            replica_rows=final.replica_rows,
            replica_lag=final.replica_lag,
            wall_s=time.monotonic() - started_s,
            drive_s=self.stats.finished_s - self.stats.started_s,
            retries=self.stats.retries,
            settings=self._described(),
        )

    def _wait_for_joining(self) -> None:
        """Until the joiner has read all of both topics: a drain closes windows, it does not read on."""
        deadline = time.monotonic() + _CATCH_UP_TIMEOUT_S
        with joiner_lag(self.config) as lag:
            while unread := lag.records():
                if time.monotonic() > deadline:
                    process = self.stack.process("join")
                    raise DemoError(
                        f"after {_CATCH_UP_TIMEOUT_S:.0f} s the joiner still has {unread:,} records to read, see {process.log}"
                    )
                self._require("join")
                time.sleep(_SETTLE_S)

    def _require(self, name: str) -> None:
        process = self.stack.process(name)
        if process.pid is None:
            raise DemoError(f"{name} died, see {process.log}: {process.last_words()}")

    def _pace(self, driver: Driver, stop: threading.Event) -> None:
        """Slows the driver while the joiner cannot keep up."""
        with joiner_lag(self.config) as lag:
            while not stop.wait(_PACE_S):
                try:
                    unread = lag.records()
                except BrokerUnavailableError as error:
                    # A leader election or a restart: the pace stays; a broker that is gone ends the driver.
                    self.display.say(f"pace unchanged: {error}")
                    continue
                driver.rate = next_rate(driver.rate, self.settings.drive.rate, unread)

    def _wait_for_training(self, audit: AuditReport) -> None:
        """Until the trainer has learnt all examples, published what changed, and the server applied it."""
        self.display.say("waiting for the trainer and the server to finish")
        deadline = time.monotonic() + _CATCH_UP_TIMEOUT_S
        while True:
            reading = self.monitor.read()
            unpublished = self.monitor.trained.get("rillet_train_touched_rows")
            if reading.trained_rows >= audit.found and not unpublished and not reading.replica_lag:
                time.sleep(_SETTLE_S)
                return
            for name in ("train", "serve"):
                self._require(name)
            if time.monotonic() > deadline:
                raise DemoError(
                    f"after {_CATCH_UP_TIMEOUT_S:.0f} s the trainer has learnt {reading.trained_rows:,} of "
                    f"{audit.found:,} examples and the server has {reading.replica_lag} delta records to apply; "
                    f"see {self.stack.process('train').log}"
                )
            time.sleep(_SETTLE_S)

    @property
    def _speedup(self) -> float:
        """How many times faster than it was made the recording was driven."""
        return self.plan.live_span_ms / 1000 / max(self.stats.finished_s - self.stats.started_s, 1e-3)

    def _described(self) -> dict[str, object]:
        config = self.config
        return {
            "batch_stage": f"{self.plan.batch:,} requests",
            "model": f"{config.model.kind}, dim {config.model.dim}, hidden {list(config.model.hidden)}",
            "table_optimizer": f"{config.table.optimizer}, learning rate {config.table.learning_rate}",
            "publication_interval": f"{config.publisher.sparse_interval_s:g} s",
            "joiner_checkpoint_interval": f"{config.flink.checkpoint_interval_ms / 1000:g} s",
            "event_time_speedup": f"{self._speedup:,.0f}x",
            "target_rate": f"{self.settings.drive.rate:g} requests/s",
            "achieved_rate": f"{self.stats.requests / (self.stats.finished_s - self.stats.started_s):.1f} requests/s",
            "python": platform.python_version(),
        }


def _finish(report: Report, out: Path, console: Console) -> int:
    (out / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n", "utf-8")
    (out / "report.html").write_text(render(report), "utf-8")
    scores = report.quality.scores
    say: Callable[[str], None] = lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    say("AUC: " + ", ".join(f"{SCORES[name]} {judged.auc:.4f}" for name, judged in scores.items()))
    say(
        f"calibration {report.quality.served.calibration:.3f}; freshness p50 {report.freshness_ms(0.5) / 1000:.1f} s, "
        f"p99 {report.freshness_ms(0.99) / 1000:.1f} s"
    )
    say(f"report: {out / 'report.html'}, {out / 'report.json'}")
    return 0 if report.ok else 1
