"""What a person should look at first, in a sentence each; pure."""

from __future__ import annotations

from collections.abc import Iterator

from rillet.inspection.facts import JoinerFacts, LoopFacts
from rillet.inspection.words import age, duration

#: clocks of two machines differ by less
_FUTURE_MS = 5_000
#: share of the actions of one name that no task asks for from which it is told, and how many there must be
_UNKNOWN_SHARE, _UNKNOWN_ACTIONS = 0.1, 10
#: share of what the joiner has read from which what was not joined is told, and how many there must be
_LOST_SHARE, _LOST_RECORDS = 0.01, 10
#: counter of the joiner: what the records are that it counts, and what to look at
_LOST = {
    "dead_letters": ("records were refused", "rillet peek dead-letters shows why"),
    "orphan_actions": ("actions found no page of their request", "are both topics keyed by the same request id?"),
    "unknown_impressions": (
        "actions are of impressions that their page does not have",
        "do both topics name items alike?",
    ),
    "late_actions": (
        "actions came after their label window was closed",
        "[flink] lateness_ms says how late they may be",
    ),
    "early_actions": ("actions lie before their page", "check the clocks of the producers"),
}


def notes_on(facts: LoopFacts, spec_hash: str) -> Iterator[str]:
    """The notes on what was gathered.

    :param spec_hash: of the configuration's feature spec.
    """
    if facts.broker.state != "answers":
        yield facts.broker.detail
        if facts.replica is not None and facts.replica.ready:
            yield "serve goes on answering with the model that it has; what it serves is not logged meanwhile"
    replica = facts.replica
    if replica is not None and replica.stale and replica.reached_ms is not None:
        yield f"updates of serve are stale: the delta log last answered {age(replica.reached_ms, facts.time_ms)}"
    if replica is not None and replica.degraded:
        yield "serve lacks rows that were published while it could not read them; it takes the next base"
    for name, service in facts.services.items():
        if service.problem is not None:
            yield f"{name}: {service.problem}; does its port in the configuration belong to another program?"
        if service.spec_hash is not None and service.spec_hash != spec_hash:
            yield f"{name} runs with feature spec {service.spec_hash}, this configuration has {spec_hash}"
    for topic in facts.topics.values():
        if topic.newest_ms is not None and topic.newest_ms - facts.time_ms > _FUTURE_MS:
            ahead = duration((topic.newest_ms - facts.time_ms) / 1000)
            yield f"the newest record of {topic.name} is from the future, by {ahead}: check the clock of its producer"
    if facts.joiner is not None:
        actions = facts.joiner.counts.get("actions", 0)
        for name, count in facts.joiner.unknown_actions.items():
            if count >= max(_UNKNOWN_ACTIONS, _UNKNOWN_SHARE * actions):
                yield f"{count:,} actions are called {name}, which no task of the feature spec asks for"
        yield from _not_joined(facts.joiner)
    if facts.trainer is not None and facts.trainer.publish_failures and facts.broker.state == "answers":
        yield f"train failed to publish {facts.trainer.publish_failures:,} times; its log says why"


def _not_joined(joiner: JoinerFacts) -> Iterator[str]:
    counts = joiner.counts
    read = counts.get("features", 0) + counts.get("actions", 0) + counts.get("dead_letters", 0)
    for name, (what, advice) in _LOST.items():
        count = counts.get(name, 0)
        if count >= max(_LOST_RECORDS, _LOST_SHARE * read):
            yield f"{count:,} of {read:,} {what}: {advice}"
