"""Dead letters without a broker: what waits stays, what is refused stops the checkpoints, cut ones are not sent again."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rillet.connectors import connection
from rillet.connectors.dead_letters import (
    DeadLetterProducer,
    letter_for,
    letter_for_example,
    read_dead_letters,
    resend,
)
from rillet.connectors.errors import DeliveryError, IncompleteResendError, ResendError
from rillet.connectors.limits import RECORD_MAX_BYTES
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import (
    BackpressureError,
    ClosedError,
    DeadLetter,
    FlushTimeoutError,
    RecordError,
    encode_dead_letter,
)
from rillet.trainer import BadRecord, RawRecord
from tests.connectors.mock_cluster import MockCluster

OnDelivery = Callable[[KafkaError | None, object], None]


class FakeProducer:
    """librdkafka's queue; each flush stands for time enough that a letter with a time limit is given up."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.expires = settings.get("message.timeout.ms", 300_000) != 0
        self.away = self.full = False
        self.refusal: KafkaError | None = None
        self.fatal = False
        #: what the client counts beside letters: errors and statistics that were not polled for yet
        self.events = 0
        self.queue: list[tuple[bytes, OnDelivery]] = []
        self.delivered: list[bytes] = []

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: OnDelivery) -> None:
        if self.full:
            raise BufferError
        self.queue.append((key, on_delivery))

    def poll(self, timeout_s: float) -> int:
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost data", fatal=True))
        threading.Event().wait(timeout_s / 10)
        return 0

    def flush(self, timeout_s: float) -> int:
        self.poll(0)
        if self.away and not self.expires:
            return len(self)
        error = KafkaError(KafkaError._MSG_TIMED_OUT) if self.away else self.refusal
        queue, self.queue = self.queue, []
        for key, on_delivery in queue:
            if error is None:
                self.delivered.append(key)
            on_delivery(error, None)
        return len(self)

    def purge(self, *, in_queue: bool, in_flight: bool) -> None:
        queue, self.queue = self.queue, []
        for _, on_delivery in queue:
            on_delivery(KafkaError(KafkaError._PURGE_QUEUE), None)

    def __len__(self) -> int:
        return len(self.queue) + self.events


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> DeadLetterProducer:
    monkeypatch.setattr(connection, "Producer", FakeProducer)
    letters = DeadLetterProducer("nowhere:9092", "dead")
    letters.start()
    return letters


def _letter(offset: int, value: bytes = b"noise") -> DeadLetter:
    return letter_for(RecordError("not a block"), "examples", 0, offset, key=b"k", value=value)


def _producer(letters: DeadLetterProducer) -> FakeProducer:
    producer = letters._producer
    assert isinstance(producer, FakeProducer)
    return producer


def test_letters_outlive_any_outage_of_the_broker(letters: DeadLetterProducer) -> None:
    producer = _producer(letters)
    producer.away = True
    letters.submit(_letter(7))
    for _ in range(2):
        with pytest.raises(FlushTimeoutError, match="topic dead on nowhere:9092: 1 dead letters wait"):
            letters.flush(0.02)
    producer.away = False
    letters.flush(1.0)
    assert producer.delivered == [b"examples|0|7"]


