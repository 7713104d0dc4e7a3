"""The state of the loop at one moment, as plain values: what ``rillet status`` has gathered, and its one JSON object.

What is not known is None. Times are epoch milliseconds, durations seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rillet.inspection.words import iso

State = Literal["ready", "not ready", "starting", "no answer", "no port"]
BrokerState = Literal["answers", "no answer", "refuses"]
Known = Literal["known", "too few rows", "warming up", "no scores", "unknown"]

#: dead letters that are looked at for their reasons
NEWEST_LETTERS = 200


@dataclass(frozen=True, slots=True)
class LoggedError:
    """The last error in a service's log on this machine."""

    text: str
    time_ms: int | None


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """One service, wherever it runs.

    :param state: ``starting`` is a process of ``rillet up`` that does not answer yet.
    :param url: its readiness probe; None where it has no port.
    :param version: of the model that it serves.
    :param software: version of rillet that it runs.
    :param spec_hash: of the feature spec that it runs with, as ``rillet check-config`` prints it.
    :param problem: why it answers and what it measures is not known all the same.
    """

    state: State
    url: str | None = None
    model: str | None = None
    version: int | None = None
    software: str | None = None
    spec_hash: str | None = None
    uptime_s: float | None = None
    problem: str | None = None
    last_error: LoggedError | None = None


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic.

    :param partitions: None where there is no such topic.
    :param records: from the first to the end offsets, over all partitions.
    :param exact: whether ``records`` is their number; otherwise offsets that hold no record may be among them.
    :param newest_ms: timestamp of the newest record.
    :param ends: partition to end offset.
    :param lag_records: records that its reader has not dealt with; of features and actions, that the joiner's last
        checkpoint does not cover.
    :param awaits_checkpoint: whether these are not known because the joiner, once started, has completed none yet.
    """

    name: str
    partitions: int | None = None
    records: int | None = None
    exact: bool = True
    newest_ms: int | None = None
    ends: Mapping[int, int] = field(default_factory=dict)
    lag_records: int | None = None
    awaits_checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker, as seen from here."""

    address: str
    state: BrokerState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JoinerFacts:
    """What the joiner counts since it started.

    :param next_close_ms: event time at which the next label window closes.
    :param join_rate: of the newest records, actions that made a positive over all actions; above 1 where one action is asked
        for by several tasks.
    :param waiting: actions that wait for the feature event of their request.
    :param oldest_waiting_ms: event time of the one that waits longest.
    :param held_s: by how much its time is behind the watermark, because nothing comes to one of the topics.
    :param silent_s: how long nothing has come to a topic, by its name.
    :param failed_checkpoints: one after the other, since the last complete one.
    :param counts: all of its counters by name.
    :param unknown_actions: actions that no task asks for, by name.
    :param recent: what the counters have grown by over the newest records.
    :param recent_unknown: the same of unknown actions.
    :param recent_valued: of tasks that ask for values, actions among the newest that have one, by task; ``recent_valueless``
        those that have none.
    :param recent_lacking: pages among the newest without a slot or dense feature that is new to the spec, by its name.
    """

    open_requests: int | None
    next_close_ms: int | None
    watermark_ms: int | None
    examples: int | None
    join_rate: float | None
    waiting: int | None
    oldest_waiting_ms: int | None
    counts: Mapping[str, int]
    unknown_actions: Mapping[str, int]
    recent: Mapping[str, int]
    recent_unknown: Mapping[str, int]
    recent_valued: Mapping[str, int] = field(default_factory=dict)
    recent_valueless: Mapping[str, int] = field(default_factory=dict)
    recent_lacking: Mapping[str, int] = field(default_factory=dict)
    held_s: float = 0.0
    silent_s: Mapping[str, float] = field(default_factory=dict)
    failed_checkpoints: int = 0


@dataclass(frozen=True, slots=True)
class QualityFacts:
    """What is known of the quality of a task as served; figures only where they are ``known``, none where rows carry ``no scores``.

    :param known_ms: event time up to which it is known.
    :param first_known_ms: event time at which it becomes known, while it is warming up.
    """

    state: Known
    auc: float | None = None
    normalised_entropy: float | None = None
    calibration: float | None = None
    rows: int | None = None
    positives: int | None = None
    known_ms: int | None = None
    first_known_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TrainerFacts:
    """What the trainer says of itself.

    :param publish_failures: publications that failed since the last that did not.
    """

    rows: int | None
    rows_per_second: float | None
    lag_records: int | None
    loss: float | None
    newest_event_ms: int | None
    refused_rows: int
    publish_failures: int
    quality: Mapping[str, QualityFacts]


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What the server says of the model that it follows.

    :param lag_records: records of the delta log that it has not applied.
    :param lag_s: how long the oldest of them has been there; 0 without any.
    :param freshness_p50_s: from an action's ingestion to the rows learned from it being served, since the server started.
    :param newest_event_ms: event time of the newest event that the rows have learned from.
    :param reached_ms: when the delta log last answered.
    :param stale: whether that is too long ago: it serves what it has.
    """

    ready: bool
    rows: int | None
    lag_records: int | None
    lag_s: float | None
    freshness_p50_s: float | None
    freshness_p99_s: float | None
    newest_event_ms: int | None
    reached_ms: int | None
    stale: bool
    degraded: bool
    requests: int | None
    request_p99_s: float | None


@dataclass(frozen=True, slots=True)
class RefusedFacts:
    """One kind of reason among the newest dead letters; reasons that differ by numbers or quoted text are of one kind.

    :param reason: of the newest letter of the kind.
    :param topic: that the refused records lie on.
    :param letters: among the newest :data:`NEWEST_LETTERS`.
    """

    reason: str
    topic: str
    letters: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """All of it.

    :param time_ms: when it was gathered.
    :param topics: by what they hold: features, actions, examples, deltas, dead_letters.
    :param refused: reasons among the newest :data:`NEWEST_LETTERS` dead letters, the most frequent first.
    :param notes: what a person should look at first.
    :param shortest_window_ms: of the label windows.
    """

    time_ms: int
    broker: BrokerFacts
    services: Mapping[str, ServiceFacts]
    topics: Mapping[str, TopicFacts]
    joiner: JoinerFacts | None = None
    trainer: TrainerFacts | None = None
    replica: ReplicaFacts | None = None
    refused: tuple[RefusedFacts, ...] = ()
    notes: tuple[str, ...] = ()
    shortest_window_ms: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the broker answers and every service that has a port is ready."""
        required = [service for service in self.services.values() if service.state != "no port"]
        return self.broker.state == "answers" and all(service.state == "ready" for service in required)


def to_json(facts: LoopFacts) -> dict[str, Any]:
    """One JSON object; keys are the names of the fields, always all of them. A number that is not finite is null."""
    return {"time": iso(facts.time_ms), "ready": facts.ready, **_plain(asdict(facts))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
