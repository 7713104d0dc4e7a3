"""Avro topics: with a schema of their own, and with a schema registry's framing, against a real HTTP server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rillet.connectors.errors import RegistryUnavailableError
from rillet.connectors.raw_topics import connected_converter
from rillet.devstack.process import free_port
from rillet.schemas import FeatureEvent, RecordError, decode_as
from rillet.sources import SourceError, SourcesConfig
from tests.sources.avro_schemas import PAGE
from tests.sources.registries import Registry, avro, framed, registry_server
from tests.sources.support import PAGES, SHOWN_MS, SPEC, as_json, features_of, page

LINKED = {"type": "record", "name": "Linked", "fields": [{"name": "next", "type": ["null", "Linked"]}]}


def with_type(name: str, type_: Any) -> dict[str, Any]:
    """The schema with another type of a field."""
    fields = [field | {"type": type_} if field["name"] == name else dict(field) for field in PAGE["fields"]]
    return PAGE | {"fields": fields}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr("rillet.connectors.schema_registry._PATIENCE_S", ())
    with registry_server() as server:
        yield server


def of_registry(url: str) -> SourcesConfig:
    return replace(PAGES, features=replace(PAGES.features, format="registry", registry=url))


def native(sources: SourcesConfig, value: bytes) -> bytes | None:
    converter = connected_converter("features", SPEC, sources)
    assert converter is not None
    return converter.native(None, value).value


def test_registry_avro_gives_the_event_of_the_same_json(registry: Registry) -> None:
    registry.add(300, PAGE)
    same = features_of().native(None, as_json(page())).value
    assert native(of_registry(registry.url), framed(300, PAGE, page())) == same


def test_plain_avro_gives_the_event_of_the_same_json(tmp_path: Path) -> None:
    (tmp_path / "page.avsc").write_text(json.dumps(PAGE))
    sources = SourcesConfig(replace(PAGES.features, format="avro", schema=Path("page.avsc")), PAGES.actions)
    same = features_of().native(None, as_json(page())).value
    assert native(sources.resolved(tmp_path), avro(PAGE, page())) == same


def test_logical_types_are_what_they_say(registry: Registry) -> None:
    schema = with_type("shown_at", {"type": "long", "logicalType": "timestamp-micros"})
    schema["fields"][0]["type"] = {"type": "string", "logicalType": "uuid"}
    registry.add(1, schema)
    request = uuid.UUID(int=5)
    value = page(page_id=request, shown_at=datetime.fromtimestamp(SHOWN_MS / 1000, UTC))
    event = decode_as(FeatureEvent, native(of_registry(registry.url), framed(1, schema, value)) or b"")
    assert (event.request_id, event.event_time_ms) == (str(request), SHOWN_MS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (framed(300, PAGE, page())[5:], "value: has no schema registry's framing"),
        (b"\0\0\0", "value: has no schema registry's framing"),
        (b'{"page_id": 1}', "value: has no schema registry's framing .* it begins with b'{\"page_id\""),
        (framed(300, PAGE, page())[:-3], "value: does not fit the Avro schema"),
        (framed(300, PAGE, page()) + b"..", "value: has 2 bytes more than its Avro schema describes"),
        (framed(301, PAGE, page()), "value: schema 301 of 127.*: the registry has none of this id"),
        (framed(303, LINKED, {"next": None}), "schema 303 of .*: cannot be used: next: Linked contains itself"),
        (framed(302, "string", "text"), "value: is no Avro record but 'text'"),
        (framed(300, PAGE, page(articles=[])), "articles: is an empty list"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(registry: Registry, value: bytes, message: str) -> None:
    registry.add(300, PAGE)
    registry.add(302, "string")
    registry.add(303, LINKED)
    with pytest.raises(RecordError, match=message):
        native(of_registry(registry.url), value)


def test_a_registry_that_is_away_makes_no_dead_letter() -> None:
    with pytest.raises(RegistryUnavailableError):
        native(of_registry(f"http://127.0.0.1:{free_port()}"), framed(300, PAGE, page()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is no Avro schema"),
        (json.dumps(LINKED), "the Avro schema cannot be used: next: Linked contains itself"),
    ],
)
def test_a_schema_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "page.avsc"
    if text is not None:
        path.write_text(text)
    sources = replace(PAGES, features=replace(PAGES.features, format="avro", schema=path))
    with pytest.raises(SourceError, match=f"{path}: {message}"):
        connected_converter("features", SPEC, sources)
