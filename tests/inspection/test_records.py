"""Records are shown by the names of the spec, whatever they hold; what cannot be decoded is shown with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.connectors.topic_reader import TopicRecord
from rillet.inspection.records import Kind, RecordReader
from rillet.inspection.text import lines_of
from rillet.schemas import (
    DenseRef,
    EpochClaim,
    Freshness,
    RecordError,
    dead_letter,
    encode,
    encode_dead_letter,
    make_fids,
    token_values,
)
from rillet.sync import TableShard
from rillet.sync.blocks import build_block
from tests.inspection.samples import NOW_MS, SPEC, action_event, example_block, feature_event, on_topic

READER = RecordReader(SPEC)


def test_a_page_is_shown_with_slots_by_name_hashes_bins_dense_numbers_and_what_was_served() -> None:
    view = READER.describe(on_topic(feature_event()), "features")
    assert view["record"] == "feature_event"
    assert view["event_time"] == "2023-11-14T22:13:17.000Z"
    assert view["context"] == {"user": 7, "seen": [3, 9]}
    drama = f"#{int(token_values(['drama'])[0]):012x}"
    assert view["impressions"][0] == {
        "impression_id": 50,
        "features": {"film": 5, "shelf": drama, "price": "bin 1: 1.5 to 10"},
        "dense": {"weight": 0.5},
        "served": {"watch": 0.5, "buy": 0.1192},
    }
    assert view["impressions"][1]["features"]["price"] == "bin 2: 10 and above"
    assert "problem" not in view


def test_an_empty_history_is_an_empty_list() -> None:
    context, lengths = SPEC.encode_side("context", {"user": [7], "seen": [[]]})
    view = READER.describe(on_topic(feature_event(context_fids=context, context_lengths=lengths)), "features")
    assert view["context"] == {"user": 7, "seen": []}


def test_a_page_of_another_spec_is_shown_with_numbers_of_slots_and_the_problem() -> None:
    view = READER.describe(on_topic(feature_event(spec_hash=17)), "features")
    assert set(view["context"]) == {"slot 1", "slot 2"}
    assert view["problem"].startswith("spec_hash: written under feature spec 0x11")


def test_a_page_of_an_accepted_spec_is_shown_with_its_own_names() -> None:
    newer = replace(SPEC, name="newer", tasks=SPEC.tasks[:1])
    view = RecordReader(newer, (SPEC,)).describe(on_topic(feature_event()), "features")
    assert view["impressions"][0]["served"] == {"watch": 0.5, "buy": 0.1192}
    assert "problem" not in view


def test_a_record_under_another_key_is_shown_with_what_its_readers_will_say() -> None:
    view = READER.describe(on_topic(feature_event(), key=b"elsewhere"), "features")
    assert view["request_id"] == "r-1"
    assert view["problem"] == "key: b'elsewhere' is not the request_id 'r-1'"


def test_an_action_says_which_task_asks_for_it() -> None:
    assert READER.describe(on_topic(action_event(), "actions"), "actions")["tasks"] == ["watch"]
    unknown = READER.describe(on_topic(action_event(action="WATCH"), "actions"), "actions")
    assert unknown["tasks"] == []
    assert "which no task asks for" in lines_of(unknown, NOW_MS)[0]


def test_example_rows_are_shown_with_kind_label_times_and_features() -> None:
    view = READER.describe(on_topic(example_block(), "examples"), "examples")
    first, second = view["rows"]
    assert (first["kind"], first["labels"], first["served"]) == ("correction", {"watch": 1}, {"watch": 0.5})
    assert (second["kind"], second["sampling_rate"], second["action_time_ms"]) == ("provisional", 0.5, None)
    assert first["features"]["film"] == 5
    assert first["features"]["seen"] == [3, 9]
    assert view["row_count"] == 2


def test_of_a_block_only_so_many_rows_or_those_of_a_request_are_shown() -> None:
    limited = replace(READER, limit=1).describe(on_topic(example_block(), "examples"), "examples")
    assert [row["request_id"] for row in limited["rows"]] == ["r-1"]
    assert lines_of(limited, NOW_MS)[-1].strip() == "... 1 more rows"
    of_one = replace(READER, request_id="r-2").describe(on_topic(example_block(), "examples"), "examples")
    assert [row["request_id"] for row in of_one["rows"]] == ["r-2"]
    assert of_one["row_count"] == 1


def test_delta_blocks_are_shown_by_header_and_rows_with_the_names_of_slots_and_crosses() -> None:
    fids = np.concatenate([make_fids(16, [5]), make_fids(40, [77])])
    shard = TableShard("shop", SPEC.model_hash)
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)
    freshness = Freshness(NOW_MS - 5_000, NOW_MS, np.array([NOW_MS]))
    block = build_block(
        shard, epoch=2, sequence=9, dim=5, fids=fids, rows=rows, tombstones=fids[:1], freshness=freshness
    )
    view = READER.describe(on_topic(block, "deltas"), "deltas")
    assert (view["epoch"], view["sequence"], view["row_count"], view["tombstone_count"]) == (2, 9, 2, 1)
    assert [(row["slot"], row["value"]) for row in view["rows"]] == [("film", 5), ("user_film", "#00000000004d")]
    assert view["rows"][0]["fid"] == str(int(fids[0]))
    first, *rest = lines_of(view, NOW_MS)
    assert "shop 2/9: 2 rows of dim 5, 1 removed, 1 actions learned from, newest event 2023" not in first
    assert "newest event 5.0 s ago" in first
    assert rest[0].endswith("[0 1 2 3 ...]")


def test_a_damaged_delta_block_says_so() -> None:
    block = build_block(TableShard("shop", SPEC.model_hash), epoch=1, sequence=1, dim=1)
    view = READER.describe(on_topic(replace(block, crc32c=1), "deltas"), "deltas")
    assert view["problem"].startswith("crc32c ")


def test_claims_and_dense_weights_are_shown() -> None:
    claim = READER.describe(on_topic(EpochClaim("shop", 0, 3, 1, "host-1"), "deltas"), "deltas")
    dense = READER.describe(on_topic(DenseRef("shop", 0, 3, 1, 1, 8, "dense/8", "ab", NOW_MS), "deltas"), "deltas")
    assert lines_of(claim, NOW_MS)[0].endswith("shop 3/0: epoch claimed by host-1")
    assert lines_of(dense, NOW_MS)[0].endswith("shop 3/1: dense weights 8 at dense/8")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"page": 7}', '{"page": 7}'),
        (encode(feature_event()), "feature event of request r-1, 2 impressions"),
        (encode(action_event()), "action watch of request r-1 on impression 50"),
        (b"\xc3\x01\x00", "hex c30100"),
        (None, None),
    ],
)
def test_a_dead_letter_has_its_reason_its_place_and_how_its_value_begins(
    value: bytes | None, shown: str | None
) -> None:
    letter = dead_letter(
        "time: 7 is before 1970", "features", 1, 42, key=b"r-1", value=value, now_ms=NOW_MS - 1_000, max_bytes=1_000
    )
    view = READER.describe(on_topic(encode_dead_letter(letter), "dead_letters"), "dead-letters")
    assert view["value"] == shown
    first, place, *_ = lines_of(view, NOW_MS)
    assert first.endswith("(1.0 s ago): time: 7 is before 1970")
    assert place.strip() == "from   features 1:42, key r-1"


LONG = json.dumps({"page": "r-1", "articles": list(range(400))}).encode()


@pytest.mark.parametrize(
    ("value", "cut", "whole"),
    [
        (LONG, f"{LONG.decode()[:160]}... {len(LONG) - 160:,} bytes more, --full", LONG.decode()),
        ("é".encode() * 300, f"{'é' * 160}... 280 bytes more, --full", "é" * 300),
        (
            bytes(range(256)),
            f"hex {bytes(range(32)).hex()}... 224 bytes more, --full",
            f"hex {bytes(range(256)).hex()}",
        ),
    ],
)
def test_a_refused_record_that_is_cut_says_how_to_see_it_whole(value: bytes, cut: str, whole: str) -> None:
    letter = dead_letter("no", "features", 1, 42, key=b"k" * 500, value=value, now_ms=NOW_MS, max_bytes=10_000)
    record = on_topic(encode_dead_letter(letter), "dead_letters")
    _, place, shown = lines_of(READER.describe(record, "dead-letters"), NOW_MS)
    assert shown.strip() == f"value  {cut}"
    assert place.endswith(f"key {'k' * 160}... 340 bytes more, --full")
    reader = replace(READER, full=True)
    _, place, shown = lines_of(reader.describe(record, "dead-letters"), NOW_MS, full=True)
    assert shown.strip() == f"value  {whole}"
    assert place.endswith(f"key {'k' * 500}")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_cannot_be_decoded_is_shown_with_the_reason_and_its_beginning(kind: Kind) -> None:
    view = READER.describe(on_topic(b'{"page_id": 17}'), kind)
    assert view["record"] is None
    assert view["value"] == '{"page_id": 17}'
    first, value = lines_of(view, NOW_MS)
    assert "cannot be decoded: " in first
    assert value.strip() == 'value {"page_id": 17}'


def test_a_topic_in_another_format_is_shown_as_what_the_joiner_makes_of_it_and_as_it_is() -> None:
    def convert(record: TopicRecord) -> TopicRecord:
        if record.value != b'{"page_id": "r-1"}':
            raise RecordError("page_id: is missing")
        return replace(record, key=b"r-1", value=encode(feature_event()))

    reader = replace(READER, sources={"features": convert})
    view = reader.describe(on_topic(b'{"page_id": "r-1"}', key=None), "features")
    assert view["request_id"] == "r-1"
    assert view["source"] == '{"page_id": "r-1"}'
    assert "problem" not in view
    assert reader.describe(on_topic(b"{}"), "features")["problem"] == "page_id: is missing"


RECORDS = [encode(feature_event()), encode(action_event()), encode(example_block())]


@given(st.sampled_from(RECORDS), st.integers(10, 400), st.integers(0, 255), st.booleans())
def test_no_damage_ends_the_command(record: bytes, at: int, byte: int, cut: bool) -> None:
    """Every view becomes a line of JSON and lines of text."""
    damaged = record[:at] if cut else record[:at] + bytes([byte]) + record[at + 1 :]
    for kind in ("features", "examples"):
        view = READER.describe(on_topic(damaged), kind)
        assert json.loads(json.dumps(view, allow_nan=False)) == view
        assert lines_of(view, NOW_MS)


@given(st.integers(0, 4), st.integers(0, 4))
def test_columns_that_do_not_fit_together_are_a_problem_and_no_failure(fids: int, labels: int) -> None:
    block = example_block(
        item_fids=example_block().item_fids[:fids], labels=np.ones(labels, np.uint8), item_lengths=None
    )
    view = READER.describe(on_topic(block, "examples"), "examples")
    assert view["problem"]
    assert lines_of(view, NOW_MS)
