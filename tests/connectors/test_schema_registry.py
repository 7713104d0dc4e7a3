"""Schemas of a registry, against a small real HTTP server with real Avro."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rillet.connectors.errors import RegistryUnavailableError
from rillet.connectors.schema_registry import SchemaRegistry
from rillet.devstack.process import free_port
from rillet.schemas import RecordError
from tests.sources.registries import registry_server

ITEM = {"type": "record", "name": "shop.Item", "fields": [{"name": "id", "type": "string"}]}
PAGE = {
    "type": "record",
    "name": "shop.Page",
    "fields": [{"name": "items", "type": {"type": "array", "items": "shop.Item"}}],
}


def test_a_schema_is_fetched_once() -> None:
    with registry_server() as server:
        server.add(7, ITEM)
        registry = SchemaRegistry(server.url + "/")
        assert registry.schema(7) is registry.schema(7)
        assert registry.schema(7)["name"] == "shop.Item"
        assert server.asked == ["/schemas/ids/7"]


def test_schemas_that_a_schema_refers_to_are_fetched_too() -> None:
    with registry_server() as server:
        server.add(8, PAGE, references=[{"name": "shop.Item", "subject": "shop/Item", "version": 3}])
        server.answers["/subjects/shop%2FItem/versions/3"] = {
            "schema": '{"type":"record","name":"shop.Item","fields":[{"name":"id","type":"long"}]}'
        }
        assert SchemaRegistry(server.url).schema(8)["name"] == "shop.Page"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (404, "the registry has none of this id"),
        ({"schema": "{}", "schemaType": "PROTOBUF"}, "is of type PROTOBUF, expected AVRO"),
        ({"schema": "no schema"}, "is no Avro schema"),
        ({"schema": '{"type": "unheard of"}'}, "is no Avro schema"),
    ],
)
def test_an_id_that_no_record_can_be_read_with_is_the_records_fault(answer: Any, message: str) -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/9"] = answer
        registry = SchemaRegistry(server.url)
        for _ in range(3):
            with pytest.raises(RecordError, match=f"schema 9 of {server.url}: {message}"):
                registry.schema(9)
        assert len(server.asked) == 1, "records with such an id would each ask again"


@pytest.mark.parametrize(
    ("answer", "message"),
    [(500, "answered 500"), (401, "answered 401"), (b"<html>", "no JSON"), ([1], "with no schema but \\[1\\]")],
)
def test_a_registry_that_refuses_says_nothing_about_the_record(answer: Any, message: str) -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/9"] = answer
        with pytest.raises(RegistryUnavailableError, match=message):
            SchemaRegistry(server.url).schema(9)
        server.add(9, ITEM)
        assert SchemaRegistry(server.url).schema(9)["name"] == "shop.Item"


def test_a_registry_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.connectors.schema_registry._PAUSE_S", 0.02)
    port = free_port()
    registry = SchemaRegistry(f"http://127.0.0.1:{port}", wait_s=20)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(registry.schema(7)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    with registry_server(port) as server:
        server.add(7, ITEM)
        waiting.join(10)
    assert found[0]["name"] == "shop.Item"


def test_a_registry_that_stays_away_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnavailableError, match=f"schema registry {url}/schemas/ids/7: .*refused"):
        SchemaRegistry(url).schema(7)
