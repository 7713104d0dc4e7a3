"""Gathers the state of the loop: asks the services' ports, the broker and the logs of this machine, all at once.

Whatever is away is said to be away; nothing that is away keeps the rest from being shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Self

from rillet.connectors.errors import BrokerRefusedError, BrokerUnavailableError, KafkaSettingsError
from rillet.connectors.newest import require_broker
from rillet.connectors.topics import ensure_broker
from rillet.devstack.process import Process
from rillet.devstack.stack import READY_TIMEOUT_S
from rillet.inspection.broker import BrokerLook
from rillet.inspection.facts import BrokerFacts, LoggedError, LoopFacts, RefusedFacts, ServiceFacts, State, TopicFacts
from rillet.inspection.log_files import last_error
from rillet.inspection.measured import joiner_facts, labels_of, replica_facts, time_ms, trainer_facts, whole
from rillet.inspection.notes import notes_on
from rillet.inspection.scrape import MetricsError, Scrape, fetch, read_metrics
from rillet.jobs.config import RilletConfig
from rillet.jobs.services import SERVICES, metrics_url, ready_url
from rillet.operators.flink_config import joiner_group

#: how long a broker that listens may take to say whether it lets us in
_BROKER_S = 3.0
#: only shown when it answers: not every loop has one
_OPTIONAL = ("dump",)
_JOINED: tuple[Literal["features", "actions"], ...] = ("features", "actions")


class LoopGatherer:
    """Looks at the loop of one configuration, again and again."""

    def __init__(self, config: RilletConfig, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._config, self._now_ms = config, now_ms
        topics, self._kafka = asdict(config.kafka.topics), config.kafka.connection
        groups: dict[str, str] = {kind: joiner_group(config.kafka.topics.examples, kind) for kind in _JOINED}
        self._broker = BrokerLook(self._kafka, topics, groups)
        spec = config.load_spec()
        self._spec = spec
        self._shortest_window_ms = min(task.window_ms for task in spec.tasks)
        self._pool = ThreadPoolExecutor(len(SERVICES) + len(_OPTIONAL), "status")

    def look(self) -> LoopFacts:
        """The loop as it is now. Takes some seconds where something does not answer."""
        names = (*SERVICES, *_OPTIONAL)
        asked = [self._pool.submit(self._ask, name) for name in names]
        broker, topics, refused = self._look_at_broker()
        answers = dict(zip(names, (one.result() for one in asked), strict=True))
        now_ms = self._now_ms()
        services = {
            name: self._service(name, state, read, problem, now_ms)
            for name, (state, read, problem) in answers.items()
            if name in SERVICES or state in ("ready", "not ready")
        }
        replica = replica_facts(answers["serve"][1], now_ms)
        trainer = trainer_facts(answers["train"][1])
        if replica is not None and (deltas := topics.get("deltas")) is not None and deltas.ends:
            # Against the end as the broker tells it: a replica that has lost the broker knows of no newer one.
            position = whole(answers["serve"][1], "rillet_replica_position") or 0
            lag = max(deltas.ends[0] - position, 0)
            since_ms = self._broker.waiting_since_ms("deltas", position) if lag else None
            lag_s = 0.0 if not lag else None if since_ms is None else max(now_ms - since_ms, 0) / 1000
            replica = replace(replica, lag_records=lag, lag_s=lag_s)
        facts = LoopFacts(
            time_ms=now_ms,
            broker=broker,
            services=services,
            topics=_with_lag(
                topics,
                examples=None if trainer is None else trainer.lag_records,
                deltas=None if replica is None else replica.lag_records,
            ),
            joiner=joiner_facts(answers["join"][1]),
            trainer=trainer,
            replica=replica,
            refused=refused,
            shortest_window_ms=self._shortest_window_ms,
        )
        return replace(facts, notes=tuple(notes_on(facts, self._spec)))

    def close(self) -> None:
        """Ends threads and connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._broker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look_at_broker(self) -> tuple[BrokerFacts, dict[str, TopicFacts], tuple[RefusedFacts, ...]]:
        unknown = {kind: TopicFacts(name) for kind, name in asdict(self._config.kafka.topics).items()}
        address = str(self._kafka)
        try:
            require_broker(self._kafka)
            try:
                topics, refused = self._broker.topics(), self._broker.refused()
            except BrokerUnavailableError:
                # Something listens there: whether it lets us in may be known only after the first answer was overdue.
                ensure_broker(self._kafka, _BROKER_S)
                raise
        except BrokerUnavailableError as error:
            return BrokerFacts(address, "no answer", str(error)), unknown, ()
        except (BrokerRefusedError, KafkaSettingsError) as error:
            return BrokerFacts(address, "refuses", str(error)), unknown, ()
        return BrokerFacts(address, "answers"), topics, refused

    def _ask(self, name: str) -> tuple[State, Scrape, str | None]:
        url = ready_url(self._config, name)
        if url is None:
            return "no port", Scrape(), None
        try:
            answer = fetch(url)
        except MetricsError:  # whatever it is, it is no probe of ours
            answer = None
        if answer is None:
            return "no answer", Scrape(), None
        state: State = "ready" if answer[0] == 200 else "not ready"
        try:
            return state, read_metrics(metrics_url(self._config, name) or ""), None
        except MetricsError as error:
            return state, Scrape(), f"metrics unreadable: {error}"

    def _service(self, name: str, state: State, read: Scrape, problem: str | None, now_ms: int) -> ServiceFacts:
        if state == "no answer" and self._is_starting(name, now_ms):
            state = "starting"
        info = labels_of(read, "rillet_service_info")
        # The joiner's registry is the process's, which Prometheus' own collectors are in.
        started_ms = time_ms(read, "rillet_service_start_timestamp_seconds")
        if started_ms is None:
            started_ms = time_ms(read, "process_start_time_seconds")
        version = whole(read, "rillet_replica_dense_version")
        error = self._last_error(name)
        # One of an earlier process says nothing of this one; what a process says as it ends has no time.
        if error is not None and started_ms is not None and (error.time_ms is None or error.time_ms < started_ms):
            error = None
        return ServiceFacts(
            state=state,
            url=ready_url(self._config, name),
            model=info.get("model"),
            version=version or None,
            software=info.get("version"),
            spec_hash=info.get("spec_hash"),
            uptime_s=None if started_ms is None else max(now_ms - started_ms, 0) / 1000,
            problem=problem,
            last_error=error,
        )

    def _is_starting(self, name: str, now_ms: int) -> bool:
        started_ms = Process(name, log_of(self._config, name).parent).started_ms
        return started_ms is not None and now_ms - started_ms < READY_TIMEOUT_S * 1000

    def _last_error(self, name: str) -> LoggedError | None:
        return last_error(log_of(self._config, name))


def log_of(config: RilletConfig, service: str) -> Path:
    """Where `rillet up` lets a service log to."""
    return config.data_dir / "services" / f"{service}.log"


def _with_lag(topics: dict[str, TopicFacts], **lags: int | None) -> Mapping[str, TopicFacts]:
    """With what the readers of these topics say of their lag."""
    return topics | {kind: replace(topics[kind], lag_records=lag) for kind, lag in lags.items()}
