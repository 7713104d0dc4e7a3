"""Records that the joiner's adapter to Flink cannot use become dead letters."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.joiner import JoinerConfig
from rillet.schemas import (
    ActionEvent,
    encode,
    encode_dead_letter,
)
from tests.joiner.support import action, feature
from tests.operators.joiner_runner import Runner, record


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (record(encode(feature(1, 5)), None), "key: there is none"),
        (record(encode(feature(1, 5)), b"other"), "key: b'other' is not the request_id"),
        *(
            (record(encode(feature(1, 5)), b"r1", ingest=text), "header ingest_ms")
            for text in (
                b"",
                b"?",
                b"-5",
                b"+7",
                b" 7",
                b"1_000",
                b"1.7",
                b"1e3",
                b"\xd9\xa1",
                b"9" * 30,
                b"9" * 10_000,
            )
        ),
        (record(b"", b"r1"), "unknown schema"),
        (record(None, b"r1"), "unknown schema"),
        (record(b"\nju,nk\n", b"r1"), "unknown schema"),
    ],
)
def test_a_record_that_cannot_be_used_is_a_letter_and_the_next_one_counts(
    tmp_path: Path, value: bytes, reason: str
) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(value)
    (letter,) = runner.letters
    assert reason in letter.reason
    assert (letter.topic, letter.partition, letter.offset) == ("features", 3, 42)
    assert letter.key == (None if "key: there is none" in reason else b"other" if "other" in reason else b"r1")
    ((name, ingest),) = letter.headers or ()
    assert name == "ingest_ms"
    assert value.endswith((letter.key or b"") + (ingest or b"") + (letter.value or b""))
    assert letter.timestamp_ms == 1_714_564_800_250
    assert not letter.more_headers
    runner.send(record(encode(feature(2, 5)), b"r2", ingest=None))
    runner.send(record(encode(action(2, 0, "watch", 6)), b"r2"))
    (block,) = runner.blocks
    assert (block.feature_ingest_ms[0], block.action_ingest_ms[0]) == (-1, 7)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (b"r1", b"x" * RECORD_MAX_BYTES),
        (bytes(4_000_000), encode(action(1, 0, "watch", 6))),
        (b"k", encode(ActionEvent("\x01" * 4_000_000, 6, 100, "watch"))),
        (b"k", encode(ActionEvent("\u00e4" * 4_000_000, 6, 100, "watch"))),
    ],
)
def test_a_letter_never_outgrows_the_topic(tmp_path: Path, key: bytes, data: bytes) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(data, key))
    (letter,) = runner.letters
    assert letter.value_bytes == len(data)
    assert len(letter.reason.encode()) <= 1_024
    assert len(encode_dead_letter(letter)) < RECORD_MAX_BYTES


def test_a_letter_says_what_the_job_did_not_see(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(b"junk", b"r1", ingest=b"7", headers=2))
    runner.send(record(b"junk", b"r1", ingest=None, headers=1))
    runner.send(record(None, b"r1", ingest=None, timestamp=""))
    runner.send(record(b"", b"r1", ingest=None, timestamp="292278994-08-17 07:12:55.807"))
    both, other, tombstone, empty = runner.letters
    assert (both.headers, both.more_headers) == ((("ingest_ms", b"7"),), True)
    assert (other.headers, other.more_headers) == ((), True)
    assert (tombstone.value, tombstone.timestamp_ms, tombstone.more_headers) == (None, -1, False)
    assert (empty.value, empty.timestamp_ms) == (b"", -1)


def test_leading_zeros_are_digits_too(tmp_path: Path) -> None:
    runner = Runner(JoinerConfig(), tmp_path)
    runner.send(record(encode(feature(2, 5)), b"r2", ingest=b"0" * 40 + b"9"))
    runner.send(record(encode(action(2, 0, "watch", 6)), b"r2"))
    assert runner.blocks[0].feature_ingest_ms[0] == 9


@pytest.mark.parametrize(
    ("ingest", "timestamp", "refused"),
    [
        (b"1714561200000", "2024-05-01 13:00:00.001", True),  # by its header it was sent an hour before now
        (b"1714561200001", "2024-05-01 13:00:00.001", False),
        (None, "2024-05-01 11:00:00.000", True),  # the broker's, on a topic of append times
        (None, "2024-05-01 11:00:00.001", False),
        (None, "2024-05-01 12:00:00.001", False),  # its own event time, of which the clock is the only bound
        (b"4000000000000", "2024-05-01 12:00:00.001", False),  # no clock that is read says more than the joiner's
    ],
)
@pytest.mark.parametrize("kind", ["features", "actions"])
def test_an_event_time_is_bounded_by_when_its_record_entered_the_topic(
    tmp_path: Path, ingest: bytes | None, timestamp: str, refused: bool, kind: str
) -> None:
    runner = Runner(JoinerConfig(max_ahead_ms=3_600_000), tmp_path)
    now_ms = runner.keyed.now_ms

    def send(time_ms: int) -> None:
        event = feature(1, time_ms) if kind == "features" else action(1, 0, "watch", time_ms)
        runner.send(record(encode(event), b"r1", ingest, timestamp=timestamp))

    send(now_ms + 1)
    assert [letter.reason.partition(": is the clock")[0] for letter in runner.letters] == (
        [
            f"event_time_ms: {now_ms + 1} is 3,600 s after its record entered the topic at {now_ms - 3_600_000}, "
            "[joiner] max_ahead_ms allows 3,600 s"
        ]
        if refused
        else []
    )
    runner.letters.clear()
    send(now_ms + 3_600_001)  # by no clock
    assert "max_ahead_ms" in runner.letters[0].reason
    assert runner.metric("refused.FutureTimeError.count") == 1 + refused
