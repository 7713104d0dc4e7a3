"""What a person should look at first, in a sentence each; pure."""

from __future__ import annotations

from collections.abc import Iterator

from rillet.inspection.facts import JoinerFacts, LoopFacts
from rillet.inspection.words import age, duration
from rillet.schemas import FeatureSpec

#: clocks of two machines differ by less
_FUTURE_MS = 5_000
#: silence of one topic is told where windows wait for it by so much; a pause of users is shorter
_HELD_S = 60.0
#: share of the newest records from which a mistake is noted, and how many there must be
_UNKNOWN_SHARE, _WAITING_SHARE, _LOST_SHARE, _FEWEST = 0.1, 0.5, 0.01, 10
_VALUELESS_SHARE = 0.9
_PAGES_REFUSED = "and pages were refused: rillet peek dead-letters shows why"
#: counter of the joiner: what it counts, and what to look at
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


def notes_on(facts: LoopFacts, spec: FeatureSpec) -> Iterator[str]:
    """The notes on what was gathered.

    :param spec: the feature spec of the configuration.
    """
    spec_hash = f"{spec.hash:#x}"
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
        yield from _of_job(facts.joiner)
        yield from _held(facts.joiner)
        yield from _not_joined(facts.joiner, facts, spec)
    if facts.trainer is not None and facts.trainer.publish_failures and facts.broker.state == "answers":
        failures = facts.trainer.publish_failures
        yield f"train has failed to publish, {failures:,} times in a row; its log says why"


def _of_job(joiner: JoinerFacts) -> Iterator[str]:
    if joiner.failed_checkpoints:
        yield (
            f"join: checkpoints fail, {joiner.failed_checkpoints} one after the other, and no row goes out; its log says why"
        )
    if lost := joiner.counts.get("lost_transactions", 0):
        yield (
            f"join: rows of {lost:,} transactions are lost, the broker had ended them; raise [flink] transaction_timeout_ms, and"
            " write them again with rillet backfill"
        )


def _held(joiner: JoinerFacts) -> Iterator[str]:
    if len(joiner.silent_s) != 1:
        return
    ((topic, silent_s),) = joiner.silent_s.items()
    # By the clock too: after a start all that may be held is.
    if min(joiner.held_s, silent_s) >= _HELD_S:
        yield (
            f"nothing has come to {topic} for {duration(silent_s)}, and label windows wait for it; does what writes to it run?"
        )


def _not_joined(joiner: JoinerFacts, facts: LoopFacts, spec: FeatureSpec) -> Iterator[str]:
    """Of the newest records: what was wrong before them is counted, and needs nobody any more."""
    recent = joiner.recent
    pages = facts.topics["features"].name if "features" in facts.topics else "the features topic"
    # Actions of a page that was refused find none, whatever their ids are.
    refused = recent.get("dead_letters", 0) >= _FEWEST and any(one.topic == pages for one in facts.refused)
    actions = recent.get("actions", 0)
    for name, count in joiner.recent_unknown.items():
        if count >= max(_FEWEST, _UNKNOWN_SHARE * actions):
            text = f"{count:,} of the newest {actions:,} actions are named {name!r}, which no task asks for"
            yield f"{text}; {spec.advice_on_action(name)}"
    for task, count in joiner.recent_valueless.items():
        of = count + joiner.recent_valued.get(task, 0)
        if count >= max(_FEWEST, _VALUELESS_SHARE * of):
            yield (
                f"{count:,} of the newest {of:,} actions on task {task} have no value, which its at_least asks for; does"
                " [sources.actions] value say where it lies, and do producers send it?"
            )
    unmatched = recent.get("unmatched_actions", 0) - recent.get("matched_later", 0)
    # Those that were given up wait no more, whenever they came.
    still = unmatched if joiner.waiting is None else min(unmatched, joiner.waiting)
    waiting = still >= max(_FEWEST, _WAITING_SHARE * actions)
    if waiting:
        share = f"{min(still / max(actions, 1), 1):.0%}"
        text = f"{share} of the newest {actions:,} actions wait for a request that has not come"
        if refused:
            yield f"{text}, {_PAGES_REFUSED}"
        elif recent.get("features"):
            yield f"{text}; are request ids the same on both topics?"
        else:
            yield f"{text}, and no page came among them; does anything write to {pages}?"
    for name, (what, advice) in _LOST.items():
        count = recent.get(name, 0)
        of = actions
        if name == "dead_letters":
            of += recent.get("features", 0) + count
        if name == "orphan_actions":
            # Given up are actions of long ago: it matters while the newest, too, find no request.
            count = 0 if waiting else min(count, unmatched)
        if count >= max(_FEWEST, _LOST_SHARE * of):
            text = f"{recent[name]:,} of the newest {of:,} {what}"
            yield f"{text}, {_PAGES_REFUSED}" if name == "orphan_actions" and refused else f"{text}: {advice}"
