"""Speeds, and a real broker: a recording that goes through two topics comes back the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.audit.comparison import audit_topics
from rillet.connectors.errors import TopicError
from rillet.connectors.topic_reader import read_topic
from rillet.recordings import Recording, RecordingError, RecordingWriter
from rillet.recordings.movielens import ml1m_spec
from rillet.recordings.record import read_dead_letters, record
from rillet.recordings.replay import parse_speed, replay
from rillet.schemas import ActionEvent, FeatureEvent, decode, encode
from tests.joiner.blocks import example_blocks


def test_speeds_are_factors_or_max() -> None:
    assert parse_speed("max") is None
    assert parse_speed("1x") == 1
    assert parse_speed("2.5x") == 2.5
    for wrong in ("fast", "0x", "-1x", "nan", "inf"):
        with pytest.raises(RecordingError, match="speed"):
            parse_speed(wrong)


def small(directory: Path, requests: int = 40, gap_ms: int = 100) -> Recording:
    spec = ml1m_spec()
    with RecordingWriter(directory, spec, "small") as writer:
        for number in range(requests):
            context, context_lengths = spec.encode_side(
                "context",
                {
                    "user": [number],
                    "age": [1],
                    "gender": ["F"],
                    "occupation": [1],
                    "zip_prefix": ["1"],
                    "recent_films": [[number, 9]],
                },
            )
            items, item_lengths = spec.encode_side("item", {"film": [1, 2], "year": [1, 2], "genres": [["War"], []]})
            at = 1_000_000 + number * gap_ms
            ids = np.array([0, 1])
            writer.write(FeatureEvent(f"r{number}", at, spec.hash, context, ids, items, context_lengths, item_lengths))
            writer.write(ActionEvent(f"r{number}", at + gap_ms // 2, 1, "watch", 4.0))
    return Recording(directory)


@pytest.mark.integration
def test_what_was_replayed_is_recorded_again_and_audited(
    broker: str, topics: Callable[..., str], tmp_path: Path
) -> None:
    recording = small(tmp_path / "a")
    features, actions, examples = topics("features", 2), topics("actions", 2), topics("examples", 1)
    sent = replay(recording, broker, features=features, actions=actions)
    assert (sent.features, sent.actions) == (40, 40)

    spec = recording.info.spec
    recorded = record(broker, tmp_path / "b", spec, features=features, actions=actions)
    assert recorded.dead_letters == 0
    again = Recording(tmp_path / "b")
    assert sorted(map(encode, again.features())) == sorted(map(encode, recording.features()))
    assert sorted(map(encode, again.actions())) == sorted(map(encode, recording.actions()))
    assert again.info.last_event_ms == recording.info.last_event_ms

    records = [*read_topic(broker, features), *read_topic(broker, actions)]
    ingest = {r.ingest_ms for r in records}
    assert all(abs(time.time() * 1000 - at) < 60_000 for at in ingest)
    for item in records:
        event: FeatureEvent | ActionEvent = decode(item.value or b"")  # type: ignore[assignment]
        assert item.key == event.request_id.encode()
        assert item.timestamp_ms == event.event_time_ms

    # A joiner that knows nothing of ingest times: all its rows have those two columns wrong, and nothing else.
    blocks = example_blocks(spec, list(recording.features()), list(recording.actions()))
    producer = Producer({"bootstrap.servers": broker})
    for block in blocks[1:]:
        producer.produce(examples, key=b"0", value=encode(block))
    producer.produce(examples, key=b"0", value=b"noise")
    producer.flush(10)
    report, joined = audit_topics(broker, spec, features=features, actions=actions, examples=examples)
    assert (report.expected, report.found, report.lost) == (len(blocks), len(blocks) - 1, 1)
    assert (report.duplicated, report.mislabelled, report.undecodable) == (0, 0, 1)
    assert report.wrong_columns["feature_ingest_ms"] == len(blocks) - 1
    assert report.wrong_columns.keys() == {"feature_ingest_ms", "action_ingest_ms"}
    assert len(joined.request_ids) == 40


@pytest.mark.integration
def test_recording_goes_on_from_given_offsets_and_keeps_bad_records_apart(
    broker: str, topics: Callable[..., str], tmp_path: Path
) -> None:
    recording = small(tmp_path / "a", requests=10)
    features, actions = topics("features", 1), topics("actions", 1)
    replay(recording, broker, features=features, actions=actions, partitions=1)
    producer = Producer({"bootstrap.servers": broker})
    producer.produce(features, key=b"k", value=b"noise", timestamp=1_000_000, headers={"from": b"test"})
    # What the joiner takes and refuses: an action on the features topic, and one under another key.
    for request_id in ("k", "other"):
        misplaced = ActionEvent(request_id, 1_000_000, 1, "like")
        producer.produce(features, key=b"k", value=encode(misplaced), timestamp=1_000_000)
    producer.flush(10)
    recorded = record(
        broker, tmp_path / "b", recording.info.spec, features=features, actions=actions, start={features: {0: 4}}
    )
    assert (recorded.info.requests, recorded.info.actions, recorded.dead_letters) == (6, 11, 2)
    letter, wrong_key = read_dead_letters(tmp_path / "b")
    assert "is not the request_id 'other'" in wrong_key.reason
    assert (letter.topic, letter.partition, letter.offset) == (features, 0, 10)
    assert (letter.key, letter.value, letter.headers, letter.cut) == (b"k", b"noise", (("from", b"test"),), False)
    assert letter.timestamp_ms == 1_000_000
    assert letter.reason.startswith("unknown schema")


@pytest.mark.integration
def test_a_replay_keeps_the_recorded_pace(broker: str, topics: Callable[..., str], tmp_path: Path) -> None:
    recording = small(tmp_path / "a", requests=10, gap_ms=1000)
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    names = {"features": topics("features", 1), "actions": topics("actions", 1)}
    replay(recording, broker, speed=100.0, now_s=lambda: now[0], sleep=sleep, partitions=1, **names)
    assert sum(slept) == pytest.approx(9.5 / 100)


@pytest.mark.integration
def test_a_topic_that_is_not_there_is_named(broker: str) -> None:
    with pytest.raises(TopicError, match="nowhere"):
        list(read_topic(broker, "nowhere"))
