"""Records in the formats of others become events, or are refused with the place of what does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import ActionEvent, FeatureEvent, RecordError, decode_as, encode, token_values
from rillet.sources import ActionSource, FeatureSource, SourceError, SourcesConfig
from rillet.sources.features import _first_repeated, impression_request_id
from tests.sources.support import (
    IMPRESSIONS,
    PAGES,
    SHOWN_MS,
    SPEC,
    actions_of,
    as_json,
    click,
    features_of,
    impression,
    page,
)


def feature(value: Any, sources: SourcesConfig = PAGES) -> FeatureEvent:
    native = features_of(sources).native(None, as_json(value))
    event = decode_as(FeatureEvent, native.value or b"")
    SPEC.check_feature(event)
    assert native.key == event.request_id.encode()
    return event


def action(value: Any, sources: SourcesConfig = PAGES) -> ActionEvent:
    return decode_as(ActionEvent, actions_of(sources).native(b"any key", as_json(value)).value or b"")


def test_a_page_becomes_the_event_that_its_values_give() -> None:
    event = feature(page())
    assert (event.request_id, event.event_time_ms) == ("p1", SHOWN_MS)
    assert event.impression_ids.tolist() == token_values(["a17", "a23", "a42"]).tolist()
    context, context_lengths = SPEC.encode_side("context", {"user": [7], "device": ["phone"], "recent": [["a3", "a1"]]})
    item, item_lengths = SPEC.encode_side(
        "item",
        {
            "article": ["a17", "a23", "a42"],
            "categories": [["sport", "local"], [], []],
            "age": [0.5, 7, 30.25],
        },
    )
    assert event.context_fids.tolist() == context.tolist()
    assert event.item_fids.tolist() == item.tolist()
    assert context_lengths is not None
    assert item_lengths is not None
    assert event.context_lengths is not None
    assert event.item_lengths is not None
    assert event.context_lengths.tolist() == context_lengths.tolist()
    assert event.item_lengths.tolist() == item_lengths.tolist()
    assert event.dense.tolist() == [0.5, 7.0, 30.25]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ARTICLES = st.lists(
    st.fixed_dictionaries(
        {"id": TEXT | st.integers(-(1 << 63), (1 << 63) - 1), "age_hours": st.floats(-1e6, 1e6) | st.integers(-9, 99)},
        optional={"categories": st.none() | st.lists(TEXT | st.integers(0, 9), max_size=3)},
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda article: str(article["id"]),
)


@settings(max_examples=60, deadline=None)
@given(
    ARTICLES,
    st.integers(0, (1 << 48) - 1),
    TEXT,
    st.none() | st.lists(TEXT, max_size=4),
    st.integers(1_000_000_000, 4_000_000_000),
)
def test_any_page_gives_the_native_event_of_the_same_raw_values(
    articles: list[dict[str, Any]], user: int, device: str, recent: list[str] | None, time_s: int
) -> None:
    record = {
        "page_id": "p",
        "shown_at": time_s * 1000,
        "user": {"id": user},
        "device": device,
        "recent": recent,
        "articles": articles,
    }
    context = SPEC.encode_side("context", {"user": [user], "device": [device], "recent": [recent or []]})
    ages = [article["age_hours"] for article in articles]
    item = SPEC.encode_side(
        "item",
        {
            "article": [article["id"] for article in articles],
            "categories": [article.get("categories") or [] for article in articles],
            "age": ages,
        },
    )
    ids = [a["id"] if isinstance(a["id"], int) else token_values([a["id"]])[0] for a in articles]
    native = FeatureEvent(
        request_id="p",
        event_time_ms=time_s * 1000,
        spec_hash=SPEC.hash,
        context_fids=context[0],
        context_lengths=context[1],
        impression_ids=np.array(ids, np.int64),
        item_fids=item[0],
        item_lengths=item[1],
        dense=np.array(ages, np.float32),
    )
    assert features_of().native(None, as_json(record)).value == encode(native)


def test_an_action_finds_the_impression_of_its_page() -> None:
    event = action(click())
    assert event == ActionEvent("p1", SHOWN_MS + 4_000, int(token_values(["a23"])[0]), "click")
    assert action(click(type="share")).action == "share"
    assert action(click(page_id=5, article=23)) == ActionEvent("5", SHOWN_MS + 4_000, 23, "click")


def test_an_impression_without_a_page_is_a_request_that_its_action_finds() -> None:
    shown, clicked = feature(impression(), IMPRESSIONS), action(click(article="a17"), IMPRESSIONS)
    assert shown.request_id == clicked.request_id == "p1|a17"
    assert shown.impression_ids.tolist() == [clicked.impression_id]
    assert feature(impression(id="a18"), IMPRESSIONS).request_id != shown.request_id


def changed(value: dict[str, Any], place: str, new: Any) -> dict[str, Any]:
    """A copy with another value at a place; ``...`` takes it away."""
    copy = json.loads(json.dumps(value))
    *path, last = (int(part) if part.isdecimal() else part for part in place.split("."))
    inner: Any = copy
    for part in path:
        inner = inner[part]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return copy


def refused(record: bytes, convert: Callable[..., Any]) -> str:
    with pytest.raises(RecordError) as caught:
        convert(b"key", record)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        ("page_id", ..., "page_id: is missing or null"),
        ("page_id", "", "page_id: '' is neither text nor an integer"),
        ("page_id", 1.5, "page_id: 1.5 is neither text nor an integer"),
        ("page_id", "\ud800", "page_id: '\\ud800' is no text of Unicode"),
        ("shown_at", None, "shown_at: is missing or null"),
        ("shown_at", "now", "shown_at: 'now' is no number of ms"),
        ("shown_at", True, "shown_at: True is no number of ms"),
        (
            "shown_at",
            "2025-11-22T00:06:40Z",
            "shown_at: '2025-11-22T00:06:40Z' is no number of ms; is time_unit \"iso8601\" meant?",
        ),
        ("shown_at", 1763770000, 'shown_at: 1763770000 is 1970-01-21 in ms; is time_unit "s" meant?'),
        (
            "shown_at",
            1763770000250000,
            'shown_at: 1763770000250000 is before 1970 or after 2105 in ms; is time_unit "us" meant?',
        ),
        ("shown_at", -5, "shown_at: -5 is before 1970 or after 2105"),
        ("user.id", ..., "user.id: is missing or null"),
        ("user.id", "u7", "user.id: 'u7' is no integer; slot user is of kind id, and of kind token if its values"),
        ("user.id", 1 << 48, "user.id: 281474976710656 is not in 0..2**48-1"),
        ("user", 7, "user: is 7, which has no field 'id' (path 'user.id')"),
        ("user", [7], "user: is a list; give an index before 'id' (path 'user.id')"),
        ("device", 1.5, "device: 1.5 is neither text nor an integer"),
        ("device", "\udc00", "device: '\\udc00' is no text of Unicode"),
        ("recent", "a1", "recent: 'a1' is no list; slot recent takes up to 4 values"),
        ("recent", ["a"] * 5, "recent: has 5 values; max_values of slot recent is 4"),
        ("recent", ["a", None], "recent.1: is missing or null"),
        ("articles", ..., "articles: is missing or null"),
        ("articles", {}, "articles: {} is no list of candidates"),
        ("articles", [], "articles: is an empty list; a request needs candidates"),
        ("articles.1", 5, "articles.1: is 5, which has no field 'id' (path 'id')"),
        ("articles.2.id", ..., "articles.2.id: is missing or null"),
        ("articles.2.id", "a17", "articles.2.id: 'a17' stands twice in the request"),
        ("articles.2.id", 1 << 63, "articles.2.id: 9223372036854775808 has more than 64 bits"),
        ("articles.2.age_hours", "n/a", "articles.2.age_hours: 'n/a' is no number"),
        ("articles.2.age_hours", "7", "articles.2.age_hours: '7' is no number"),
        ("articles.2.age_hours", True, "articles.2.age_hours: True is no number"),
        ("articles.2.age_hours", float("nan"), "articles.2.age_hours: nan is not finite"),
        ("articles.2.age_hours", 1e300, "articles.2.age_hours: 1e+300 is too large for 32 bits"),
        ("articles.2.age_hours", 10**400, "articles.2.age_hours: 1000"),
        ("articles.2.age_hours", ..., "articles.2.age_hours: is missing or null"),
        ("articles.0.categories", [["sport"]], "articles.0.categories.0: ['sport'] is neither text nor an integer"),
        ("articles.0.categories", "sport", "articles.0.categories: 'sport' is no list"),
    ],
)
def test_what_does_not_fit_a_page_is_named_with_its_place_and_value(place: str, new: Any, message: str) -> None:
    assert refused(as_json(changed(page(), place, new)), features_of().native).startswith(message)


def test_a_missing_value_is_named_with_its_slot_the_key_that_maps_it_and_the_field_that_may_be_meant() -> None:
    def message(place: str, new: Any = ..., **more: Any) -> str:
        return refused(as_json(changed(page(), place, new) | more), features_of().native)

    assert message("articles.2.age_hours") == (
        "articles.2.age_hours: is missing or null (slot age; [sources.features.slots] age says where it lies)"
    )
    assert message("device", Device="phone") == (
        "device: is missing or null (slot device; [sources.features.slots] device says where it lies);"
        " 'Device' is there: is that meant?"
    )
    assert message("articles.0", {"id": "a1", "ageHours": 3}).endswith("; 'ageHours' is there: is that meant?")


@pytest.mark.parametrize(
    ("place", "new", "message"),
    [
        ("page_id", ..., "page_id: is missing or null"),
        ("article", None, "article: is missing or null"),
        ("article", 2.5, "article: 2.5 is neither text nor an integer"),
        ("at", 1763770000, 'at: 1763770000 is 1970-01-21 in ms; is time_unit "s" meant?'),
        ("type", ..., "type: is missing or null"),
        ("type", ["CLICK"], "type: ['CLICK'] is neither text nor an integer"),
    ],
)
def test_what_does_not_fit_an_action_is_named_with_its_place_and_value(place: str, new: Any, message: str) -> None:
    assert refused(as_json(changed(click(), place, new)), actions_of().native).startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "value: there is none"),
        (b"", "value: is no JSON"),
        (b"{", "value: is no JSON"),
        (b"[1]", "value: is no JSON object but [1]"),
        (b"\xff\xfe", "value: is no JSON"),
        (b"[" * 100_000, "value: is no JSON"),
        (b"9" * 5_000, "value: is no JSON"),
    ],
)
def test_bytes_that_are_no_json_object_are_refused(value: bytes | None, message: str) -> None:
    assert refused(value, features_of().native).startswith(message)  # type: ignore[arg-type]


def test_a_place_is_named_without_a_list_where_an_event_is_an_impression() -> None:
    record = as_json(impression(age_hours="n/a"))
    assert refused(record, features_of(IMPRESSIONS).native) == "age_hours: 'n/a' is no number"


def test_a_native_record_passes_unchanged_with_its_ingest_time() -> None:
    data = encode(feature(page()))
    assert features_of().native(b"p1", data, b"17", 99) == (b"p1", data, 17, ())
    assert features_of().native(b"p1", data, None, 99) == (b"p1", data, -1, ())
    assert actions_of().native(b"x", data) == (b"x", data, -1, ())


def test_the_ingest_time_is_that_of_the_header_else_of_the_record() -> None:
    record = as_json(click())
    assert actions_of().native(None, record, b"%d" % SHOWN_MS, 99).ingest_ms == SHOWN_MS
    assert actions_of().native(None, record, None, SHOWN_MS).ingest_ms == SHOWN_MS
    assert actions_of().native(None, record).ingest_ms == -1
    with pytest.raises(RecordError, match="header ingest_ms: b'soon'"):
        actions_of().native(None, record, b"soon")


def test_a_time_far_after_its_ingestion_is_refused_with_its_path() -> None:
    converter = actions_of(max_ahead_ms=1_000)
    with pytest.raises(RecordError, match=r"^at: 2025-11-22T00:06:44\.250Z is more than max_ahead_ms \(1000\) after"):
        converter.native(None, as_json(click()), str(SHOWN_MS).encode())


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", 1_763_770_000.25),
        ("ms", SHOWN_MS),
        ("ms", float(SHOWN_MS)),
        ("us", SHOWN_MS * 1_000),
        ("ns", SHOWN_MS * 1_000_000),
        ("iso8601", "2025-11-22T00:06:40.250Z"),
        ("iso8601", "2025-11-22T01:06:40.25+01:00"),
    ],
)
def test_a_time_is_read_in_its_unit(unit: Any, value: Any) -> None:
    sources = replace(PAGES, features=replace(PAGES.features, time_unit=unit))
    assert feature(page(shown_at=value), sources).event_time_ms == SHOWN_MS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2025-11-22T00:06:40", "shown_at: '2025-11-22T00:06:40' has no offset; end it with Z for UTC"),
        ("yesterday", "shown_at: 'yesterday' is no time of ISO 8601"),
        (SHOWN_MS, f'shown_at: {SHOWN_MS} is no text of ISO 8601; is time_unit "ms" meant?'),
        ("1950-01-01T00:00:00Z", "shown_at: '1950-01-01T00:00:00+00:00' is before 1970"),
    ],
)
def test_text_that_is_no_time_is_refused(value: Any, message: str) -> None:
    sources = replace(PAGES, features=replace(PAGES.features, time_unit="iso8601"))
    found = refused(as_json(page(shown_at=value)), features_of(sources).native)
    assert found.startswith(message) or (value.startswith("1950") and "is before 1970 or after 2105" in found)


def test_small_times_of_made_up_data_are_taken() -> None:
    assert feature(page(shown_at=10_000)).event_time_ms == 10_000


def test_a_name_with_a_dot_is_found() -> None:
    sources = replace(PAGES, features=replace(PAGES.features, request_id="page\\.id"))
    assert feature({**page(), "page.id": "p9"}, sources).request_id == "p9"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            SourcesConfig(replace(PAGES.features, slots={"usr": "user.id"}), PAGES.actions),
            "sources.features.slots.usr: feature spec news has no slot or dense feature of this name; it has user, device",
        ),
        (
            SourcesConfig(replace(PAGES.features, scores={"klick": "score"}), PAGES.actions),
            "sources.features.scores.klick: feature spec news has no task of this name; it has click, like",
        ),
        (
            SourcesConfig(PAGES.features, replace(PAGES.actions, names={"CLICK": "klick"})),
            "sources.actions.names.CLICK: no task and no history of feature spec news asks for action 'klick'; they ask"
            " for click, like, read",
        ),
    ],
)
def test_names_that_the_spec_does_not_have_are_refused(sources: SourcesConfig, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        [features_of(sources), actions_of(sources)]
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(PAGES.features, request_id=""), "request_id: is missing; format 'json' needs"),
        (lambda: replace(PAGES.features, items="a..b"), "items: 'a..b' is no path"),
        (lambda: replace(PAGES.features, slots={"user": ""}), "slots.user: '' is no path"),
        (lambda: replace(PAGES.features, scores={"click": ""}), "scores.click: '' is no path"),
        (lambda: FeatureSource(score_kind="logit"), "score_kind: format is 'rillet'"),
        (lambda: replace(PAGES.actions, action=""), "action: is missing"),
        (lambda: replace(PAGES.actions, format="avro"), "schema: is missing; format is 'avro'"),
        (lambda: replace(PAGES.actions, registry="http://r"), "registry: is of format 'registry'; format is 'json'"),
        (lambda: replace(PAGES.actions, format="registry"), "registry: is missing"),
        (lambda: replace(PAGES.actions, format="registry", registry="r:80"), "registry: is no URL of http or https"),
        (lambda: of_registry("http://KEY:s3cr3t@r:80"), "registry: has a user in front of its host"),
        (lambda: of_registry("ftp://KEY:s3cr3t@r:80"), "registry: has a user in front of its host"),
        (lambda: of_registry("http://r:s3cr3t"), "registry: is no URL"),
        (lambda: of_registry("http://r/a b"), "registry: is no URL"),
        (lambda: of_registry("http://r?token=s3cr3t"), "registry: has a query or fragment"),
        (lambda: FeatureSource(items="articles"), "items: format is 'rillet'"),
        (lambda: ActionSource(action="type"), "action: format is 'rillet'"),
    ],
)
def test_tables_that_cannot_work_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        make()
    assert "s3cr3t" not in str(caught.value)


def of_registry(url: str) -> ActionSource:
    return replace(PAGES.actions, format="registry", registry=url)


def with_number(record: Any, name: str, digits: str) -> bytes:
    return as_json(record | {name: "@"}).replace(b'"@"', digits.encode())


@pytest.mark.parametrize("digits", ["1e308", "-1e307", "1" + "0" * 400])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "iso8601"])
def test_a_number_beyond_all_times_is_refused(digits: str, unit: Any) -> None:
    sources = replace(PAGES, actions=replace(PAGES.actions, time_unit=unit))
    message = "is no text of ISO 8601" if unit == "iso8601" else "is before 1970 or after 2105"
    assert message in refused(with_number(click(), "at", digits), actions_of(sources).native)


def test_a_value_nested_as_deep_as_json_can_be_read_is_refused() -> None:
    depths = range(400, 1_000, 7)
    messages = {
        refused(with_number(click(), "page_id", "[" * depth + "]" * depth), actions_of().native) for depth in depths
    }
    assert "page_id: [[[[[...]]]]] is neither text nor an integer" in messages


def test_whatever_a_record_breaks_is_a_refusal_that_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = actions_of()
    monkeypatch.setattr(converter._reader, "read", lambda _: 1 // 0)
    message = refused(as_json(click()), converter.native)
    assert message.startswith("value: cannot be converted (ZeroDivisionError: ")
    assert "test_converter.py, line " in message


@pytest.mark.parametrize("error", [SourceError("no registry"), KeyboardInterrupt()])
def test_what_is_not_the_records_fault_goes_on(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = actions_of()

    def stop(_: Any) -> None:
        raise error

    monkeypatch.setattr(converter, "_decode", stop)
    with pytest.raises(type(error)):
        converter.native(None, as_json(click()))


def test_a_repeated_impression_is_found_in_one_pass() -> None:
    class Counted(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    numbers = [Counted(number) for number in range(2_000)]
    assert _first_repeated([*numbers, Counted(1_999)]) == 2_000
    assert Counted.compared < 4_000


@pytest.mark.parametrize(
    ("one", "other"), [(("u1|home", "a17"), ("u1", "home|a17")), (("u1%7Chome", "a17"), ("u1|home", "a17"))]
)
def test_two_impressions_never_have_one_request_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert impression_request_id(*one) != impression_request_id(*other)


@pytest.mark.parametrize("timestamp_ms", [-1, -5_000, SHOWN_MS * 1_000, 1 << 62])
def test_a_timestamp_that_is_no_time_is_unknown(timestamp_ms: int) -> None:
    assert actions_of().native(None, as_json(click()), None, timestamp_ms).ingest_ms == -1