def test_a_flush_does_not_wait_for_letters_that_come_while_it_waits(
    letters: DeadLetterProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = _producer(letters)
    deliver = producer.flush

    def flush(timeout_s: float) -> int:
        deliver(timeout_s)
        letters.submit(_letter(8))
        return len(producer)

    monkeypatch.setattr(producer, "flush", flush)
    letters.submit(_letter(7))
    letters.flush(1.0)
    assert producer.delivered == [b"examples|0|7"]


def test_a_flush_of_a_closed_producer_does_not_take_given_up_letters_for_safe(letters: DeadLetterProducer) -> None:
    letters.submit(_letter(7))
    letters.close()
    with pytest.raises(FlushTimeoutError, match="1 dead letters wait"):
        letters.flush(1.0)


def test_a_letter_refused_for_good_fails_every_later_flush(letters: DeadLetterProducer) -> None:
    _producer(letters).refusal = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    letters.submit(_letter(7))
    for _ in range(2):
        with pytest.raises(DeliveryError, match="topic dead: a dead letter was refused"):
            letters.flush(1.0)


def test_a_full_queue_is_back_pressure_with_the_place_of_the_record(letters: DeadLetterProducer) -> None:
    _producer(letters).full = True
    with pytest.raises(BackpressureError, match="topic examples, partition 0, offset 7"):
        letters.submit(_letter(7))
    assert letters.sent == 0


def test_closing_gives_up_what_waits_and_counts_it(letters: DeadLetterProducer) -> None:
    letters.submit(_letter(7))
    letters.close()
    letters.close()
    assert (letters.sent, letters.failed) == (1, 1)
    with pytest.raises(ClosedError):
        letters.submit(_letter(8))


def test_events_of_the_client_are_no_letters(letters: DeadLetterProducer) -> None:
    producer = _producer(letters)
    letters.submit(_letter(7))
    producer.events = 3
    letters.flush(1.0)
    letters.submit(_letter(8))
    letters.close()
    assert (letters.sent, letters.failed) == (2, 1)


@pytest.mark.parametrize("use", [lambda letters: letters.submit(_letter(8)), lambda letters: letters.flush(1.0)])
def test_a_fatal_error_of_the_client_is_a_refusal_for_good(
    letters: DeadLetterProducer, use: Callable[[DeadLetterProducer], None]
) -> None:
    letters.submit(_letter(7))
    _producer(letters).fatal = True
    with pytest.raises(DeliveryError, match="topic dead: a dead letter was refused: lost data"):
        use(letters)
    _producer(letters).fatal = False
    with pytest.raises(DeliveryError, match="lost data"):
        letters.flush(1.0)
    _producer(letters).fatal = True
    letters.close()


def test_the_settings_are_ones_that_the_client_takes() -> None:
    letters = DeadLetterProducer("127.0.0.1:1", "dead")
    letters.start()
    letters.submit(_letter(7))
    with pytest.raises(FlushTimeoutError):
        letters.flush(0.1)
    letters.close()


def test_the_letter_of_the_largest_record_fits_into_a_record() -> None:
    letter = _letter(7, bytes(RECORD_MAX_BYTES))
    assert letter.cut
    assert len(encode_dead_letter(letter)) + len(letter.letter_key) < RECORD_MAX_BYTES


def test_a_letter_that_holds_only_a_part_is_not_sent_again_nor_any_beside_it() -> None:
    cut = replace(_letter(9), cut=True)
    with pytest.raises(ResendError, match="topic examples, partition 0, offset 9: the letter holds only a part"):
        resend("127.0.0.1:1", [_letter(7), cut])


def test_what_the_broker_did_not_take_is_no_success() -> None:
    with pytest.raises(DeliveryError, match=r"1 of 1 records were not sent again to 127\.0\.0\.1:1"):
        resend("127.0.0.1:1", [_letter(7)], timeout_s=0.2)


def test_a_record_with_headers_that_its_letter_does_not_hold_is_not_sent_without_them() -> None:
    letter = letter_for(
        RecordError("r"), "t", 0, 7, key=b"k", value=b"v", headers=[("ingest_ms", b"5")], more_headers=True
    )
    with pytest.raises(ResendError, match="topic t, partition 0, offset 7: the record had more headers"):
        resend("127.0.0.1:1", [letter])


def test_a_letter_that_was_cut_goes_out_once_it_is_filled_in_as_its_error_says() -> None:
    cluster, headers = MockCluster("actions"), [("ingest_ms", b"5"), ("trace", None)]
    producer = cluster.producer()
    producer.produce("actions", b"whole value", b"r1", partition=2, headers=headers)
    assert producer.flush(5) == 0
    letter = letter_for(RecordError("r"), "actions", 2, 0, key=b"r1", value=b"whole value", more_headers=True)
    cut = replace(letter, value=b"whole", cut=True)

    with pytest.raises(ResendError, match="take the record from the topic, and replace key, headers, value and cut"):
        resend(cluster.bootstrap_servers, [cut])
    (record,) = read_topic(cluster.bootstrap_servers, "actions", start={2: 0})
    mended = replace(cut, key=record.key, value=record.value, headers=record.headers, cut=False)
    with pytest.raises(ResendError, match="replace headers and more_headers, or replace more_headers alone"):
        resend(cluster.bootstrap_servers, [mended])
    alone = replace(mended, headers=(), more_headers=False)
    assert resend(cluster.bootstrap_servers, [replace(mended, more_headers=False), alone]) == 2
    first, filled, bare = read_topic(cluster.bootstrap_servers, "actions")
    assert (filled.key, filled.value, filled.headers) == (first.key, first.value, first.headers)
    assert (bare.value, bare.headers) == (b"whole value", ())


def test_a_record_that_is_no_letter_does_not_hide_those_after_it() -> None:
    cluster = MockCluster("dead")
    letters = [_letter(7), _letter(8)]
    cluster.write("dead", encode_dead_letter(letters[0]), b"noise", encode_dead_letter(letters[1]))
    first, foreign, last = read_dead_letters(cluster.bootstrap_servers, "dead")
    assert [first.letter, last.letter] == letters
    assert (foreign.partition, foreign.offset, foreign.letter) == (0, 1, None)
    assert "topic dead, partition 0, offset 1: dead letter: is no JSON" in str(foreign.error)
    assert list(read_dead_letters(cluster.bootstrap_servers, "dead", start={0: 2})) == [last]


def test_a_letter_that_cannot_be_sent_leaves_the_others_sent_and_told_apart() -> None:
    cluster = MockCluster("examples")
    letters = [_letter(7), replace(_letter(8), partition=70), _letter(9)]
    with pytest.raises(IncompleteResendError, match=r"1 of 3 records .* partition 70, offset 8: ") as caught:
        resend(cluster.bootstrap_servers, letters, timeout_s=3.0)
    assert caught.value.acknowledged == (letters[0], letters[2])
    assert caught.value.unacknowledged == (letters[1],)
    assert [record.value for record in read_topic(cluster.bootstrap_servers, "examples")] == [b"noise"] * 2


def test_the_documented_way_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = MockCluster("dead_letters", "examples")
    cluster.write("dead_letters", b"noise", encode_dead_letter(_letter(7)))
    (tmp_path / "spec.toml").touch()
    (tmp_path / "rillet.toml").write_text(
        f'spec = "spec.toml"\n[kafka]\nbootstrap_servers = "{cluster.bootstrap_servers}"\n'
    )
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "operations" / "dead-letters.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})  # noqa: S102
    assert "is no JSON" in (out := capsys.readouterr().out)
    assert "1 records sent again" in out
    assert [record.value for record in read_topic(cluster.bootstrap_servers, "examples")] == [b"noise"]


def test_a_row_of_files_is_sent_again_to_the_examples_topic_and_its_letter_names_the_files() -> None:
    """The address of files is no topic: `resend` could not have sent it."""
    bad = BadRecord(RawRecord(-1, 7, b"row"), RecordError("row 3: dense hour is inf"), 3)
    letter = letter_for_example(bad, "examples", "s3://lake/films")
    assert (letter.topic, letter.partition, letter.offset, letter.row) == ("examples", -1, 7, 3)
    assert letter.reason == "s3://lake/films: row 3: dense hour is inf"
    assert (
        letter_for_example(bad._replace(record=RawRecord(2, 7, b"row")), "examples").reason
        == "row 3: dense hour is inf"
    )
