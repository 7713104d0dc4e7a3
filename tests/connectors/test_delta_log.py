"""The delta log's client when it fails: what is raised, and what the message says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rillet.connectors import connection
from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.sync import LogUnavailableError


class FatalProducer:
    """One whose broker has lost what it had acknowledged: every call of it fails from then on."""

    made = 0

    def __init__(self, settings: dict[str, Any]) -> None:
        type(self).made += 1
        self.dead = False

    def poll(self, timeout_s: float) -> int:
        if self.dead:
            raise KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost data", fatal=True))
        return 0

    def flush(self, timeout_s: float) -> int:
        return self.poll(timeout_s)

    def produce(self, topic: str, **record: object) -> None:
        pass

    def purge(self, *, in_queue: bool, in_flight: bool) -> None:
        pass


@pytest.mark.parametrize("use", [lambda log: log.append(b"k", b"v"), lambda log: log.commit(1.0)])
def test_a_fatal_error_is_an_unavailable_log_that_works_again_with_a_new_producer(
    monkeypatch: pytest.MonkeyPatch, use: Any
) -> None:
    monkeypatch.setattr(connection, "Producer", FatalProducer)
    log = KafkaDeltaLog("nowhere:9092", "deltas")
    log.append(b"k", b"v")
    log._producer.dead = True  # type: ignore[union-attr]
    made = FatalProducer.made
    with pytest.raises(LogUnavailableError, match=r"deltas\[0\] on nowhere:9092: lost data"):
        use(log)
    log.append(b"k", b"v")
    log.commit(1.0)
    assert FatalProducer.made == made + 1


def test_closing_one_with_a_fatal_error_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "Producer", FatalProducer)
    log = KafkaDeltaLog("nowhere:9092", "deltas")
    log.append(b"k", b"v")
    log._producer.dead = True  # type: ignore[union-attr]
    log.close()


def test_the_reason_why_no_broker_answers_is_in_the_message() -> None:
    with (
        KafkaDeltaLog("127.0.0.1:1", "deltas", answer_timeout_s=0.5) as log,
        pytest.raises(LogUnavailableError, match=re.escape("the broker last said: ") + ".*Connection refused"),
    ):
        log.end()
