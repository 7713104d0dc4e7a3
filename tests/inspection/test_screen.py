"""What a person reads at a glance, and the one JSON object that says the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from rillet.inspection.facts import (
    BrokerFacts,
    JoinerFacts,
    LoggedError,
    LoopFacts,
    QualityFacts,
    RefusedFacts,
    ReplicaFacts,
    ServiceFacts,
    TopicFacts,
    TrainerFacts,
    to_json,
)
from rillet.inspection.notes import notes_on
from rillet.inspection.screen import screen
from tests.inspection.samples import SPEC

NOW_MS = 1_700_000_000_000
REPLICA = ReplicaFacts(
    ready=True,
    rows=142,
    lag_records=3,
    lag_s=4.0,
    freshness_p50_s=8.2,
    freshness_p99_s=14.0,
    newest_event_ms=NOW_MS - 17_000,
    reached_ms=NOW_MS,
    stale=False,
    degraded=False,
    requests=1000,
    request_p99_s=0.007,
)
FACTS = LoopFacts(
    time_ms=NOW_MS,
    broker=BrokerFacts("127.0.0.1:9092", "answers"),
    services={
        "join": ServiceFacts("ready", "http://127.0.0.1:9101/readyz", uptime_s=130.0),
        "train": ServiceFacts(
            "not ready", "http://127.0.0.1:9102/readyz", "films", last_error=LoggedError("disk full", NOW_MS - 60_000)
        ),
        "serve": ServiceFacts("no port"),
    },
    topics={
        "features": TopicFacts("films.features", 2, 1000, True, NOW_MS - 2_800, {0: 500, 1: 500}, 21),
        "examples": TopicFacts("films.examples", 1, 3111, False, NOW_MS - 4_900, {0: 3111}, 0),
        "deltas": TopicFacts("films.deltas", 1, 23, True, NOW_MS, {0: 23}, 3),
        "dead_letters": TopicFacts("films.dead_letters"),
    },
    joiner=JoinerFacts(
        open_requests=7,
        next_close_ms=NOW_MS + 120_000,
        watermark_ms=NOW_MS - 30_000,
        examples=3000,
        join_rate=0.25,
        waiting=5,
        oldest_waiting_ms=NOW_MS - 45_000,
        counts={"features": 10, "late_actions": 2},
        unknown_actions={"CLICK": 9},
        recent={"actions": 8},
        recent_unknown={},
    ),
    trainer=TrainerFacts(
        5031, 55.0, 0, 0.58, NOW_MS - 6_600, 0, 0, {"watch": QualityFacts("warming up", first_known_ms=NOW_MS + 60_000)}
    ),
    replica=REPLICA,
    refused=(RefusedFacts("time: 7 is before 1970", "films.actions", 12, NOW_MS - 1_000),),
)


def text(facts: LoopFacts) -> str:
    console = Console(width=140, highlight=False)
    with console.capture() as captured:
        console.print(screen(facts))
    return captured.get()


def test_it_says_what_runs_how_far_it_is_and_what_is_wrong() -> None:
    shown = text(FACTS)
    for words in (
        "join     ready",
        "train    not ready",
        "no port is configured",
        "train: 60 s ago: disk full",
        "at most 3,111",
        "serve: 3, for 4.0 s",
        "7 open requests, the next window closes at 22:15Z, 2 min after the watermark",
        "25.0% of the newest 8 made a positive",
        "5 actions wait for their page, the oldest is from 45 s ago",
        "not joined: 2 late",
        "unknown actions: CLICK 9",
        "watch as served: warming up, first windows close at 22:14Z",
        "an action is served after 8.2 s (p50), 14 s (p99)",
        "of the newest 200, see them with `rillet peek dead-letters`:",
        "12 x from films.actions: time: 7 is before 1970, the newest 1.0 s ago",
    ):
        assert words in shown, words
    (missing,) = [line for line in shown.splitlines() if "films.dead_letters" in line]
    assert missing.split() == ["films.dead_letters", "missing"]


def test_pages_that_lack_what_is_new_to_the_spec_are_told_while_they_come() -> None:
    assert FACTS.joiner is not None
    joiner = replace(FACTS.joiner, recent={"features": 90}, recent_lacking={"country": 80, "age": 3})
    words = "of the newest 90 pages 80 lack country, 3 lack age (new to the feature spec)"
    assert words in text(replace(FACTS, joiner=joiner))
    assert "lack" not in text(FACTS)


def test_times_have_seconds_where_windows_are_of_seconds() -> None:
    shown = text(replace(FACTS, shortest_window_ms=30_000))
    assert "the next window closes at 22:15:20Z, 2 min after the watermark, watermark 22:12:50Z (30 s ago)" in shown
    assert "first windows close at 22:14:20Z" in shown
    assert "22:15Z" in text(replace(FACTS, shortest_window_ms=600_000))


def test_figures_of_too_few_rows_are_not_shown() -> None:
    assert FACTS.trainer is not None
    few = QualityFacts("too few rows", rows=40, positives=3, known_ms=NOW_MS)
    shown = text(replace(FACTS, trainer=replace(FACTS.trainer, quality={"watch": few})))
    assert "watch as served: too few rows to tell, 3 positive of 40 (pages up to 22:13Z)" in shown
    assert "AUC" not in shown


def test_quality_is_unknown_where_pages_carry_no_served_scores_and_the_line_says_so() -> None:
    assert FACTS.trainer is not None
    shown = text(replace(FACTS, trainer=replace(FACTS.trainer, quality={"watch": QualityFacts("no scores")})))
    assert "watch as served: unknown, since the pages carry no served logits (docs/quality.md)" in shown


def test_with_the_broker_away_services_are_shown_and_nothing_is_made_up_of_the_topics() -> None:
    unknown = {kind: TopicFacts(topic.name) for kind, topic in FACTS.topics.items()}
    away = replace(FACTS, broker=BrokerFacts("127.0.0.1:9092", "no answer", "no Kafka broker answers"), topics=unknown)
    shown = text(away)
    assert "join     ready" in shown
    assert "missing" not in shown
    assert list(notes_on(away, SPEC))[:2] == [
        "no Kafka broker answers",
        "serve goes on answering with the model that it has; what it serves is not logged meanwhile",
    ]


def test_a_record_from_the_future_is_said_to_be_from_the_future() -> None:
    topic = replace(FACTS.topics["features"], newest_ms=NOW_MS + 85_848_000)
    ahead = replace(FACTS, topics={"features": topic})
    assert "in the future by 24 h" in text(ahead)
    assert "the newest record of films.features is from the future, by 24 h: check the clock of its producer" in list(
        notes_on(ahead, SPEC)
    )


@pytest.mark.parametrize(
    ("held_s", "silent", "told"), [(90.0, 1, True), (30.0, 1, False), (90.0, 2, False), (0.0, 0, False)]
)
def test_a_silent_topic_that_label_windows_wait_for_is_noted(held_s: float, silent: int, told: bool) -> None:
    assert FACTS.joiner is not None
    topics = {"films.actions": 125.0, "films.features": 40.0}
    silent_s = dict(list(topics.items())[:silent])
    facts = replace(FACTS, joiner=replace(FACTS.joiner, held_s=held_s, silent_s=silent_s))
    line = "nothing has come to films.actions for 2 min, and label windows wait for it; does what writes to it run?"
    assert (line in list(notes_on(facts, SPEC))) == told


def test_a_topic_without_records_for_some_seconds_after_a_start_is_not_noted() -> None:
    """Until both topics are known to move, all of hold_ms is held."""
    assert FACTS.joiner is not None
    facts = replace(FACTS, joiner=replace(FACTS.joiner, held_s=3_600.0, silent_s={"films.actions": 20.0}))
    assert not any("nothing has come" in note for note in notes_on(facts, SPEC))


def test_checkpoints_that_fail_and_rows_that_are_lost_are_noted() -> None:
    assert FACTS.joiner is not None
    joiner = replace(FACTS.joiner, failed_checkpoints=2, counts={**FACTS.joiner.counts, "lost_transactions": 1})
    notes = list(notes_on(replace(FACTS, joiner=joiner), SPEC))
    assert "join: checkpoints fail, 2 one after the other, and no row goes out; its log says why" in notes
    assert any(note.startswith("join: rows of 1 transactions are lost") for note in notes)


def test_stale_updates_another_spec_and_unknown_actions_are_noted() -> None:
    services = {
        "serve": ServiceFacts("ready", "http://a", spec_hash=f"{SPEC.hash:#x}0"),
        "join": ServiceFacts("no answer", "http://b"),
    }
    assert FACTS.joiner is not None
    joiner = replace(FACTS.joiner, recent={"actions": 20}, recent_unknown={"CLICK": 19, "open": 1})
    replica = replace(REPLICA, stale=True, reached_ms=NOW_MS - 60_000)
    notes = list(notes_on(replace(FACTS, services=services, joiner=joiner, replica=replica), SPEC))
    assert notes == [
        "updates of serve are stale: the delta log last answered 60 s ago",
        f"serve runs with feature spec {SPEC.hash:#x}0, this configuration has {SPEC.hash:#x}",
        "19 of the newest 20 actions are named 'CLICK', which no task asks for; the feature spec asks for 'buy', 'watch'",
    ]


def joiner_notes(recent: dict[str, int], **changed: object) -> list[str]:
    assert FACTS.joiner is not None
    joiner = replace(FACTS.joiner, recent=recent, **changed)  # type: ignore[arg-type]
    return list(notes_on(replace(FACTS, joiner=joiner), SPEC))


def test_what_is_not_joined_is_noted_once_it_is_a_share_that_matters() -> None:
    recent = {"features": 0, "actions": 213, "dead_letters": 1_200, "late_actions": 9}
    assert joiner_notes(recent) == [
        "1,200 of the newest 1,413 records were refused: rillet peek dead-letters shows why"
    ]
    assert joiner_notes({"features": 10_000, "actions": 5_000, "late_actions": 34}) == []


def test_what_was_mended_is_noted_no_more_and_what_broke_now_is() -> None:
    good = {"features": 900, "actions": 300}
    past = {"features": 10_000, "actions": 5_000, "dead_letters": 4_000, "unknown_actions": 3_000}
    assert joiner_notes(good, counts=past, unknown_actions={"CLICK": 3_000}) == []
    assert len(joiner_notes(good, counts=past, recent_unknown={"CLICK": 200})) == 1


def test_actions_under_ids_that_no_request_has_are_noted_while_they_wait() -> None:
    wrong = {"features": 40, "actions": 40, "unmatched_actions": 38, "matched_later": 1}
    assert joiner_notes(wrong, waiting=37) == [
        "92% of the newest 40 actions wait for a request that has not come; are request ids the same on both topics?"
    ]
    given_up = wrong | {"orphan_actions": 37}
    assert joiner_notes(given_up, waiting=370) == joiner_notes(wrong, waiting=37), "one note on one mistake"
    assert joiner_notes(wrong, waiting=None) == joiner_notes(wrong, waiting=37), "how many wait is not known"
    assert joiner_notes({"features": 40, "actions": 40, "unmatched_actions": 38, "matched_later": 30}, waiting=8) == []
    (note,) = joiner_notes(wrong | {"features": 0}, waiting=37)
    assert note == (
        "92% of the newest 40 actions wait for a request that has not come, and no page came among them; does anything"
        " write to films.features?"
    )


def test_actions_that_were_given_up_are_not_said_to_wait() -> None:
    """After an outage: pages were lost, and no action has come since those on them were given up."""
    outage = {"features": 30, "actions": 100, "unmatched_actions": 58, "orphan_actions": 58}
    assert joiner_notes(outage, waiting=0) == [
        "58 of the newest 100 actions found no page of their request: are both topics keyed by the same request id?"
    ]
    assert joiner_notes(outage | {"orphan_actions": 55}, waiting=3) == [
        "55 of the newest 100 actions found no page of their request: are both topics keyed by the same request id?"
    ]


def test_a_task_whose_newest_actions_have_no_value_is_noted() -> None:
    recent = {"features": 100, "actions": 300}
    (note,) = joiner_notes(recent, recent_valued={"watch": 1}, recent_valueless={"watch": 39, "rate": 9})
    assert note == (
        "39 of the newest 40 actions on task watch have no value, which its at_least asks for; does [sources.actions] value"
        " say where it lies, and do producers send it?"
    )
    assert joiner_notes(recent, recent_valued={"watch": 20}, recent_valueless={"watch": 39}) == []


def test_of_a_name_that_no_task_asks_for_the_one_that_is_meant_is_told() -> None:
    (note,) = joiner_notes({"actions": 300}, recent_unknown={"Watch": 200})
    assert note == "200 of the newest 300 actions are named 'Watch', which no task asks for; did you mean 'watch'?"


def test_where_pages_are_refused_their_actions_are_not_said_to_have_wrong_ids() -> None:
    assert FACTS.joiner is not None
    refused = (RefusedFacts("event_time_ms: 7 is later than every label window", "films.features", 200, NOW_MS),)
    orphans = {"features": 90, "actions": 600, "unmatched_actions": 290, "orphan_actions": 280, "dead_letters": 120}
    waiting = {"features": 90, "actions": 40, "unmatched_actions": 38, "dead_letters": 120}

    def note(recent: dict[str, int], refused: tuple[RefusedFacts, ...]) -> str:
        facts = replace(FACTS, joiner=replace(FACTS.joiner, recent=recent, waiting=40), refused=refused)  # type: ignore[type-var]
        (found,) = (note for note in notes_on(facts, SPEC) if "actions" in note)
        return found

    assert note(orphans, refused) == (
        "280 of the newest 600 actions found no page of their request, and pages were refused: rillet peek dead-letters"
        " shows why"
    )
    assert note(waiting, refused) == (
        "95% of the newest 40 actions wait for a request that has not come, and pages were refused: rillet peek"
        " dead-letters shows why"
    )
    of_actions = (replace(refused[0], topic="films.actions"),)
    assert "request id" in note(orphans, of_actions)
    assert "request ids" in note(waiting, of_actions)
    assert "request id" in note(orphans | {"dead_letters": 0}, refused), "those were refused long ago"


def test_failures_to_publish_are_noted_while_the_newest_publication_has_failed() -> None:
    assert FACTS.trainer is not None
    failing = replace(FACTS, trainer=replace(FACTS.trainer, publish_failures=5))
    assert list(notes_on(failing, SPEC)) == ["train has failed to publish, 5 times in a row; its log says why"]


def test_before_the_first_checkpoint_of_a_start_the_joiners_lag_is_said_to_be_unknown() -> None:
    fresh = replace(FACTS.topics["features"], lag_records=None, awaits_checkpoint=True)
    assert "join: unknown until its first checkpoint" in text(replace(FACTS, topics={"features": fresh}))
    hidden = replace(fresh, awaits_checkpoint=False)
    assert "join: ?" in text(replace(FACTS, topics={"features": hidden}))


def test_orphans_are_noted_until_the_newest_actions_find_their_requests() -> None:
    few = {"features": 900, "actions": 600, "unmatched_actions": 50, "matched_later": 20, "orphan_actions": 25}
    assert joiner_notes(few) == [
        "25 of the newest 600 actions found no page of their request: are both topics keyed by the same request id?"
    ]
    assert joiner_notes(few | {"matched_later": 49}) == [], "given up are those of before"


def test_ready_is_a_broker_that_answers_and_every_service_that_has_a_port() -> None:
    assert not FACTS.ready
    ready = replace(FACTS, services={**FACTS.services, "train": ServiceFacts("ready", "http://a")})
    assert ready.ready
    assert not replace(ready, broker=BrokerFacts("a", "no answer")).ready


def test_the_json_object_has_the_same_keys_whatever_is_known() -> None:
    full = json.loads(json.dumps(to_json(FACTS), allow_nan=False))
    empty = to_json(LoopFacts(NOW_MS, BrokerFacts("a", "no answer"), {}, {}))
    assert set(full) == set(empty)
    assert full["time"] == "2023-11-14T22:13:20.000Z"
    assert full["ready"] is False
    assert full["topics"]["features"]["ends"] == {"0": 500, "1": 500}
    assert full["trainer"]["quality"]["watch"]["state"] == "warming up"
    assert empty["joiner"] is None


def test_texts_from_outside_are_neither_control_sequences_nor_markup() -> None:
    hostile = "\x1b[2Jboo\x07[/x]\n\u202e"
    assert FACTS.joiner is not None
    joiner = replace(FACTS.joiner, recent={"actions": 50}, unknown_actions={hostile: 50}, recent_unknown={hostile: 50})
    services = {"join": ServiceFacts("ready", model=hostile, last_error=LoggedError(hostile, None))}
    shown = text(replace(FACTS, services=services, joiner=joiner, refused=(RefusedFacts(hostile, hostile, 1, 1),)))
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.count(r"\x1b[2Jboo\x07[/x]\n\u202e") >= 3


def test_a_service_whose_metrics_cannot_be_read_is_named_with_the_reason() -> None:
    facts = replace(FACTS, services={"join": ServiceFacts("ready", problem="metrics unreadable: more than 2 MB")})
    (note,) = (note for note in notes_on(facts, SPEC) if note.startswith("join"))
    assert note.startswith("join: metrics unreadable: more than 2 MB; ")
