"""Which records of the raw topics are usable."""

from __future__ import annotations

import pytest

from rillet.schemas import ActionEvent, ExampleBlock, RecordError, decode_event, encode, quoted
from tests.joiner.blocks import example_blocks
from tests.joiner.support import SPEC, action, feature


def test_an_event_under_its_key_is_taken_whatever_topic_it_lies_on() -> None:
    for event in (feature(1, 5_000), action(1, 0, "watch", 5_000)):
        assert decode_event(encode(event), b"r1").request_id == "r1"


def block() -> ExampleBlock:
    return example_blocks(SPEC, [feature(1, 5_000)], [])[0]


@pytest.mark.parametrize(
    ("data", "key", "reason"),
    [
        (None, b"r1", "unknown schema"),
        (encode(action(1, 0, "watch", 5)), None, "key: there is none"),
        (encode(action(1, 0, "watch", 5)), b"r2", "key: b'r2' is not the request_id 'r1'"),
        (encode(block()), b"r1", "a ExampleBlock is neither"),
        (encode(ActionEvent("x" * 9_999, 5, 1, "watch")), bytes(9_999), r"9999 bytes.* '.*9999 characters"),
    ],
)
def test_what_cannot_be_used_is_named_in_a_short_line(data: bytes | None, key: bytes | None, reason: str) -> None:
    with pytest.raises(RecordError, match=reason) as error:
        decode_event(data, key)
    assert len(str(error.value)) < 1_000


def test_a_quotation_is_a_prefix() -> None:
    assert quoted(b"short") == "b'short'"
    assert quoted("y" * 100) == f"{'y' * 80!r}... (100 characters)"
