"""The joiner in real Flink against a real broker: every example once and right, in either mode and in every replay."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer

from rillet.connectors.dead_letters import read_dead_letters
from rillet.connectors.lag import GroupLag, TopicProgress
from rillet.connectors.topic_reader import read_topic
from rillet.jobs.config import DumpConfig, RilletConfig, load_config
from rillet.jobs.dump import wire_dump
from rillet.jobs.joiner_job import groups
from rillet.recordings.format import Recording
from rillet.recordings.join import join_recording
from rillet.schemas import ExampleBlock, decode_as, encode
from tests.connectors.example_sets import read_all
from tests.jobs.joiner_runs import FLINK, REQUESTS, START_MS, JoinerRun, make_recording, make_run, rows_of
from tests.joiner.support import SPEC, action

pytestmark = pytest.mark.integration

LIKE = encode(action(1, 0, "like", START_MS + 1_000))
#: value and headers of records that no row may be made of
BAD_RECORDS: list[tuple[bytes | None, list[tuple[str, bytes | None]]]] = [
    (b"junk", [("ingest_ms", b"1700000000000"), ("trace", b"t")]),
    (None, []),
    (LIKE, [("ingest_ms", b"1700000000000"), ("ingest_ms", b"1_000")]),
    *((LIKE, [("ingest_ms", text)]) for text in (b"", b" 5", b"5.7", b"+5", b"9" * 40, b"\xff")),
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return make_recording(tmp_path_factory.mktemp("recording") / "stream")


@pytest.fixture(scope="module")
def joined(broker: str, tmp_path_factory: pytest.TempPathFactory, recording: Recording) -> JoinerRun:
    """The recording, joined in thread mode, with records among the actions that cannot be used."""
    made = make_run(tmp_path_factory.mktemp("thread"), broker)
    made.replay(recording)
    producer = Producer({"bootstrap.servers": broker})
    for value, headers in BAD_RECORDS:
        producer.produce(
            made.config.kafka.topics.actions, key=b"r1", value=value, timestamp=START_MS + 250, headers=headers
        )
    assert producer.flush(10) == 0
    made.join("--until-latest", "--drain")
    return made


def test_every_example_is_there_once_and_right(joined: JoinerRun) -> None:
    report = joined.audited()
    assert report.found == report.expected > 5 * REQUESTS
    assert report.unusable_events == len(BAD_RECORDS)


def test_a_bad_record_is_a_dead_letter_with_its_place(joined: JoinerRun) -> None:
    topics = joined.config.kafka.topics
    letters = sorted(
        (stored.letter for stored in read_dead_letters(joined.config.kafka.connection, topics.dead_letters)),
        key=lambda letter: letter.offset,
    )
    assert letters[0].reason == "unknown schema: the record begins with 6a756e6b"
    for letter, (value, headers) in zip(letters, BAD_RECORDS, strict=True):
        assert (letter.topic, letter.key, letter.value, letter.cut) == (topics.actions, b"r1", value, False)
        assert letter.timestamp_ms == START_MS + 250
        # Of the headers the job sees the last ingest time, and how many others there are.
        assert letter.headers == tuple(header for header in headers[-1:] + headers[:1] if header[0] == "ingest_ms")[:1]
        assert letter.more_headers == (("trace", b"t") in headers)


def test_a_dump_of_the_examples_has_the_rows_of_a_join_of_the_recording(
    joined: JoinerRun, recording: Recording, tmp_path: Path
) -> None:
    config = load_config(joined.path)
    for _ in range(2):  # the second time there is nothing new
        wire_dump(replace(config, dump=DumpConfig(to=f"file://{tmp_path}/dumped", group_rows=3_000)), True).run(
            threading.Event()
        )
    join_recording(recording, config, str(tmp_path / "recorded"), keep_open=True)
    dumped, recorded = (
        rows_of(record.block for record in read_all(str(tmp_path / name), spec=SPEC)) for name in ("dumped", "recorded")
    )
    assert len(dumped) == joined.audit().found
    assert dumped == recorded


def test_a_backfill_writes_the_rows_of_its_requests_elsewhere_and_touches_nothing_of_the_joiner(
    joined: JoinerRun,
) -> None:
    first_ms, end_ms = START_MS + 60_000, START_MS + 120_000
    begin, end = (datetime.fromtimestamp(ms / 1_000, UTC).isoformat() for ms in (first_ms, end_ms))
    again = f"{joined.config.kafka.topics.examples}.again"
    config = load_config(joined.path)
    runs = config.data_dir / "joiner" / "runs"
    before = sorted(runs.rglob("*")), _read_to(config)
    command = [joined.command[0], "-m", "rillet", "backfill", "--config", str(joined.path)]
    command += ["--from", begin, "--until", end, "--examples-topic", again]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    blocks = [decode_as(ExampleBlock, r.value or b"") for r in read_topic(config.kafka.connection, again)]
    found = rows_of(blocks)
    assert found == [row for row in rows_of(joined.blocks()) if first_ms <= row[-2] < end_ms]  # type: ignore[operator]
    assert len({row[0] for row in found}) == 600
    assert (sorted(runs.rglob("*")), _read_to(config)) == before
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "this backfill is done" in done.stderr) == (2, True), done.stderr


def _read_to(config: RilletConfig) -> dict[str, TopicProgress]:
    """How far the joiner has read its topics."""
    with GroupLag(config.kafka.connection, groups(config)) as lag:
        return lag.progress()


def test_process_mode_gives_the_same_rows(joined: JoinerRun, broker: str, tmp_path: Path) -> None:
    other = make_run(tmp_path, broker, flink=replace(FLINK, execution_mode="process"), raw_topics_of=joined)
    other.join("--until-latest", "--drain")
    assert rows_of(other.blocks(), ingest=True) == rows_of(joined.blocks(), ingest=True)


def test_a_second_replay_gives_the_same_examples(
    joined: JoinerRun, broker: str, recording: Recording, tmp_path: Path
) -> None:
    again = make_run(tmp_path, broker)
    again.replay(recording)
    again.join("--until-latest", "--drain")
    assert rows_of(again.blocks()) == rows_of(joined.blocks())
