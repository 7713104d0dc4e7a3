"""The feature spec: what it accepts, what it refuses and where it says so."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rillet.schemas import (
    Cross,
    ExampleBlock,
    FeatureEvent,
    RecordError,
    Slot,
    SpecError,
    SpecMismatchError,
    TimeUnitError,
    dump_spec,
    load_spec,
    make_fids,
    parse_spec,
    quantile_bins,
    token_values,
)

TEXT = """
[spec]
name = "shop"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "hour"
slot = 2
kind = "number"
bins = [6, 12.5, 18]
[[item]]
name = "tags"
slot = 9
kind = "token"
max_values = 3
[[item]]
name = "shop"
slot = 10
kind = "id"
[[dense]]
name = "price"
[[tasks]]
name = "click"
action = "click"
window_ms = 600_000
negative_rate = 0.25
[[tasks]]
name = "buy"
action = "buy"
window_ms = 86_400_000
late = "correct"
"""
SPEC = parse_spec(TEXT)


def event(**changes: Any) -> FeatureEvent:
    context, context_lengths = SPEC.encode_side("context", {"user": [7], "hour": [12.5]})
    item, item_lengths = SPEC.encode_side("item", {"tags": [["a", "b"], []], "shop": [4, 5]})
    made = FeatureEvent(
        request_id="r",
        event_time_ms=1,
        spec_hash=SPEC.hash,
        context_fids=context,
        context_lengths=context_lengths,
        impression_ids=np.array([1, 2]),
        item_fids=item,
        item_lengths=item_lengths,
        dense=np.ones(2, np.float32),
    )
    return replace(made, **changes)


def test_raw_values_become_fids_row_after_row_slots_in_order() -> None:
    made = event()
    assert made.context_fids.tolist() == [make_fids(1, 7), make_fids(2, 2)]
    assert made.context_lengths is None
    a, b = make_fids(9, token_values(["a", "b"]))
    assert made.item_fids.tolist() == [a, b, make_fids(10, 4), make_fids(10, 5)]
    assert made.item_lengths is not None
    assert made.item_lengths.tolist() == [2, 1, 0, 1]
    SPEC.check_feature(made)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1]}, "context column hour is missing"),
        ({"user": [1, 2], "hour": [1]}, "hour has 1 rows, the others 2"),
        ({"user": [-1], "hour": [1]}, "user: an id of slot 1"),
        ({"user": ["x"], "hour": [1]}, "user: "),
        ({"user": [1], "hour": [float("nan")]}, "hour: .*not finite"),
    ],
)
def test_raw_values_that_do_not_fit_name_their_column(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        SPEC.encode_side("context", columns)


CROSSES = """
[[cross]]
name = "user_tag"
slot = 40
slots = ["user", "tags"]
[[cross]]
name = "tag_shop"
slot = 41
slots = ["tags", "shop"]
max_values = 2
"""
CROSSED = parse_spec(TEXT + CROSSES)


def test_crosses_are_segments_after_the_slots_with_room_for_every_pair_unless_they_say_less() -> None:
    assert CROSSED.crosses == (Cross("user_tag", 40, ("user", "tags"), 3), Cross("tag_shop", 41, ("tags", "shop"), 2))
    assert (CROSSED.slots, CROSSED.width, CROSSED.segments) == (SPEC.slots, SPEC.width, 6)
    assert SPEC.segments == 4
    assert parse_spec(dump_spec(CROSSED)) == CROSSED


def test_crosses_change_what_a_model_is_and_not_what_records_hold() -> None:
    assert CROSSED.hash == SPEC.hash == SPEC.model_hash
    narrower = parse_spec(TEXT + CROSSES.replace("max_values = 2", "max_values = 1"))
    turned = parse_spec(TEXT + CROSSES.replace('["user", "tags"]', '["tags", "user"]'))
    fewer = replace(CROSSED, crosses=CROSSED.crosses[:1])
    other = replace(CROSSED, sampling_seed=9)
    assert len({spec.model_hash for spec in (SPEC, CROSSED, narrower, turned, fewer, other)}) == 6
    assert parse_spec(dump_spec(CROSSED)).model_hash == CROSSED.model_hash
    CROSSED.check_feature(event())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('["user", "tags"]', '["user", "tag"]'),
            r"cross\[0\]\.slots: there is no slot 'tag'; there are user, hour, tags",
        ),
        (('["user", "tags"]', '["user", "user"]'), r"cross\[0\]\.slots: expected the names of two different slots"),
        (('["user", "tags"]', '["user"]'), r"cross\[0\]\.slots: expected the names of two different slots"),
        (('["user", "tags"]', '["user", "hour", "tags"]'), r"cross\[0\]\.slots: expected the names of two"),
        (('["user", "tags"]', '["user", 2]'), r"cross\[0\]\.slots: expected str, found 2"),
        (('["tags", "shop"]', '["user_tag", "shop"]'), r"cross\[1\]\.slots: there is no slot 'user_tag'"),
        (("max_values = 2", "max_values = 0"), r"cross\[1\]\.max_values: 0 is not in 1\.\.65535"),
        (("max_values = 2", "max_values = 65536"), r"cross\[1\]\.max_values: 65536 is not in 1\.\.65535"),
        (("slot = 41", "slot = 32768"), r"cross\[1\]\.slot: 32768 is not in 1\.\.32767"),
        (("slot = 41", "slot = 40"), "slot number 40 stands twice"),
        (("slot = 41", "slot = 9"), "slot number 9 stands twice"),
        (("tag_shop", "user_tag"), "slot name user_tag stands twice"),
        (("tag_shop", "shop"), r"slot name shop stands twice: item\[\d\]\.name and cross\[\d\]\.name"),
        (("max_values = 2", "max_value = 2"), r"cross\[1\]\.max_value: unknown key"),
    ],
)
def test_a_wrong_cross_is_refused_with_the_path_of_the_wrong_key(change: tuple[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(TEXT + CROSSES.replace(*change, 1))


def test_a_cross_of_two_wide_slots_has_to_say_how_many_pairs_it_keeps() -> None:
    wide = TEXT.replace("max_values = 3", "max_values = 300").replace(
        'name = "shop"\nslot = 10\nkind = "id"', 'name = "shop"\nslot = 10\nkind = "id"\nmax_values = 300'
    )
    cross = '[[cross]]\nname = "c"\nslot = 41\nslots = ["tags", "shop"]\n'
    with pytest.raises(SpecError, match=r"cross\[0\]\.max_values: needed, up to 65535, because .* 90000 pairs"):
        parse_spec(wide + cross)
    assert parse_spec(wide + cross + "max_values = 65535").crosses[0].max_values == 65535


def test_too_many_values_of_a_ragged_slot_are_refused() -> None:
    with pytest.raises(RecordError, match="tags: 4 values, max_values is 3"):
        SPEC.encode_side("item", {"tags": [list("abcd")], "shop": [1]})


def test_text_and_spec_are_the_same_thing() -> None:
    assert parse_spec(dump_spec(SPEC)) == SPEC
    assert parse_spec(dump_spec(SPEC)).hash == SPEC.hash


@pytest.mark.parametrize("text", ["\U0001f44d", 'a"b\\c', "\x7f\t\n", "\u20ac"])
def test_text_of_any_characters_is_written_so_that_it_can_be_read(text: str) -> None:
    spec = replace(SPEC, name=text, tasks=(replace(SPEC.tasks[0], action=text), *SPEC.tasks[1:]))
    assert parse_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    "change",
    [
        ("slot = 9", "slot = 8"),
        ("12.5", "13"),
        ("0.25", "0.5"),
        ("600_000", "600_001"),
        ('"correct"', '"drop"'),
        ('"correct"', '"correct"\nearly_ms = 1'),
        ('action = "buy"', 'actions = ["buy", "pay"]'),
        ('"correct"', '"correct"\nat_least = { count = 2 }'),
        ('"correct"', '"correct"\nat_least = { sum = 2 }'),
    ],
)
def test_any_change_of_meaning_changes_the_hash(change: tuple[str, str]) -> None:
    assert parse_spec(TEXT.replace(*change)).hash != SPEC.hash


def test_the_order_of_actions_and_a_count_of_one_mean_nothing() -> None:
    both = [
        parse_spec(TEXT.replace('action = "buy"', f"actions = {names}"))
        for names in ('["buy", "pay"]', '["pay", "buy"]')
    ]
    assert both[0] == both[1]
    assert both[0].actions == {"click", "buy", "pay"}
    assert parse_spec(TEXT.replace('action = "buy"', 'actions = ["buy"]\nat_least = { count = 1 }')) == SPEC


def test_a_short_wait_for_negatives_is_read_back_as_it_was_written() -> None:
    text = TEXT.replace('"correct"', '"correct"\nlabels = "positives_first"\nnegative_after_ms = 0')
    spec = parse_spec(text)
    assert (spec.tasks[1].negative_after_ms, spec.tasks[1].closes_ms, SPEC.tasks[1].closes_ms) == (0, 0, 86_400_000)
    assert parse_spec(dump_spec(spec)) == spec
    assert spec.hash != parse_spec(text.replace("negative_after_ms = 0", "negative_after_ms = 1")).hash


@pytest.mark.parametrize("rule", ["count = 2", "sum = 0.1", "value = -3.5"])
def test_rules_of_labels_are_read_back_as_they_were_written(rule: str) -> None:
    spec = parse_spec(TEXT.replace('action = "buy"', f'actions = ["pay", "buy"]\nat_least = {{ {rule} }}'))
    assert parse_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('kind = "id"', 'kind = "uuid"'), r"context\[0\]\.kind: 'uuid' is none of id, token, number"),
        (('name = "user"', 'nam = "user"'), r"context\[0\]\.nam: unknown key"),
        (("slot = 2", "slot = 1"), r"slot number 1 stands twice: context\[0\]\.slot and context\[1\]\.slot"),
        (("slot = 1\n", "slot = 0\n"), r"context\[0\]\.slot: 0 is not in 1\.\.32767"),
        (("slot = 1\n", 'slot = "1"\n'), r"context\[0\]\.slot: expected int, found '1'"),
        (("bins = [6, 12.5, 18]", ""), r"context\[1\]\.bins: needed for kind number"),
        (("[6, 12.5, 18]", "[6, 6]"), r"context\[1\]\.bins: the edges must increase"),
        (("0.25", "0"), r"tasks\[0\]\.negative_rate: 0\.0 is not in \[1e-06, 1\]"),
        (("600_000", "-1"), r"tasks\[0\]\.window_ms: -1 is not positive"),
        (('"correct"', '"correct"\nearly_ms = -1'), r"tasks\[1\]\.early_ms: -1 is negative"),
        (('action = "buy"', "actions = []"), r"tasks\[1\]\.actions: at least one is needed"),
        (('action = "buy"', 'actions = ["buy", "buy"]'), r"tasks\[1\]\.actions: 'buy' stands twice"),
        (('action = "buy"', 'actions = ["buy", 7]'), r"tasks\[1\]\.actions: expected str, found 7"),
        (('action = "buy"', 'action = "buy"\nactions = ["pay"]'), r"tasks\[1\]\.actions: the task has action, too"),
        (('action = "buy"', ""), r"tasks\[1\]\.action: expected str, found nothing"),
        (('"correct"', '"correct"\nat_least = { count = 0 }'), r"tasks\[1\]\.at_least\.count: 0 is not in 1\.\.256"),
        (
            ('"correct"', '"correct"\nat_least = { count = 2.5 }'),
            r"tasks\[1\]\.at_least\.count: expected int, found 2\.5",
        ),
        (('"correct"', '"correct"\nat_least = { sum = 0 }'), r"tasks\[1\]\.at_least\.sum: 0 is not above 0"),
        (('"correct"', '"correct"\nat_least = { value = inf }'), r"tasks\[1\]\.at_least\.value: inf is not finite"),
        (('"correct"', '"correct"\nat_least = { most = 2 }'), r"at_least: expected one of count, sum, value, such as"),
        (('"correct"', '"correct"\nat_least = { count = 2, sum = 3 }'), r"at_least: expected one of count, sum, value"),
        (('"correct"', '"maybe"'), r"tasks\[1\]\.late: 'maybe' is none of drop, correct, emit_unsampled"),
        (
            ('"correct"', '"correct"\nlabels = "positives_first"\nnegative_after_ms = 86_400_000'),
            r"tasks\[1\]\.negative_after_ms: 86400000 is not in 0\.\.86399999, below window_ms",
        ),
        (('"correct"', '"correct"\nnegative_after_ms = 5'), r"negative_after_ms: labels is 'immediate'"),
        (
            ('"correct"', '"drop"\nlabels = "positives_first"\nnegative_after_ms = 5'),
            r"negative_after_ms: late is 'drop', .*; set late to 'correct'",
        ),
        (("[spec]", "[specs]"), "specs: unknown table"),
        (('name = "shop"\n[[context]]', "[[context]]"), r"spec\.name: expected str, found nothing"),
        (("[spec]", "[spec"), "line 2"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_path_of_the_wrong_key(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(TEXT.replace(*change, 1))
    with pytest.raises(SpecError, match=message) as error:
        load_spec(file)
    assert str(file) in str(error.value)


def test_a_missing_spec_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.toml: No such file"):
        load_spec(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spec_hash": 1}, SpecMismatchError, "spec_hash: written under"),
        ({"context_fids": make_fids(1, [7, 8])}, RecordError, "context fids: value 1 is of slot 1, expected slot 2"),
        ({"context_fids": make_fids(1, [7])}, RecordError, "context fids: 1 values, expected 1 x 2"),
        ({"item_lengths": np.ones(3, np.uint16)}, RecordError, "item lengths: 3 values, expected 2 x 2"),
        ({"item_lengths": np.array([4, 1, 0, 1], np.uint16)}, RecordError, "more values than its max_values"),
        ({"item_lengths": np.array([2, 0, 0, 2], np.uint16)}, RecordError, "a slot has more values"),
        ({"item_lengths": np.array([3, 0, 0, 1], np.uint16)}, RecordError, "a slot with one value per row has none"),
        ({"item_lengths": np.array([1, 1, 0, 1], np.uint16)}, RecordError, "item fids: 4 values, lengths ask for 3"),
        ({"dense": np.ones(3, np.float32)}, RecordError, "dense: 3 numbers, expected 2 x 1"),
        ({"dense": np.array([1, np.inf], np.float32)}, RecordError, "dense: a number is not finite"),
        ({"impression_ids": np.array([1, 1])}, RecordError, "impression_ids: an id stands twice"),
        ({"impression_ids": np.empty(0, np.int64)}, RecordError, "impression_ids: the request has no"),
        ({"served_logits": np.zeros(3, np.float32)}, RecordError, "served_logits: 3 numbers, expected 2 x 2"),
        ({"exposed": np.ones(3, np.uint8)}, RecordError, "exposed: 3 values, expected 2"),
        ({"exposed": np.array([1, 2], np.uint8)}, RecordError, "exposed: a value is neither 0 nor 1"),
        ({"event_time_ms": -1}, RecordError, "event_time_ms: -1 is before 1970"),
        ({"event_time_ms": 5 * 10**12}, RecordError, "event_time_ms: 5000000000000 is .* after 2105"),
        ({"event_time_ms": 1_700_000_000}, TimeUnitError, "1700000000 looks like seconds, .*: 1700000000000"),
        ({"event_time_ms": 1_700_000_000_000_000}, TimeUnitError, "looks like microseconds, .*: 1700000000000"),
        ({"event_time_ms": 1_700_000_000_000_000_000}, TimeUnitError, "looks like nanoseconds, .*: 1700000000000"),
    ],
)
def test_an_event_that_the_spec_does_not_describe_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SPEC.check_feature(event(**changes))


def block(**changes: Any) -> ExampleBlock:
    columns: dict[str, Any] = {
        "spec_hash": SPEC.hash,
        "bucket": 0,
        "request_ids": ["r"],
        "request_index": np.zeros(1, np.int32),
        "impression_ids": np.ones(1, np.int64),
        "context_fids": np.concatenate([make_fids(1, [7]), make_fids(2, [2])]),
        "item_fids": make_fids(10, [4]),
        "item_lengths": np.array([0, 1], np.uint16),
        "dense": np.ones(1, np.float32),
        "labels": np.array([1, 0], np.uint8),
        "mask": np.array([1, 0], np.uint8),
        "sampling_rate": np.array([0.25], np.float32),
        "label_kind": np.zeros(1, np.uint8),
        "feature_time_ms": np.ones(1, np.int64),
        "action_time_ms": np.ones(1, np.int64),
        "feature_ingest_ms": np.ones(1, np.int64),
        "action_ingest_ms": np.ones(1, np.int64),
    }
    return ExampleBlock(**columns | changes)


def test_an_example_block_must_fit_together() -> None:
    SPEC.check_block(block())
    for f in fields(ExampleBlock):
        value = getattr(block(), f.name)
        if isinstance(value, np.ndarray) and f.name != "impression_ids" and not f.name.endswith(("_fids", "_lengths")):
            with pytest.raises(RecordError, match=rf"{f.name}: \d+ values, expected"):
                SPEC.check_block(block(**{f.name: np.concatenate([value, value, value[:1]])}))
    for changes, message in (
        ({"sampling_rate": np.zeros(1, np.float32)}, "a rate is not in"),
        ({"sampling_rate": np.array([np.nan], np.float32)}, "a rate is not in"),
        ({"request_index": np.ones(1, np.int32)}, "points outside"),
        ({"labels": np.array([7, 0], np.uint8)}, "neither 0 nor 1"),
        ({"mask": np.array([0, 2], np.uint8)}, "neither 0 nor 1"),
        ({"feature_time_ms": np.array([5 * 10**12])}, "feature_time_ms: a time is"),
        ({"feature_time_ms": np.array([-1])}, "feature_time_ms: a time is"),
        ({"action_time_ms": np.array([-2])}, "action_time_ms: a time is"),
        ({"context_fids": make_fids(1, [7, 8])}, "context fids: value 1 is of slot 1, expected slot 2"),
        ({"item_fids": make_fids(1, [7])}, "item fids: value 0 is of slot 1, expected slot"),
        ({"request_ids": ["r", "s"]}, "context fids: 2 values, expected 2 x 2"),
        ({"spec_hash": 0}, "written under"),
    ):
        with pytest.raises(RecordError, match=message):
            SPEC.check_block(block(**changes))


def test_quantile_bins_split_evenly_and_merge_repeated_edges() -> None:
    values = np.arange(1000)
    bins = quantile_bins(values, 4)
    assert np.bincount(np.searchsorted(bins, values, side="right")).tolist() == [250, 250, 250, 250]
    assert quantile_bins([1, 1, 1, 1, 9], 4) == (1.0,)


def test_integers_are_ids_whatever_holds_them() -> None:
    slot = Slot("film", 16, "id")
    expected = slot.fids([1, 2]).tolist()
    for values in (
        np.array([1, 2], object),
        [np.uint64(1), 2],
        [np.uint64(1), np.int64(2)],
        np.array([1, 2], np.uint64),
        (1, 2),
    ):
        assert slot.fids(values).tolist() == expected
    assert not len(slot.fids([]))


@pytest.mark.parametrize("values", [[True, 2], [7.9], ["7"], [None], np.array([1.0]), [[7, 8]]])
def test_what_is_no_integer_is_no_id(values: Any) -> None:
    with pytest.raises(ValueError, match="slot film: "):
        Slot("film", 16, "id").fids(values)


@pytest.mark.parametrize("row", ["ab", b"ab", {"a": 1}])
def test_text_is_not_taken_letter_by_letter(row: Any) -> None:
    columns = {slot.name: [row] if slot.max_values > 1 else [1] for slot in SPEC.item}
    with pytest.raises(RecordError, match="a row is text or a mapping"):
        SPEC.encode_side("item", columns)


def test_when_rows_go_out_is_part_of_a_task_and_a_wrong_word_is_refused() -> None:
    task = '[[tasks]]\nname = "click"\naction = "click"\nwindow_ms = 1\nlabels = "%s"\n'
    head = '[spec]\nname = "s"\n[[item]]\nname = "film"\nslot = 1\nkind = "id"\n'
    immediate = parse_spec(head + task % "immediate")
    assert immediate.tasks[0].labels == "immediate"
    assert parse_spec(dump_spec(immediate)) == immediate
    assert immediate.hash != parse_spec(head + task % "aligned").hash
    with pytest.raises(SpecError, match=r"tasks\[0\]\.labels: 'soon' is none of positives_first, aligned, immediate"):
        parse_spec(head + task % "soon")


def test_a_transform_is_of_the_model_and_not_of_the_records() -> None:
    plain, transformed = (
        parse_spec(TEXT),
        parse_spec(TEXT.replace('name = "price"', 'name = "price"\ntransform = "log1p"')),
    )
    assert (plain.dense[0].transform, transformed.dense[0].transform) == ("none", "log1p")
    assert transformed.hash == plain.hash == plain.model_hash
    assert transformed.model_hash != plain.model_hash
    assert parse_spec(dump_spec(transformed)) == transformed


def test_an_unknown_transform_is_refused_by_its_path() -> None:
    with pytest.raises(SpecError, match=r"dense\[0\]\.transform: 'log' is none of none, log1p"):
        parse_spec(TEXT.replace('name = "price"', 'name = "price"\ntransform = "log"'))


def test_the_actions_of_a_spec_are_those_of_tasks_and_histories() -> None:
    history = '[[context]]\nname = "seen"\nslot = 3\nkind = "history"\nof = "shop"\naction = "look"\nby = "user"\nmax_values = 3\n'
    assert parse_spec(TEXT).actions == {"click", "buy"}
    assert parse_spec(TEXT.replace("[[item]]", f"{history}[[item]]", 1)).actions == {"click", "buy", "look"}
