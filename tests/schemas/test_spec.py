"""The feature spec: what it accepts, what it refuses and where it says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.schemas import (
    Cross,
    SpecError,
    dump_spec,
    load_spec,
    parse_spec,
)
from tests.schemas.shop import SPEC, TEXT, event

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
