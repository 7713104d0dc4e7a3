"""Schemas of a registry, against a small real HTTP server with real Avro."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from rillet.connectors.errors import RegistryRefusedError, RegistryUnavailableError
from rillet.connectors.schema_registry import SchemaRegistry, _OddAnswerError
from rillet.devstack.process import free_port
from rillet.schemas import RecordError
from tests.sources.registries import Registry, registry_server

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


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_PAUSE_S", 0.01), ("_PATIENCE_S", (0.01, 0.01, 0.01))):
        monkeypatch.setattr(f"rillet.connectors.schema_registry.{name}", value)


def host(server: Registry) -> str:
    return server.url.removeprefix("http://")


REFERRING = {"schema": '"A"', "references": [{"name": "A", "subject": "a", "version": 1}]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (404, "the registry has none of this id"),
        ({"schema": "{}", "schemaType": "PROTOBUF"}, "is of type PROTOBUF, expected AVRO"),
        ({"schema": "no schema"}, "is no Avro schema"),
        ({"schema": '{"type": "unheard of"}'}, "is no Avro schema"),
        ({"schema": '{"type": "array", "items": "null"}'}, "cannot be used: value: values of the array take no bytes"),
    ],
)
def test_an_id_that_no_record_can_be_read_with_is_the_records_fault(answer: Any, message: str) -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/9"] = answer
        registry = SchemaRegistry(server.url)
        with pytest.raises(RecordError, match=f"schema 9 of {host(server)}: {message}") as caught:
            registry.schema(9)
        assert type(caught.value) is RecordError
        asked = len(server.asked)
        for _ in range(3):
            with pytest.raises(RecordError, match=f"schema 9 of {host(server)}: {message}"):
                registry.schema(9)
        assert len(server.asked) == asked, "records with such an id would each ask again"


def test_an_address_without_a_registry_says_nothing_about_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an ingress whose registry restarts, or of a URL without its path."""
    with registry_server() as server:
        server.add(9, ITEM)
        registry = SchemaRegistry(server.url)
        whole = SchemaRegistry._ask
        monkeypatch.setattr(SchemaRegistry, "_ask", lambda *_: (404, "Not Found", b"default backend - 404"))
        with pytest.raises(RegistryUnavailableError, match=r"answered 404 .*is \[sources\.\*\] registry right"):
            registry.schema(9)
        monkeypatch.setattr(SchemaRegistry, "_ask", whole)
        assert registry.schema(9)["name"] == "shop.Item"


def test_an_id_beyond_those_of_registries_is_not_asked_for() -> None:
    with registry_server() as server:
        with pytest.raises(RecordError, match="schema 4294967295: ids of a schema registry are not above 2147483647"):
            SchemaRegistry(server.url).schema(0xFFFFFFFF)
        assert server.asked == []


ODD = [
    *((status, f"answered {status}") for status in (400, 410, 422, 500)),
    (b"<html>", "no JSON"),
    (b"[" * 200_000, "no JSON"),
    ([1], "with no schema but b'\\[1\\]'"),
]


@pytest.mark.parametrize(("answer", "message"), ODD)
def test_one_id_that_the_registry_stumbles_on_is_the_records_fault(answer: Any, message: str) -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/9"] = answer
        server.add(7, ITEM)
        registry = SchemaRegistry(server.url, wait_s=60)
        registry.schema(7)
        with pytest.raises(RecordError, match=f"/schemas/ids/9: .*{message}.*; it answers for another schema"):
            registry.schema(9)


def test_many_ids_that_the_registry_stumbles_on_are_not_waited_for_one_by_one() -> None:
    with registry_server() as server:
        server.answers = {f"/schemas/ids/{schema_id}": 500 for schema_id in range(2, 22)}
        registry = SchemaRegistry(server.url, wait_s=60)
        for schema_id in range(2, 22):
            with pytest.raises(RecordError, match="it answers for another schema"):
                registry.schema(schema_id)
        assert len(server.asked) == 2 + 2 * 20


@pytest.mark.parametrize(("answer", "message"), ODD)
def test_a_registry_that_makes_no_sense_at_all_says_nothing_about_the_record(answer: Any, message: str) -> None:
    with registry_server() as server:
        server.answers = {f"/schemas/ids/{schema_id}": answer for schema_id in (1, 9)}
        registry = SchemaRegistry(server.url)
        with pytest.raises(RegistryUnavailableError, match=message):
            registry.schema(9)
        server.add(9, ITEM)
        assert registry.schema(9)["name"] == "shop.Item"


