"""Letters on a real topic: written, read back, and their records sent again as a producer would have sent them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for, read_dead_letters, resend
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import ActionEvent, RecordError, encode

pytestmark = pytest.mark.integration

ACTION_MS = 1_000_000_000_000
HEADERS = (("ingest_ms", b"5"), ("trace", None))


def test_a_mended_record_goes_out_as_its_producer_would_have_sent_it(broker: str, topics: Callable[..., str]) -> None:
    actions, dead = topics("actions", 3), topics("dead")
    letters = [
        letter_for(
            RecordError("not an action"), actions, 2, offset, key=b"r1", value=b"junk", timestamp_ms=77, headers=HEADERS
        )
        for offset in (4, 5)
    ]
    producer = DeadLetterProducer(broker, dead)
    producer.start()
    for letter in letters:
        producer.submit(letter)
    producer.flush(10)
    producer.close()
    stored = list(read_dead_letters(broker, dead))
    assert [(one.offset, one.letter, one.error) for one in stored] == [(0, letters[0], None), (1, letters[1], None)]
    read = letters

    action = encode(ActionEvent("r1", ACTION_MS, 5, "like"))
    assert resend(broker, [replace(read[0], value=action), replace(read[1], key=None, headers=None)]) == 2
    mended, same = read_topic(broker, actions)
    assert (mended.partition, mended.key, mended.value, mended.headers) == (2, b"r1", action, HEADERS)
    assert (mended.timestamp_ms, mended.ingest_ms) == (ACTION_MS, 5)
    assert (same.key, same.value, same.timestamp_ms, same.headers) == (None, b"junk", 77, ())
