"""The joiner's counters as /metrics shows them, and what goes to the log."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import JobFigures
from rillet.joiner import Alarms, Counters, JoinerConfig
from rillet.pipelines.job_alarms import JobAlarms
from rillet.pipelines.joiner_watch import JoinerWatch, TopicsWatch
from tests.joiner.support import SPEC


class Flink:
    """Two subtasks; gone where a test says so."""

    def __init__(self) -> None:
        self.subtasks: list[dict[str, int]] = []
        self.gone = False

    def read(self) -> list[dict[str, int]]:
        if self.gone:
            raise ConnectorError("Flink does not answer")
        return self.subtasks


def shown(watch: Any) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(watch)
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_counts_are_of_all_subtasks_and_times_of_the_slowest() -> None:
    flink = Flink()
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    watch.refresh()
    assert shown(watch) == {}
    empty = Counters().as_dict() | {"dead_letters": 0, "examples": 0, "open_requests": 0}
    flink.subtasks = [
        empty
        | {"features": 5, "actions": 2, "unknown_actions": 1, "unknown_action.CLICK.count": 1, "open_requests": 3},
        empty | {"features": 1, "unknown_actions": 2, "unknown_action.CLICK.count": 2, "watermark_ms": 9_000},
    ]
    flink.subtasks[0] |= {
        "watermark_ms": 5_500,
        "next_close_ms": 7_000,
        "dead_letters": 1,
        "refused.DecodeError.count": 1,
    }
    watch.refresh()
    found = shown(watch)
    assert found["rillet_joiner_features_total"] == 6
    assert found['rillet_joiner_unknown_actions_total{action="CLICK"}'] == 3
    assert found['rillet_joiner_refused_total{error="DecodeError"}'] == found["rillet_joiner_dead_letters_total"] == 1
    assert found["rillet_joiner_open_requests"] == 3
    assert (found["rillet_joiner_watermark_seconds"], found["rillet_joiner_next_close_seconds"]) == (5.5, 7.0)
    assert {f"rillet_joiner_{name}_total" for name in Counters().as_dict()} - found.keys() == {
        "rillet_joiner_unknown_actions_total"
    }


def test_counters_go_on_and_gauges_do_not_when_flink_restarts_the_job() -> None:
    flink = Flink()
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    empty = Counters().as_dict() | {"dead_letters": 0, "examples": 0}
    kinds = "refused.DecodeError.count"
    flink.subtasks = [{}, empty | {"features": 90, "dead_letters": 60, kinds: 60, "open_requests": 7}]
    watch.refresh()
    # Dead letters begin anew at once; the others stay as they were until something is counted.
    flink.subtasks = [empty, empty | {"features": 90, "open_requests": 2}]
    watch.refresh()
    assert shown(watch)["rillet_joiner_dead_letters_total"] == 60
    flink.subtasks = [
        empty | {"features": 5},
        empty | {"features": 10, "dead_letters": 4, kinds: 4, "open_requests": 2},
    ]
    for _ in range(2):
        watch.refresh()
        found = shown(watch)
        assert found["rillet_joiner_features_total"] == 105
        assert found["rillet_joiner_dead_letters_total"] == 64
        assert found['rillet_joiner_refused_total{error="DecodeError"}'] == 64
        assert found["rillet_joiner_open_requests"] == 2


def test_a_task_whose_actions_lack_values_is_shown_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    flink = Flink()
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    flink.subtasks = [
        Counters(actions=60, incomplete_actions=60).as_dict() | {"valueless.watch.count": 60},
        Counters(actions=40, positives=1).as_dict() | {"valueless.watch.count": 39, "valued.watch.count": 1},
    ]
    watch.refresh()
    found = shown(watch)
    assert found['rillet_joiner_valueless_actions_total{task="watch"}'] == 99
    assert found['rillet_joiner_valued_actions_total{task="watch"}'] == 1
    assert found['rillet_joiner_recent_valueless_actions{task="watch"}'] == 99
    assert "99 % of 100 actions on task watch have no value" in caplog.text


def test_pages_that_lack_what_is_new_to_the_spec_are_shown() -> None:
    flink = Flink()
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    flink.subtasks = [Counters(features=70).as_dict(), {"lacking.country.count": 40}, {"lacking.country.count": 2}]
    watch.refresh()
    found = shown(watch)
    assert found['rillet_joiner_lacking_pages_total{feature="country"}'] == 42
    assert found['rillet_joiner_recent_lacking_pages{feature="country"}'] == 42


def test_silent_topics_have_the_names_that_they_have_on_the_broker() -> None:
    flink = Flink()
    alarms = Alarms(SPEC, JoinerConfig(), time.monotonic)
    watch = JoinerWatch(flink, alarms, topics=["shop.pages", "shop.plays"])  # type: ignore[arg-type]
    flink.subtasks = [Counters().as_dict() | {"silent_topic_ms.shop_plays.count": 24_000}]
    watch.refresh()
    assert shown(watch)['rillet_joiner_silent_topic_seconds{topic="shop.plays"}'] == 24


def test_waiting_actions_and_what_is_recent_are_shown() -> None:
    flink = Flink()
    clock = [0.0]
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic), now_s=lambda: clock[0])  # type: ignore[arg-type]
    for clock[0] in range(0, 600, 2):
        actions, zoomed = 60 + int(clock[0]), max(0, int(clock[0]) - 560)
        counts = Counters(features=actions, actions=actions, unmatched_actions=5, unknown_actions=zoomed).as_dict()
        flink.subtasks = [
            counts | {"waiting_actions": 3, "oldest_waiting_ms": 7_500, "unknown_action.zoom.count": zoomed},
            Counters().as_dict() | {"waiting_actions": 2, "oldest_waiting_ms": 9_000},
            Counters().as_dict() | {"waiting_actions": 0, "oldest_waiting_ms": 0},
        ]
        watch.refresh()
    found = shown(watch)
    assert (found["rillet_joiner_waiting_actions"], found["rillet_joiner_oldest_waiting_seconds"]) == (5, 7.5)
    assert found["rillet_joiner_unmatched_actions_total"] == 5
    assert found['rillet_joiner_recent{count="actions"}'] == 120
    assert found['rillet_joiner_recent{count="unmatched_actions"}'] == 0
    assert found['rillet_joiner_recent_unknown_actions{action="zoom"}'] == 38
    flink.subtasks = [Counters().as_dict() | {"waiting_actions": 0, "oldest_waiting_ms": 0}]
    watch.refresh()
    found = shown(watch)
    assert found["rillet_joiner_waiting_actions"] == 0
    assert "rillet_joiner_oldest_waiting_seconds" not in found


def test_the_job_itself_is_shown_and_told_of_also_while_it_has_no_counters(caplog: pytest.LogCaptureFixture) -> None:
    figures = JobFigures(1, "IOException: no space", 7, 2, 1, "expired", 5_000, 300, 1_500, 0)
    job = SimpleNamespace(read=lambda: figures)
    flink = Flink()
    watch = JoinerWatch(
        flink, Alarms(SPEC, JoinerConfig(), time.monotonic), job, JobAlarms(3, 20), wall_s=lambda: 100.0
    )  # type: ignore[arg-type]
    watch.refresh()
    assert "IOException: no space" in caplog.text
    assert "checkpoints fail, 1" in caplog.text
    found = shown(watch)
    assert {name.removeprefix("rillet_joiner_"): value for name, value in found.items()} == {
        **{"restarts_total": 1, "failed_checkpoints_in_a_row": 1, "lost_transactions_total": 0},
        **{'checkpoints_total{result="complete"}': 7, 'checkpoints_total{result="failed"}': 2},
        **{"state_bytes": 5_000, "checkpoint_bytes": 300, "checkpoint_seconds": 1.5},
    }
    flink.subtasks = [
        Counters().as_dict() | {"watermark_ms": 93_000, "reads.memory.count": 4},
        Counters().as_dict() | {"watermark_ms": 95_000, "reads.memory.count": 5, "reads.engine.count": 1},
    ]
    watch.refresh()
    found = shown(watch)
    assert found["rillet_joiner_watermark_lag_seconds"] == 7
    assert found['rillet_joiner_reads_total{tier="memory"}'] == 9
    assert found['rillet_joiner_reads_total{tier="engine"}'] == 1


def test_a_job_that_fails_before_it_has_read_anything_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """It has no counters, and is restarted for half an hour before it ends."""
    answers = [ConnectorError("not there yet"), JobFigures(2, "KafkaException: no right", 0, 0, 0, "", 0, 0, 0, None)]
    job = MagicMock()
    job.read.side_effect = answers
    watch = JoinerWatch(MagicMock(), Alarms(SPEC, JoinerConfig(), time.monotonic), job, JobAlarms(3, 20))
    watch.refresh_job()
    assert not caplog.messages
    watch.refresh_job()
    assert (
        "restart 2 since the start (it ends after 20 that follow each other): KafkaException: no right" in caplog.text
    )


def test_while_flink_is_away_the_last_counts_stay_and_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    flink = Flink()
    flink.subtasks = [Counters(actions=60, unknown_actions=60).as_dict() | {"unknown_action.zoom.count": 60}]
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    watch.refresh()
    assert "100 % of 60 actions are named 'zoom'" in caplog.text
    flink.gone = True
    caplog.clear()
    watch.refresh()
    watch.refresh()
    assert [record.message for record in caplog.records] == [
        "the joiner's counters are not known: Flink does not answer"
    ]
    assert shown(watch)["rillet_joiner_actions_total"] == 60


def test_topics_are_out_of_reach_once_the_broker_is_away_for_longer_than_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock, answers = [0.0], True
    watch = TopicsWatch(lambda: answers, lambda: clock[0])
    watch.refresh()
    answers = False
    for clock[0] in (10.0, 12.0, 14.0):
        watch.refresh()
    assert watch.reachable
    # also while the broker is being asked, which takes its time
    clock[0] = 15.5
    assert not watch.reachable
    for clock[0] in (16.0, 18.0):
        watch.refresh()
    answers = True
    watch.refresh()
    assert watch.reachable
    assert [record.message for record in caplog.records] == [
        "not ready: no broker has told of the topics for 5 s",
        "the broker answers again",
    ]


def test_a_silent_topic_that_holds_windows_is_told_once_and_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    flink, counts = Flink(), Counters().as_dict()
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic))  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)

    def refresh(held_ms: int, **silent_ms: int) -> list[str]:
        caplog.clear()
        silent = {f"silent_topic_ms.site.{topic}.count": count for topic, count in silent_ms.items()}
        flink.subtasks = [counts | {"held_ms": held_ms} | silent, counts | {"held_ms": 7}]
        watch.refresh()
        return caplog.messages

    assert refresh(0) == refresh(59_000, actions=90_000) == [], "users pause"
    assert refresh(99_000, actions=120_000, features=40_000) == [], "a quiet hour is no fault of one topic"
    assert refresh(3_600_000, actions=16_000) == [], "after a start"
    (told,) = refresh(60_000, actions=95_500)
    assert told.startswith(
        "nothing has come to topic site.actions for 95 s while the other one goes on: label windows wait"
    )
    assert refresh(70_000, actions=105_500) == refresh(70_000, actions=0) == []
    found = shown(watch)
    assert found["rillet_joiner_held_seconds"] == 70
    assert not any(name.startswith("rillet_joiner_silent_topic_seconds") for name in found)
    refresh(80_000, actions=105_500)
    assert shown(watch)['rillet_joiner_silent_topic_seconds{topic="site.actions"}'] == 105.5
    flink.subtasks = [counts | {"held_ms": 0}]
    watch.refresh()
    assert caplog.messages == ["topic site.actions goes on, label windows close by the watermark again"]


def test_windows_that_wait_since_the_broker_does_not_tell_of_the_topics_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A partition has no leader, or a right is missing: nothing is known of either topic, and the records of others go on."""
    flink, counts, now_s = Flink(), Counters().as_dict(), [0.0]
    watch = JoinerWatch(flink, Alarms(SPEC, JoinerConfig(), time.monotonic), now_s=lambda: now_s[0])  # type: ignore[arg-type]
    silent = {f"silent_topic_ms.site.{topic}.count": 90_000 for topic in ("actions", "features")}

    def go_on(held_ms: list[int], silent: dict[str, int]) -> list[str]:
        caplog.clear()
        for held in held_ms:
            now_s[0] += 30
            flink.subtasks = [counts | {"held_ms": held} | silent]
            watch.refresh()
        return caplog.messages

    assert go_on([5_000, 5_000, 5_000, 95_000, 95_000, 95_000, 95_000], silent) == [], "a partition is left out"
    assert go_on([95_000], {}) == []
    assert go_on([7_000, 9_000, 300_000], silent) == [], "read at once after an outage"
    (told,) = go_on([330_000, 360_000, 390_000], silent)
    assert told.startswith(
        "records come, and the broker does not tell how far topics site.actions and site.features are"
    )
