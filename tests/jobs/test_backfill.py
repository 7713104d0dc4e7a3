"""What ``rillet backfill`` asks of a run, and what it refuses."""

from __future__ import annotations

import sys

import pytest

from rillet.connectors.start_positions import StartAt
from rillet.jobs import backfill, joiner_run
from rillet.jobs.config import RilletConfig
from rillet.jobs.joiner_job import groups
from rillet.joiner import JoinerError, JoinerRuns, KeptSettings, RequestRange
from tests.jobs.fake_job import set_unread
from tests.joiner.snapshots import complete
from tests.joiner.support import SPEC

RANGE = RequestRange(1_000_000_000, 1_086_400_000)
LATER_MS = 10 * RANGE.until_ms


def test_a_backfill_shares_neither_state_nor_groups_nor_topics_with_the_joiner(joiner_config: RilletConfig) -> None:
    other = backfill.backfill_config(joiner_config, "again")
    assert other.data_dir == joiner_config.data_dir / "backfills" / "again"
    assert (other.kafka.topics.examples, other.kafka.topics.dead_letters) == ("again", "again.dead_letters")
    assert other.kafka.topics.features == joiner_config.kafka.topics.features
    assert not set(groups(joiner_config).values()) & set(groups(other).values())
    assert other.health.join_port == 0
    assert KeptSettings.of(SPEC, other.joiner) == KeptSettings.of(SPEC, joiner_config.joiner)


def test_a_backfill_reads_from_before_its_range_until_its_last_window_is_closed(
    joiner_config: RilletConfig, stops: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = joiner_config.load_spec()
    asked: list[int] = []
    monkeypatch.setattr(
        backfill, "ends_at", lambda kafka, topics, time_ms: asked.append(time_ms) or {("features", 0): 9}
    )
    set_unread(monkeypatch, [True])
    monkeypatch.setattr(backfill, "newest_records", lambda *_: ([], {}))
    assert backfill.run_backfill(joiner_config, RANGE, "again", LATER_MS) == 0
    options = sys.modules["rillet.jobs.joiner_job"].JobOptions.call_args.kwargs  # type: ignore[attr-defined]
    assert asked == [RANGE.read_until_ms(spec, joiner_config.joiner, joiner_config.flink.lateness_ms)]
    assert options["start"] == StartAt(time_ms=RANGE.read_from_ms(spec, joiner_config.joiner))
    assert (options["requests"], options["idle_sources"], stops) == (RANGE, False, [True])
    assert "partition 1 of topic actions begins at offset 77, and what it held before is deleted" in caplog.text


@pytest.mark.parametrize(
    ("topic", "now_ms", "rows", "message"),
    [
        ("examples", LATER_MS, 0, "--examples-topic: examples is a topic of the loop itself"),
        ("a topic", LATER_MS, 0, "--examples-topic: 'a topic' is no name of a Kafka topic"),
        ("..", LATER_MS, 0, "--examples-topic: '..' is no name of a Kafka topic"),  # its data_dir would be the joiner's
        ("again", RANGE.until_ms, 0, r"label windows of requests before --until close in [\d.]+ h"),
        ("again", LATER_MS, 3, "topic again holds rows already: a backfill needs a topic of its own"),
    ],
)
def test_a_backfill_that_could_not_be_right_is_refused(
    joiner_config: RilletConfig, monkeypatch: pytest.MonkeyPatch, topic: str, now_ms: int, rows: int, message: str
) -> None:
    monkeypatch.setattr(joiner_run, "newest_records", lambda *_: ([object()] * rows, {}))
    with pytest.raises(JoinerError, match=message):
        backfill.run_backfill(joiner_config, RANGE, topic, now_ms)
    assert not (joiner_config.data_dir / "backfills").exists()


def test_a_backfill_that_is_done_is_not_begun_again(joiner_config: RilletConfig) -> None:
    run = JoinerRuns(backfill.backfill_config(joiner_config, "again").data_dir / "joiner" / "runs").begin("")
    end = run.savepoint_dir(drained=True) / "savepoint"
    complete(end)
    with pytest.raises(JoinerError, match="this backfill is done, its rows are on topic again"):
        backfill.run_backfill(joiner_config, RANGE, "again", LATER_MS)
