"""Letters on a real topic: written, read back, and their records sent again as a producer would have sent them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rillet.connectors.dead_letters import DeadLetterProducer, letter_for, read_dead_letters, resend
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import ActionEvent, DecodeError, RecordError, encode

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
    read = list(read_dead_letters(broker, dead))
    assert read == letters

    action = encode(ActionEvent("r1", ACTION_MS, 5, "like"))
    assert resend(broker, [replace(read[0], value=action), replace(read[1], key=None, headers=None)]) == 2
    mended, same = read_topic(broker, actions)
    assert (mended.partition, mended.key, mended.value, mended.headers) == (2, b"r1", action, HEADERS)
    assert (mended.timestamp_ms, mended.ingest_ms) == (ACTION_MS, 5)
    assert (same.key, same.value, same.timestamp_ms, same.headers) == (None, b"junk", 77, ())


def test_what_is_no_letter_is_named_with_its_offset(broker: str, topics: Callable[..., str]) -> None:
    dead = topics("dead")
    resend(broker, [letter_for(RecordError("r"), dead, 0, 0, key=None, value=b"noise")])
    with pytest.raises(DecodeError, match=f"topic {dead}, partition 0, offset 0: dead letter: is no JSON"):
        list(read_dead_letters(broker, dead))
