"""The operator in front of the join, without Flink: records as the job's SQL hands them over."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyflink.common import Row

from rillet.connectors.errors import RegistryUnavailableError
from rillet.devstack.process import free_port
from rillet.operators.conversion_function import ConversionFunction, bucket_of
from rillet.operators.joiner_function import DEAD_LETTERS
from rillet.operators.key_groups import bucket_keys
from rillet.operators.records import JoinRecord, dead_letter_row, join_record, split_record
from rillet.schemas import DeadLetter, RecordError, Slot, SpecRegistry, decode, decode_dead_letter
from rillet.sources import SourceError, SourcesConfig
from tests.sources.avro_schemas import PAGE
from tests.sources.registries import avro
from tests.sources.support import PAGES, SPEC, actions_of, as_json, click, features_of, page

SPECS = SpecRegistry(SPEC)


class Context:
    """A runtime context that counts, by the groups of a counter and its name."""

    def __init__(self, counts: Counter[str] | None = None, path: str = "") -> None:
        self.counts: Counter[str] = Counter() if counts is None else counts
        self._path = path

    def get_metrics_group(self) -> Context:
        return self

    def add_group(self, *names: str) -> Context:
        return Context(self.counts, self._path + "".join(f"{name}." for name in names))

    def counter(self, name: str) -> Context:
        return Context(self.counts, self._path + name)

    def inc(self, n: int = 1) -> None:
        self.counts[self._path] += n


def raw(value: bytes | None, key: bytes | None = None, ingest: bytes | None = None, headers: int = 0) -> JoinRecord:
    return JoinRecord("actions", 3, 42, "2025-11-22 00:06:44.250", headers, key, ingest, value)


def run(
    record: JoinRecord,
    kind: Any = "actions",
    sources: SourcesConfig = PAGES,
    specs: SpecRegistry = SPECS,
) -> tuple[list[Any], Context]:
    function = ConversionFunction(kind, specs, sources, buckets=64, max_ahead_ms=1_000)
    context = Context()
    function.open(context)
    return list(function.process_element(Row(0, join_record(record)), None)), context


def test_a_record_becomes_native_under_the_bucket_of_its_request() -> None:
    ((key, data),), _ = run(raw(as_json(click()), key=b"anything"))
    record = split_record(data)
    assert key == bucket_keys(64)[bucket_of(b"p1", 64)]
    # 2025-11-22 00:06:44.250, the record's timestamp
    assert record == raw(record.value, b"p1", b"1763770004250")._replace(converted=True, own_ingest=False)
    assert decode(record.value or b"") == decode(native(click()))


def test_pages_without_what_is_new_to_the_spec_are_counted_by_its_name() -> None:
    new = (Slot("country.of", 4, "token"), Slot("city", 5, "token"), *SPEC.context)
    specs = SpecRegistry(replace(SPEC, context=new), [SPEC])
    (_,), context = run(raw(as_json(page(city="Oslo"))), "features", specs=specs)
    assert context.counts == {"rillet_joiner.lacking.country_of.count": 1}
    (_,), context = run(raw(as_json(page(city="Oslo", **{"country.of": "NO"}))), "features", specs=specs)
    assert not context.counts


def native(value: Any) -> bytes:
    return actions_of().native(None, as_json(value)).value or b""


def test_a_native_record_keeps_key_and_header() -> None:
    data = native(click())
    ((key, converted),), _ = run(raw(data, b"another key", None, headers=2))
    assert split_record(converted) == raw(data, b"another key", None, headers=2)
    assert key == bucket_keys(64)[bucket_of(b"another key", 64)]


def test_what_does_not_fit_is_a_letter_with_the_record_as_it_lay() -> None:
    value = as_json(click(article=None))
    ((tag, row),), context = run(raw(value, b"k", b"1763770004250", headers=2))
    letter: DeadLetter = decode_dead_letter(row[1])
    assert tag is DEAD_LETTERS
    assert letter.reason == "article: is missing or null"
    assert (letter.topic, letter.partition, letter.offset) == ("actions", 3, 42)
    assert (letter.key, letter.value, letter.more_headers) == (b"k", value, True)
    assert letter.timestamp_ms == 1763770004250
    assert context.counts == {"rillet_joiner.dead_letters": 1, "rillet_joiner.refused.RecordError.count": 1}


@pytest.mark.parametrize("ingest", [None, b"1763770004250"])
def test_a_letter_of_the_join_says_that_its_record_was_converted_and_invents_no_header(ingest: bytes | None) -> None:
    ((_, data),), _ = run(raw(as_json(click()), b"k", ingest, headers=1))
    letter = decode_dead_letter(dead_letter_row(RecordError("comes too late"), split_record(data))[1])
    assert letter.reason == (
        "comes too late; key and value are of the native record that was made of the one at this place"
    )
    assert letter.headers == (() if ingest is None else (("ingest_ms", ingest),))
    assert letter.more_headers == (ingest is None)
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("actions", 3, 42, b"p1")


def test_a_record_that_stops_no_reader_of_json_stops_no_task() -> None:
    ((tag, row),), _ = run(raw(b'{"page_id":"p1","article":"a23","at":1e308,"type":"CLICK"}'))
    assert tag is DEAD_LETTERS
    assert decode_dead_letter(row[1]).reason == "at: 1e+308 is before 1970 or after 2105"


def test_a_header_that_is_no_time_and_an_event_of_the_future_are_letters() -> None:
    for record, reason in (
        (raw(as_json(click()), ingest=b"soon"), "header ingest_ms: b'soon'"),
        (raw(as_json(click(at=1_763_780_000_000))), "at: 2025-11-22T02:53:20.000Z is more than max_ahead_ms"),
    ):
        ((_, row),), _ = run(record)
        assert decode_dead_letter(row[1]).reason.startswith(reason)


def test_features_are_converted_by_their_own_table() -> None:
    ((_, data),), _ = run(raw(as_json(page(shown_at=1763770000250))), "features")
    assert split_record(data).value == features_of().native(None, as_json(page())).value


def test_tables_that_do_not_fit_the_spec_are_refused_where_the_job_is_built() -> None:
    wrong = SourcesConfig(PAGES.features, replace(PAGES.actions, names={"CLICK": "klick"}))
    with pytest.raises(SourceError, match=r"sources\.actions\.names\.CLICK"):
        ConversionFunction("actions", SPECS, wrong, buckets=4, max_ahead_ms=0)


def test_a_registry_that_is_away_stops_the_topic_and_makes_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rillet.operators.conversion_function._REGISTRY_WAIT_S", 0.0)
    away = replace(PAGES.actions, format="registry", registry=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryUnavailableError, match="schema registry 127"):
        run(raw(b"\0\0\0\0\7body"), sources=replace(PAGES, actions=away))


def test_a_schema_file_is_read_where_the_job_is_built(tmp_path: Path) -> None:
    path = tmp_path / "page.avsc"
    path.write_text(json.dumps(PAGE))
    sources = replace(PAGES, features=replace(PAGES.features, format="avro", schema=path))
    function = ConversionFunction("features", SPECS, sources, buckets=4, max_ahead_ms=1_000)
    path.unlink()
    function.open(Context())
    ((_, data),) = function.process_element(Row(0, join_record(raw(avro(PAGE, page())))), None)
    assert split_record(data).value == features_of().native(None, as_json(page())).value


@pytest.mark.parametrize(
    ("key", "code"),
    [
        # as SELECT HASH_CODE(k) answers in Flink 2.3
        (b"", 0),
        (b"r1", 3583),
        (b"page-17", 803598812),
        (b"3f2504e0-4f89-41d3-9a0c-0305e82c3301", 2099793040),
        (b"caf\xe9", 3045921),
        (b"\xff\x80x", 249143),
    ],
)
def test_a_bucket_is_that_of_flinks_hash_code(key: bytes, code: int) -> None:
    assert bucket_of(key, 1 << 31) == code


def test_the_smallest_hash_code_has_a_bucket_from_zero() -> None:
    key = b"polygenelubricants"  # known for this hash
    assert bucket_of(key, 7) == -(1 << 31) % 7
