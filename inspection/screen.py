"""The state of the loop as a person reads it: one screen of short tables; pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rillet.inspection.facts import (
    NEWEST_LETTERS,
    JoinerFacts,
    LoopFacts,
    QualityFacts,
    ReplicaFacts,
    ServiceFacts,
    TopicFacts,
    TrainerFacts,
)
from rillet.inspection.words import age, clock, duration, printable_texts

_COLOURS = {
    **dict.fromkeys(("ready", "answers"), "green"),
    **dict.fromkeys(("not ready", "starting"), "yellow"),
    **dict.fromkeys(("no answer", "refuses"), "red"),
}
_READERS = {"features": "join", "actions": "join", "examples": "train", "deltas": "serve"}


def screen(facts: LoopFacts) -> RenderableType:
    """All of it."""
    facts = printable_texts(facts)
    parts: list[RenderableType] = [_services(facts), Text(), _topics(facts)]
    rows = [
        *_joiner(facts.joiner, facts),
        *_trainer(facts.trainer, facts),
        *_replica(facts.replica, facts.time_ms),
        *_refused(facts),
    ]
    if rows:
        parts += [Text(), _named(rows)]
    if facts.notes:
        parts += [Text(), *(Text(f"! {note}", style="yellow") for note in facts.notes)]
    return Group(*parts)


def _services(facts: LoopFacts) -> RenderableType:
    table = _table("service", "state", "model", "version", "up", "where")
    _add(table, "broker", _state(facts.broker.state), "", "", "", facts.broker.address)
    for name, service in facts.services.items():
        _add(
            table,
            name,
            _state(service.state),
            service.model or "",
            "" if service.version is None else str(service.version),
            "" if service.uptime_s is None else duration(service.uptime_s),
            service.url or "no port is configured",
        )
    errors = [
        Text(f"  {name}: {_error(service, facts.time_ms)}", style="red")
        for name, service in facts.services.items()
        if service.last_error is not None
    ]
    return Group(table, *([Text("last errors", style="dim"), *errors] if errors else []))


def _error(service: ServiceFacts, now_ms: int) -> str:
    error = service.last_error
    if error is None:
        return ""
    when = "" if error.time_ms is None else f"{age(error.time_ms, now_ms)}: "
    return f"{when}{error.text}"


def _topics(facts: LoopFacts) -> Table:
    table = _table("topic", "partitions", "records", "newest record", "lag")
    for column in (1, 2):
        table.columns[column].justify = "right"
    for kind, topic in facts.topics.items():
        if topic.partitions is None:
            missing = "missing" if facts.broker.state == "answers" else "?"
            _add(table, topic.name, missing, "", "", "")
            continue
        _add(
            table,
            topic.name,
            str(topic.partitions),
            _records(topic),
            _newest(topic, facts.time_ms),
            _lag(kind, topic, facts),
        )
    return table


def _records(topic: TopicFacts) -> str:
    return f"{'' if topic.exact else 'at most '}{topic.records or 0:,}"


def _newest(topic: TopicFacts, now_ms: int) -> str:
    if topic.newest_ms is None:
        return "none yet" if not topic.records else "?"
    return age(topic.newest_ms, now_ms)


def _lag(kind: str, topic: TopicFacts, facts: LoopFacts) -> str:
    reader = _READERS.get(kind)
    if reader is None:
        return ""
    if topic.lag_records is None:
        return f"{reader}: {'unknown until its first checkpoint' if topic.awaits_checkpoint else '?'}"
    behind = facts.replica.lag_s if kind == "deltas" and facts.replica is not None and topic.lag_records else None
    return f"{reader}: {topic.lag_records:,}" + (f", for {duration(behind)}" if behind is not None else "")


def _joiner(joiner: JoinerFacts | None, facts: LoopFacts) -> Iterable[tuple[str, str]]:
    if joiner is None:
        return
    counts, now_ms, window_ms = joiner.counts, facts.time_ms, facts.shortest_window_ms
    words = []
    if joiner.open_requests is not None:
        words.append(f"{joiner.open_requests:,} open requests")
    if joiner.next_close_ms is not None:
        words.append(
            f"the next window closes at {clock(joiner.next_close_ms, now_ms, window_ms)}{_when_reached(joiner)}"
        )
    if joiner.watermark_ms is not None:
        words.append(f"watermark {clock(joiner.watermark_ms, now_ms, window_ms)} ({age(joiner.watermark_ms, now_ms)})")
    yield "join", ", ".join(words) or "no request yet"
    newest = joiner.recent.get("actions", 0)
    rate = "" if joiner.join_rate is None else f", {joiner.join_rate:.1%} of the newest {newest:,} made a positive"
    yield "", f"{counts.get('features', 0):,} pages, {counts.get('actions', 0):,} actions{rate}"
    if joiner.waiting:
        since = (
            "" if joiner.oldest_waiting_ms is None else f", the oldest is from {age(joiner.oldest_waiting_ms, now_ms)}"
        )
        yield "", f"{joiner.waiting:,} actions wait for their page{since}"
    names = {
        "orphan_actions": "orphans",
        "unknown_actions": "unknown actions",
        "unknown_impressions": "on unknown impressions",
        "late_actions": "late",
        "outside_window": "outside the window",
        "early_actions": "early",
        "duplicate_actions": "duplicates",
        "duplicate_features": "pages twice",
        "dead_letters": "dead letters",
    }
    odd = [f"{counts[name]:,} {text}" for name, text in names.items() if counts.get(name)]
    if odd:
        yield "", "not joined: " + ", ".join(odd)
    if joiner.recent_lacking:
        lacking = ", ".join(f"{count:,} lack {name}" for name, count in joiner.recent_lacking.items())
        # Pages are looked at a little before they are counted as joined.
        joined = joiner.recent.get("features", 0) + joiner.recent.get("duplicate_features", 0)
        pages = max(joined, *joiner.recent_lacking.values())
        yield "", f"of the newest {pages:,} pages {lacking} (new to the feature spec)"
    if joiner.unknown_actions:
        most = sorted(joiner.unknown_actions.items(), key=lambda entry: -entry[1])
        yield "", "unknown actions: " + ", ".join(f"{name} {count:,}" for name, count in most[:6])


def _when_reached(joiner: JoinerFacts) -> str:
    """How far the watermark, which windows close by, is from the next close."""
    if joiner.next_close_ms is None or joiner.watermark_ms is None:
        return ""
    left_s = (joiner.next_close_ms - joiner.watermark_ms) / 1000
    return f", {duration(left_s)} after the watermark" if left_s > 0 else ", which is being done"


def _trainer(trainer: TrainerFacts | None, facts: LoopFacts) -> Iterable[tuple[str, str]]:
    if trainer is None:
        return
    words = [f"{trainer.rows or 0:,} rows"]
    if trainer.rows_per_second is not None:
        words.append(f"{trainer.rows_per_second:,.0f}/s")
    if trainer.loss is not None:
        words.append(f"loss {trainer.loss:.3f}")
    if trainer.refused_rows:
        words.append(f"{trainer.refused_rows:,} refused")
    if trainer.newest_event_ms is not None:
        words.append(f"newest event {age(trainer.newest_event_ms, facts.time_ms)}")
    yield "train", ", ".join(words)
    for task, quality in trainer.quality.items():
        yield "", f"{task} as served: {_quality(quality, facts)}"


def _quality(quality: QualityFacts, facts: LoopFacts) -> str:
    now_ms, window_ms = facts.time_ms, facts.shortest_window_ms
    to = "" if quality.known_ms is None else f" (pages up to {clock(quality.known_ms, now_ms, window_ms)})"
    if quality.state == "known":
        return (
            f"AUC {quality.auc or 0:.3f}, normalised entropy {quality.normalised_entropy or 0:.3f}, "
            f"calibration {quality.calibration or 0:.2f}, of {quality.rows or 0:,} rows{to}"
        )
    if quality.state == "too few rows":
        return f"too few rows to tell, {quality.positives or 0:,} positive of {quality.rows or 0:,}{to}"
    if quality.state == "warming up" and quality.first_known_ms is not None:
        if quality.first_known_ms < now_ms:  # event time stands still while no pages come
            return f"warming up, known once most of the newest pages are from after {clock(quality.first_known_ms, now_ms, window_ms)}"
        return f"warming up, first windows close at {clock(quality.first_known_ms, now_ms, window_ms)}"
    if quality.state == "no scores":
        return "unknown, since the pages carry no served logits (docs/quality.md)"
    return "not known yet, no rows"


def _replica(replica: ReplicaFacts | None, now_ms: int) -> Iterable[tuple[str, str]]:
    if replica is None:
        return
    words = [f"{replica.rows or 0:,} rows served"]
    if replica.newest_event_ms is not None:
        words.append(f"learned up to an event {age(replica.newest_event_ms, now_ms)}")
    if replica.stale and replica.reached_ms is not None:
        words.append(f"updates stale: the log last answered {age(replica.reached_ms, now_ms)}")
    yield "serve", ", ".join(words)
    if replica.freshness_p50_s is not None:
        p99 = "beyond its range" if replica.freshness_p99_s is None else duration(replica.freshness_p99_s)
        yield "", f"an action is served after {duration(replica.freshness_p50_s)} (p50), {p99} (p99), since the start"
    if replica.requests:
        p99 = "" if replica.request_p99_s is None else f", p99 {duration(replica.request_p99_s)}"
        yield "", f"{replica.requests:,} requests{p99}"


def _refused(facts: LoopFacts) -> Iterable[tuple[str, str]]:
    if not facts.refused:
        return
    yield "dead letters", f"of the newest {NEWEST_LETTERS}, see them with `rillet peek dead-letters`:"
    for one in facts.refused:
        when = f", the newest {age(one.newest_ms, facts.time_ms)}" if one.newest_ms else ""
        topic = f"from {one.topic}: " if one.topic else ""
        yield "", f"{one.letters:,} x {topic}{one.reason}{when}"


def _named(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(text))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=name != "where", overflow="fold")
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """A row of plain text: a string would be read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))
