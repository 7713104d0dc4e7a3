"""What a person reads of a record: where it lies, when it was, and one line per candidate or row."""

from __future__ import annotations

from rillet.inspection.records import RecordReader
from rillet.inspection.text import lines_of
from tests.inspection.samples import NOW_MS, SPEC, action_event, example_block, feature_event, on_topic

READER = RecordReader(SPEC)


def test_a_page_in_lines() -> None:
    first, context, *impressions = lines_of(READER.describe(on_topic(feature_event()), "features"), NOW_MS)
    assert first == (
        "features 1:42  2023-11-14T22:13:17.000Z (3.0 s ago)  request r-1, 2 impressions, answered by shop version 4"
    )
    assert context == "    user 7  seen [3 9]"
    words = impressions[0].split()
    assert words[:5] == ["impression", "50", "film", "5", "shelf"]
    assert " ".join(words[6:]) == "price bin 1: 1.5 to 10 weight 0.5 watch served 0.5 buy served 0.1192"
    assert impressions[0].index("price") == impressions[1].index("price")


def test_an_action_from_tomorrow_is_in_the_future_and_not_of_a_negative_age() -> None:
    tomorrow = action_event(event_time_ms=NOW_MS + 85_848_000)
    line, *problem = lines_of(READER.describe(on_topic(tomorrow, "actions"), "actions"), NOW_MS)
    assert "max_ahead_ms allows 3,600 s" in " ".join(problem)
    assert "(in the future by 24 h), ingested 24 h earlier  watch on impression 50 of request r-1" in line


def test_rows_of_examples_are_aligned() -> None:
    first, *rows = lines_of(READER.describe(on_topic(example_block(), "examples"), "examples"), NOW_MS)
    assert first == "examples 1:42  2 rows of bucket 3, newest event 1.0 s ago"
    assert rows[0].split()[:2] == ["correction", "watch=1"]
    assert "acted +2.0 s" in rows[0]
    assert "no action" in rows[1]
    assert rows[0].index("request") == rows[1].index("request")


HOSTILE = "p1\x1b]0;pwned\x07\nactions 0:2  a line that looks like ours\x9b2J\x7f\u2028\u202e"


def test_what_strangers_write_cannot_steer_the_terminal_or_look_like_another_line() -> None:
    lines = lines_of(READER.describe(on_topic(action_event(request_id=HOSTILE), "actions"), "actions"), NOW_MS)
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert r"request p1\x1b]0;pwned\x07\nactions 0:2  a line that looks like ours\x9b2J\x7f\u2028\u202e, " in lines[0]


def test_a_text_that_is_too_long_is_cut_and_its_length_said() -> None:
    event = action_event(request_id="x" * 100_000)
    (line,) = lines_of(READER.describe(on_topic(event, "actions"), "actions"), NOW_MS)
    assert "x... (100,000 characters), " in line
    assert len(line) < 1_000