def test_a_registry_that_stumbles_and_then_is_away_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([_OddAnswerError("500")])

    def once(_: SchemaRegistry, path: str) -> None:
        raise next(answers, RegistryUnavailableError(f"refused {path}"))

    monkeypatch.setattr(SchemaRegistry, "_get_once", once)
    with pytest.raises(RegistryUnavailableError, match="refused /schemas/ids/9"):
        SchemaRegistry("http://127.0.0.1:1").schema(9)


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_asks_for_a_password_is_told_at_once(status: int) -> None:
    with registry_server() as server:
        server.answers = {f"/schemas/ids/{schema_id}": status for schema_id in (1, 9)}
        with pytest.raises(RegistryRefusedError, match=f"answered {status} .*without a password"):
            SchemaRegistry(server.url, wait_s=60).schema(9)
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_one_schema_that_may_not_be_read_does_not_stop_the_others(status: int) -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/9"] = status
        server.add(7, ITEM)
        registry = SchemaRegistry(server.url, wait_s=60)
        with pytest.raises(RecordError, match=f"answered {status} .*; it answers for another schema"):
            registry.schema(9)
        assert registry.schema(7)["name"] == "shop.Item"


def test_a_schema_that_is_registered_a_moment_after_its_first_record_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with registry_server() as server:
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                server.add(9, ITEM)

        monkeypatch.setattr("rillet.connectors.schema_registry.time.sleep", sleep)
        assert SchemaRegistry(server.url).schema(9)["name"] == "shop.Item"


def test_many_unknown_ids_are_not_waited_for_one_by_one() -> None:
    with registry_server() as server:
        registry = SchemaRegistry(server.url)
        for schema_id in range(1, 21):
            with pytest.raises(RecordError):
                registry.schema(schema_id)
        assert len(server.asked) == 3 + 20


def test_an_unknown_id_is_asked_for_after_pauses_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr("rillet.connectors.schema_registry.time.monotonic", lambda: now_s)
    with registry_server() as server:
        registry = SchemaRegistry(server.url)
        with pytest.raises(RecordError):
            registry.schema(9)
        for pause_s in (1, 2, 4, 8, 16, 30, 30):
            asked = len(server.asked)
            for after_s, more in ((pause_s - 0.1, 0), (0.1, 1)):
                now_s += after_s
                with pytest.raises(RecordError):
                    registry.schema(9)
                assert len(server.asked) == asked + more
        server.add(9, ITEM)
        now_s += 30
        assert registry.schema(9)["name"] == "shop.Item"


def test_schemas_that_refer_to_each_other_are_refused() -> None:
    with registry_server() as server:
        server.answers["/schemas/ids/8"] = REFERRING
        server.answers["/subjects/a/versions/1"] = {
            "schema": '"B"',
            "references": [{"name": "B", "subject": "b", "version": 1}],
        }
        server.answers["/subjects/b/versions/1"] = REFERRING
        with pytest.raises(RecordError, match=r"/subjects/a/versions/1 of .*: refers to itself"):
            SchemaRegistry(server.url).schema(8)
        assert len(server.asked) == 3


def test_an_answer_that_drips_takes_no_longer_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 200 OK\r\n")
                while not done.wait(0.02):
                    connection.sendall(b"A: b\r\n")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        try:
            registry = SchemaRegistry(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.2)
            with pytest.raises(RegistryUnavailableError, match=r"no whole answer within 0\.2 s"):
                registry.schema(7)
        finally:
            done.set()
            thread.join(5)


@pytest.mark.parametrize("answer", [404, 401, 422, 500, b"<html>", {"schema": "x"}])
def test_no_message_holds_the_path_of_the_url(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with registry_server() as server:
        server.answers = {f"/t/s3cr3t/schemas/ids/{schema_id}": answer for schema_id in (1, 9)}
        with pytest.raises((RecordError, RegistryUnavailableError)) as caught:
            SchemaRegistry(f"{server.url}/t/s3cr3t", wait_s=0.02).schema(9)
        assert any("s3cr3t" in path for path in server.asked)
        assert "s3cr3t" not in str(caught.value) + caplog.text


def test_a_registry_that_is_away_is_waited_for() -> None:
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
    with pytest.raises(RegistryUnavailableError, match=f"schema registry {url[7:]}, /schemas/ids/7: .*refused"):
        SchemaRegistry(url).schema(7)
