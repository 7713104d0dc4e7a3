from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.schemas import DecodeError, dead_letter, decode_dead_letter, encode_dead_letter

_BYTES = st.none() | st.binary(max_size=40)
_HEADERS = st.none() | st.lists(st.tuples(st.text(max_size=5), _BYTES), max_size=3)


@given(key=_BYTES, value=_BYTES, headers=_HEADERS, limit=st.integers(0, 100), timestamp=st.integers(-1, 2**62))
def test_letters_come_back_as_they_were_and_say_what_was_left_out(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]] | None, limit: int, timestamp: int
) -> None:
    letter = dead_letter(
        "why", "t", 1, 2, key=key, value=value, now_ms=5, max_bytes=limit, timestamp_ms=timestamp, headers=headers
    )
    assert decode_dead_letter(encode_dead_letter(letter)) == letter
    kept = len(letter.key or b"") + len(letter.value or b"")
    kept += sum(len(name.encode()) + len(data or b"") for name, data in letter.headers or ())
    assert kept <= limit
    whole = (
        letter.key == key and letter.value == value and letter.headers == (None if headers is None else tuple(headers))
    )
    assert letter.cut == (not whole)
    assert letter.value_bytes == len(value or b"")


@pytest.mark.parametrize("character", ["x", "\x01", "\u00e4", "\U0001f600"])
def test_an_encoded_letter_is_bounded_whatever_it_is_made_of(character: str) -> None:
    limit = 30_000
    for size in (1, limit // 12, limit, 10 * limit):
        text = character * size
        for headers in (None, [(text, b"")], [("", None)] * size):
            letter = dead_letter(
                text, "t", 1, 2, key=text.encode(), value=b"v" * size, now_ms=5, max_bytes=limit, headers=headers
            )
            assert len(encode_dead_letter(letter)) <= limit * 4 / 3 + 8_000
            assert len(letter.reason.encode()) <= 1_024


def test_the_letter_of_a_row_names_it() -> None:
    letter = dead_letter("why", "examples", 1, 2, row=17, key=None, value=b"v", now_ms=5, max_bytes=100)
    assert decode_dead_letter(encode_dead_letter(letter)) == letter
    assert letter.place == "topic examples, partition 1, offset 2, row 17"


def test_a_letter_can_be_read_by_people_and_other_tools() -> None:
    letter = dead_letter("unknown schema", "actions", 1, 2, key=b"r1", value=b"junk", now_ms=5, max_bytes=100)
    shown = json.loads(encode_dead_letter(letter))
    assert (shown["reason"], shown["topic"], shown["value_base64"]) == ("unknown schema", "actions", "anVuaw==")


GOOD = json.loads(encode_dead_letter(dead_letter("r", "t", 1, 2, key=None, value=b"v", now_ms=5, max_bytes=100)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"noise", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[1]", "format is 'list'"),
        (b"{}", "format is None"),
        (json.dumps({**GOOD, "offset": "2"}).encode(), "offset is '2', expected int"),
        (json.dumps({**GOOD, "value_base64": "!"}).encode(), "dead letter: "),
        (json.dumps({**GOOD, "headers_base64": [1]}).encode(), "dead letter: "),
        (json.dumps({name: value for name, value in GOOD.items() if name != "reason"}).encode(), "reason is missing"),
    ],
)
def test_what_is_no_letter_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_dead_letter(data)
