"""Pages while a changed feature spec is rolled out: what only one of the specs has may be missing, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from rillet.schemas import (
    DenseFeature,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    Slot,
    SpecRegistry,
    Task,
    decode_as,
)
from rillet.schemas.slots import SlotKind
from rillet.sources import ActionSource, FeatureSource, NativeRecord, SourceError, SourcesConfig, make_converter
from rillet.sources.converter import Kind
from tests.sources.avro_schemas import PAGE
from tests.sources.registries import avro
from tests.sources.support import IMPRESSIONS, PAGES, SPEC, as_json, click, impression, page

#: a slot of the context, one of each kind of the items, a dense feature and a task more, in other places than at the end
NEW = replace(
    SPEC,
    context=(Slot("country", 4, "token"), *SPEC.context),
    item=(
        SPEC.item[0],
        Slot("author", 19, "id"),
        Slot("shop", 20, "token"),
        *SPEC.item[1:],
        Slot("length", 21, "number", bins=(100.0,)),
    ),
    dense=(DenseFeature("words"), *SPEC.dense),
    tasks=(*SPEC.tasks, Task("share", "share", 60_000)),
)
ADDED = ("country", "author", "shop", "length", "words")
#: what an application of the new spec sends besides
CONTEXT, ITEM = {"country": "FR"}, {"author": 9, "shop": "s1", "length": 120, "words": 900.5}


def native(
    value: Any,
    spec: FeatureSpec = NEW,
    others: Sequence[FeatureSpec] = (SPEC,),
    sources: SourcesConfig = PAGES,
    kind: Kind = "features",
) -> NativeRecord:
    converter = make_converter(kind, spec, sources, also_accepts=others)
    assert converter is not None
    return converter.native(None, as_json(value))


def event(value: Any, *arguments: Any, **more: Any) -> FeatureEvent:
    return decode_as(FeatureEvent, native(value, *arguments, **more).value or b"")


def full(**changes: Any) -> dict[str, Any]:
    """A page of the new spec."""
    return page(**{"articles": [article | ITEM for article in page()["articles"]], **CONTEXT, **changes})


def same(one: FeatureEvent, other: FeatureEvent) -> bool:
    def of(found: FeatureEvent) -> list[Any]:
        columns = (found.context_fids, found.context_lengths, found.item_fids, found.item_lengths, found.dense)
        return [None if column is None else column.tolist() for column in columns]

    return (one.request_id, one.spec_hash, of(one)) == (other.request_id, other.spec_hash, of(other))


def test_a_page_of_the_old_spec_is_what_its_native_record_becomes() -> None:
    found = event(page())
    NEW.check_feature(found)
    assert same(found, SpecRegistry(NEW, [SPEC]).event(event(page(), SPEC, ())))
    assert native(page()).lacking == ADDED
    # Likewise where each impression is a record.
    assert same(
        event(impression(), sources=IMPRESSIONS),
        SpecRegistry(NEW, [SPEC]).event(event(impression(), SPEC, (), IMPRESSIONS)),
    )
    assert native(impression(), sources=IMPRESSIONS).lacking == ADDED


def test_a_page_that_has_everything_is_the_same_as_after_the_change() -> None:
    assert same(event(full()), event(full(), NEW, ()))
    assert native(full()).lacking == ()
    one = impression(**CONTEXT, **ITEM)
    assert same(event(one, sources=IMPRESSIONS), event(one, NEW, (), IMPRESSIONS))


def test_each_candidate_keeps_what_it_has() -> None:
    value = full()
    del value["articles"][1]["author"], value["articles"][2]["words"]
    value["articles"][0]["shop"] = None
    found, whole = event(value), event(full())
    assert native(value).lacking == ("author", "shop", "words")
    differing = np.flatnonzero(found.item_fids != whole.item_fids)
    assert found.item_fids[differing].tolist() == [(20 << 48) | (1 << 48) - 1, (19 << 48) | (1 << 48) - 1]
    assert found.dense.tolist() == [900.5, 0.5, 900.5, 7.0, 0.0, 30.25]
    assert same(replace(found, item_fids=whole.item_fids, dense=whole.dense), whole)


def test_without_ragged_slots_columns_are_filled_too() -> None:
    slots = {"context": NEW.context[:3], "item": tuple(slot for slot in NEW.item if not slot.ragged)}
    spec = replace(NEW, **slots)
    old = replace(spec, context=spec.context[1:], item=spec.item[:1])
    value = page()
    del value["articles"][0]["age_hours"]
    found = event(value, replace(spec, dense=()), (replace(old, dense=()),))
    assert found.context_lengths is found.item_lengths is None
    missing = (1 << 48) - 1
    assert [fid & missing == missing for fid in found.context_fids.tolist()] == [True, False, False]
    assert [fid & missing == missing for fid in found.item_fids[:5].tolist()] == [False, True, True, True, True]
    assert found.item_fids[5:].reshape(2, 5)[:, 3].tolist() == [(18 << 48) | 2, (18 << 48) | 3], "bins of 7 and 30.25"


def test_once_no_other_spec_is_accepted_what_is_new_has_to_be_there() -> None:
    for others in ([], [NEW]):
        with pytest.raises(RecordError, match=r"country: is missing or null \(slot country"):
            native(page(), NEW, others)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (full(device=None), "device: is missing or null"),
        (full(user={}), r"user\.id: is missing or null"),
        (full(articles=[{"id": "a1", **ITEM}]), r"articles\.0\.age_hours: is missing or null"),
    ],
)
def test_what_the_old_spec_has_as_well_has_to_be_there(value: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        native(value)


def test_what_one_of_several_other_specs_has_has_to_be_there() -> None:
    with_country = replace(SPEC, context=(NEW.context[0], *SPEC.context))
    assert native(full(country="FR"), NEW, (SPEC, with_country)).lacking == ()
    with pytest.raises(RecordError, match="country: is missing or null"):
        native(page(), NEW, (SPEC, with_country))


HOSTILE = [math.nan, math.inf, -math.inf, True, "n/a", "", [], {}, [1], {"a": None}, 1e300, 1 << 80, -1, "\ud800"]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("sources", [PAGES, IMPRESSIONS], ids=["pages", "impressions"])
def test_a_value_that_is_there_is_taken_or_refused_as_after_the_change(
    name: str, value: Any, sources: SourcesConfig
) -> None:
    hostile = full() if sources is PAGES else impression(**CONTEXT, **ITEM)
    (hostile if name in CONTEXT or sources is IMPRESSIONS else hostile["articles"][1])[name] = value

    def outcome(others: Sequence[FeatureSpec]) -> Any:
        try:
            return event(hostile, NEW, others, sources)
        except RecordError as error:
            return str(error)

    now, after = outcome([SPEC]), outcome([])
    assert now == after if isinstance(now, str) else same(now, after)
    assert isinstance(now, str) or native(hostile, sources=sources).lacking == ()


def test_every_kind_of_slot_of_one_value_can_be_missing() -> None:
    for kind in get_args(SlotKind):
        if kind == "history":
            continue
        slot = Slot("fresh", 30, kind, bins=(1.0,) if kind == "number" else ())
        fid, *_ = event(page(), replace(SPEC, context=(slot, *SPEC.context))).context_fids.tolist()
        assert fid == (30 << 48) | (1 << 48) - 1, kind


def test_new_lists_are_empty_and_not_counted_as_lacking() -> None:
    tags = replace(SPEC, item=(*SPEC.item, Slot("tags", 22, "token", 3)))
    assert native(page(), tags).lacking == ()


def test_a_spec_that_is_swapped_back_takes_pages_without_what_is_new_no_longer_to_it() -> None:
    """The applications that are on the other spec no longer send what that one has dropped."""
    without = replace(SPEC, item=SPEC.item[:2], dense=())
    value = page()
    for article in value["articles"]:
        del article["age_hours"]
    found = native(value, SPEC, (without,))
    assert found.lacking == ("age", "age_hours")
    assert same(
        decode_as(FeatureEvent, found.value or b""),
        SpecRegistry(SPEC, [without]).event(event(value, without, (), UNNAMED)),
    )
    # Before the swap the old one is the other, and what it has besides is left out.
    assert native(page(), without, (SPEC,)).lacking == ()


UNNAMED = replace(PAGES, features=replace(PAGES.features, slots={"user": "user.id", "article": "id"}))


def test_tables_may_name_what_only_another_spec_has() -> None:
    """So that rillet.toml stays as it is while specs are swapped, but for the two lines."""
    features: FeatureSource = replace(
        PAGES.features, slots={**PAGES.features.slots, "author": "by", "words": "count"}, scores={"share": "p"}
    )
    actions: ActionSource = replace(PAGES.actions, names={"CLICK": "click", "SHARE": "share"})
    sources = SourcesConfig(features, actions)
    scored = page()
    scored["articles"][0]["p"] = 0.5
    for spec, others in ((NEW, (SPEC,)), (SPEC, (NEW,)), (NEW, ())):
        value = scored if others else full(articles=[a | ITEM | {"by": 1, "count": 2} for a in scored["articles"]])
        found = event(value, spec, others, sources)
        assert (found.served_logits is None) == (spec is SPEC)
        assert native(click(type="SHARE"), spec, others, sources, "actions").lacking == ()
    for kind, table in (("features", r"slots\.author"), ("actions", r"names\.SHARE")):
        with pytest.raises(SourceError, match=table):
            make_converter(kind, SPEC, sources)
    with pytest.raises(SourceError, match=r"scores\.share"):
        make_converter("features", SPEC, SourcesConfig(replace(PAGES.features, scores={"share": "p"}), actions))


def test_avro_records_of_an_older_schema_and_nulls_of_a_newer_one_are_taken() -> None:
    newer = {**PAGE, "fields": [*PAGE["fields"], {"name": "country", "type": ["null", "string"], "default": None}]}
    spec = replace(SPEC, context=(*SPEC.context, NEW.context[0]))
    sources = SourcesConfig(replace(PAGES.features, format="avro", schema="page.avsc"), PAGES.actions)  # type: ignore[arg-type]
    for schema in (PAGE, newer):
        converter = make_converter("features", spec, sources, schema=schema, also_accepts=[SPEC])
        assert converter is not None
        found = converter.native(None, avro(schema, page()))
        assert found.lacking == ("country",)
        assert same(decode_as(FeatureEvent, found.value or b""), event(page(), spec))
