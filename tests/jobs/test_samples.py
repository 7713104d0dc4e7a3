"""`rillet check-config --sample` and `--from-topic`: what would be made of real records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fastavro
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from rillet.__main__ import main
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.sample_check import SampleCheck, _Looked
from rillet.connectors.samples import Sample
from rillet.devstack.process import free_port
from rillet.jobs.config import RilletConfig, dump_config
from rillet.schemas import ActionEvent, DenseFeature, Slot, Task, dump_spec, encode
from rillet.schemas.label_rules import AtLeast, Measure
from rillet.sources import SourcesConfig
from tests.sources.avro_schemas import PAGE
from tests.sources.registries import framed, registry_server
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


def write(folder: Path, sources: SourcesConfig, kafka: KafkaConfig | None = None) -> Path:
    (folder / "spec.toml").write_text(dump_spec(SPEC))
    kafka = kafka or KafkaConfig(f"127.0.0.1:{free_port()}")
    (folder / "rillet.toml").write_text(dump_config(RilletConfig(spec=Path("spec.toml"), sources=sources, kafka=kafka)))
    return folder / "rillet.toml"


def check(config: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["check-config", "--config", str(config), *map(str, arguments)])


def test_records_are_shown_by_the_names_of_the_spec(tmp_path: Path) -> None:
    config = write(tmp_path, PAGES)
    sample = tmp_path / "pages.jsonl"
    sample.write_bytes(as_json(page()) + b"\n\n" + as_json(page(page_id="p2", recent=None)) + b"\n")
    result = check(config, "--sample", sample, "--topic", "features")
    assert result.exit_code == 0, result.output
    first, _, second = result.output.partition(f"{sample}, line 3: ")
    assert first.splitlines() == [
        f"{sample}, line 1: request p1, 2025-11-22T00:06:40.250Z, 3 candidates",
        "  user        7",
        "  device      'phone'",
        "  recent      'a3', 'a1'",
        "  candidate 'a17'",
        "    article     'a17'",
        "    categories  'sport', 'local'",
        "    age         0.5 (bin 0 of 4)",
        "    age_hours   0.5 (dense)",
        "  candidate 'a23'",
        "    article     'a23'",
        "    categories  -",
        "    age         7 (bin 2 of 4)",
        "    age_hours   7 (dense)",
        "  candidate 'a42'",
        "    article     'a42'",
        "    categories  -",
        "    age         30.25 (bin 3 of 4)",
        "    age_hours   30.25 (dense)",
    ]
    assert second.startswith("request p2")
    assert "  recent      -" in second
    assert second.endswith("2 records fit, 0 would be dead letters\n")


def test_a_record_that_does_not_fit_ends_with_status_1(tmp_path: Path) -> None:
    sample = tmp_path / "actions.jsonl"
    lines = [click(), click(article=None), click(type="klick"), click(at=1_763_770_000)]
    sample.write_bytes(b"\n".join(map(as_json, lines)))
    result = check(write(tmp_path, PAGES), "--sample", sample, "--topic", "actions")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{sample}, line 1: request p1, 2025-11-22T00:06:44.250Z, action click on impression 'a23'",
        f"{sample}, line 2: does not fit: article: is missing or null",
        f"{sample}, line 3: request p1, 2025-11-22T00:06:44.250Z, action klick on impression 'a23'; no task and no history"
        " asks for it: did you mean 'click'?",
        f'{sample}, line 4: does not fit: at: 1763770000 is 1970-01-21 in ms; is time_unit "s" meant?',
        "2 records fit, 2 would be dead letters, 1 has an action that nobody asks for",
    ]


def test_actions_that_nobody_asks_for_do_not_fit_where_there_are_no_others(tmp_path: Path) -> None:
    sample = tmp_path / "actions.jsonl"
    sample.write_bytes(b"\n".join(map(as_json, [click(type="KLICK"), click(type="KLICK"), click(type="zoom")])))
    config = write(tmp_path, PAGES)
    result = check(config, "--sample", sample, "--topic", "actions")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[1].endswith(
        "action KLICK on impression 'a23'; no task and no history asks for it: did you mean 'click'?"
    )
    assert lines[2].endswith("; no task and no history asks for it, they ask for click, like, read")
    assert lines[3:] == [
        "3 records fit, 0 would be dead letters, 3 have an action that nobody asks for",
        "no action would make a row: KLICK 2, zoom 1; the feature spec asks for click, like, read: use its names, or translate"
        " under [sources.actions.names]",
    ]
    sample.write_bytes(b"\n".join(map(as_json, [click(), click(type="zoom")])))
    result = check(config, "--sample", sample, "--topic", "actions")
    assert result.exit_code == 0, "what nobody asks for is counted and left out"


def test_while_a_spec_is_changed_what_only_one_of_the_two_has_may_be_missing(tmp_path: Path) -> None:
    new = replace(
        SPEC, context=(*SPEC.context, Slot("country", 4, "token")), dense=(DenseFeature("words"), *SPEC.dense)
    )
    config = write(tmp_path, PAGES)
    (tmp_path / "old.toml").write_text(dump_spec(SPEC))
    (tmp_path / "spec.toml").write_text(dump_spec(new))
    sample = tmp_path / "pages.jsonl"
    sample.write_bytes(as_json(page()) + b"\n" + as_json(page(page_id="p2", country="FR")))
    refused = check(config, "--sample", sample, "--topic", "features")
    assert refused.exit_code == 1
    assert "country: is missing or null (slot country" in refused.output

    config.write_text(config.read_text().replace("also_accepts = []", 'also_accepts = ["old.toml"]'))
    taken = check(config, "--sample", sample, "--topic", "features")
    assert taken.exit_code == 0, taken.output
    assert "  country     missing\n" in taken.output
    assert "  country     'FR'\n" in taken.output
    assert taken.output.count("    words       missing (dense)\n") == 6
    assert taken.output.endswith(
        "2 records fit, 0 would be dead letters\n"
        "country: 1 page lacks it, and none of also_accepts has it: taken as missing, and refused once also_accepts is empty\n"
        "words: 2 pages lack it, and none of also_accepts has it: taken as missing, and refused once also_accepts is empty\n"
    )


def test_native_records_of_the_other_spec_fit(tmp_path: Path) -> None:
    new = replace(SPEC, context=(*SPEC.context, Slot("country", 4, "token")))
    lines: list[str] = []
    check = SampleCheck(new, SourcesConfig(), lines.append, max_ahead_ms=1_000, lateness_ms=1_000, also_accepts=[SPEC])
    check._check("features", None, [_Looked(Sample("here", features_of().native(None, as_json(page())).value))])
    assert check.conclude(), lines


WATCHING = replace(SPEC, tasks=(*SPEC.tasks, Task("watch", ("click", "watch"), 60_000, at_least=AtLeast("sum", 20.0))))


def check_actions(folder: Path, path: str, *actions: dict[str, object]) -> Result:
    """The actions, of which a task asks for 20 s in all, at this path."""
    config = write(folder, replace(PAGES, actions=replace(PAGES.actions, value=path)))
    (folder / "spec.toml").write_text(dump_spec(WATCHING))
    sample = folder / "actions.jsonl"
    sample.write_bytes(b"\n".join(map(as_json, actions)))
    return check(config, "--sample", sample, "--topic", "actions")


def test_values_of_actions_are_shown(tmp_path: Path) -> None:
    result = check_actions(tmp_path, "seconds", click(type="watch", seconds=12.5), click(), click(type="like"))
    assert result.exit_code == 0, result.output
    assert [line.partition("action ")[2] for line in result.output.splitlines()[:3]] == [
        "watch on impression 'a23', value 12.5",
        "click on impression 'a23', no value at seconds, which task watch asks for",
        "like on impression 'a23', no value at seconds",
    ]


def test_a_task_that_asks_for_values_and_finds_none_ends_with_status_1(tmp_path: Path) -> None:
    watched = [click(type="watch", seconds=30), click(type="watch", seconds=0)]
    result = check_actions(tmp_path, "second", *watched, click(type="like"))
    assert result.exit_code == 1
    first, *_, summary, verdict = result.output.splitlines()
    assert first.endswith(", no value at second, which task watch asks for; 'seconds' is there: is that meant?")
    assert summary == "3 records fit, 0 would be dead letters"
    assert verdict == (
        "task watch would have negatives alone: it asks for a sum of at least 20, and none of its 2 actions has a value:"
        " nothing lies at second ([sources.actions] value)"
    )
    result = check_actions(tmp_path, "", *watched[:1])
    assert result.exit_code == 1
    assert result.output.endswith("and its one action does not have a value: [sources.actions] value names no path\n")


def test_without_a_path_of_values_a_task_that_asks_for_them_is_warned_of(tmp_path: Path) -> None:
    warning = "warning: task watch: asks for a sum of at least 20, and [sources.actions] value names no path: it has negatives alone"
    valued = replace(PAGES, actions=replace(PAGES.actions, value="seconds"))
    for sources, warned in ((PAGES, True), (valued, False), (SourcesConfig(), False)):
        config = write(tmp_path, sources)
        (tmp_path / "spec.toml").write_text(dump_spec(WATCHING))
        result = check(config)
        assert result.exit_code == 0, result.output
        assert (warning in result.output) == warned


@pytest.mark.parametrize("measure", ["sum", "value", "count"])
def test_values_of_native_actions_are_checked_too(measure: Measure) -> None:
    lines: list[str] = []
    task = replace(WATCHING.tasks[-1], at_least=AtLeast(measure, 2.0))
    spec = replace(WATCHING, tasks=(task,))
    check = SampleCheck(spec, SourcesConfig(), lines.append, max_ahead_ms=1_000, lateness_ms=1_000)
    event = ActionEvent("p1", SHOWN_MS, 7, "watch")
    check._check("actions", None, [_Looked(Sample("here", encode(event)))])
    assert check.conclude() == (measure == "count")
    assert ("field value of the action event is null" in lines[-1]) == (measure != "count")
    # One that has a value is enough, and zero is one.
    check._check("actions", None, [_Looked(Sample("here", encode(replace(event, value=0.0))))])
    assert (
        lines[-1] == "here: request p1, 2025-11-22T00:06:40.250Z, action watch on impression 7, value 0 (native record)"
    )
    assert check.conclude()


def test_texts_of_records_are_no_control_sequences(tmp_path: Path) -> None:
    sample = tmp_path / "hostile.jsonl"
    sample.write_bytes(
        b"\n".join(map(as_json, [click(page_id="\x1b[2Jx", type="\x1b]0;t\x07"), click(page_id="\u202e")]))
    )
    result = check(write(tmp_path, PAGES), "--sample", sample, "--topic", "actions")
    assert all(line.isprintable() for line in result.output.splitlines())
    assert r"request \x1b[2Jx" in result.output


def test_one_record_over_several_lines_is_one(tmp_path: Path) -> None:
    sample = tmp_path / "one.json"
    sample.write_text(json.dumps(impression(), indent=2))
    result = check(write(tmp_path, IMPRESSIONS), "--sample", sample, "--topic", "features")
    assert result.exit_code == 0
    assert f"{sample}: request p1|a17, 2025-11-22T00:06:40.250Z, 1 candidate\n" in result.output


def test_an_avro_message_and_a_container_are_read(tmp_path: Path) -> None:
    with registry_server() as server:
        server.add(300, PAGE)
        features = replace(PAGES.features, format="registry", registry=server.url)
        config = write(tmp_path, replace(PAGES, features=features))
        message, container = tmp_path / "message.bin", tmp_path / "pages.avro"
        message.write_bytes(framed(300, PAGE, page()))
        with container.open("wb") as file:
            fastavro.writer(file, PAGE, [page(), page(articles=[])])
        result = check(config, "--sample", message, "--topic", "features")
        assert result.exit_code == 0, result.output
        assert f"{message}: request p1, 2025-11-22T00:06:40.250Z, 3 candidates" in result.output
        result = check(config, "--sample", container, "--topic", "features")
    assert result.exit_code == 1
    assert f"{container}, record 1: request p1" in result.output
    assert f"{container}, record 2: does not fit: articles: is an empty list" in result.output


def test_native_records_are_known_with_and_without_a_source(tmp_path: Path) -> None:
    sample = tmp_path / "message.bin"
    sample.write_bytes(features_of().native(None, as_json(page())).value or b"")
    for sources in (PAGES, SourcesConfig()):
        result = check(write(tmp_path, sources), "--sample", sample, "--topic", "features")
        assert result.exit_code == 0, result.output
        assert f"{sample}: request p1, 2025-11-22T00:06:40.250Z, 3 candidates (native record)" in result.output


def test_json_without_a_source_says_what_is_missing(tmp_path: Path) -> None:
    sample = tmp_path / "pages.jsonl"
    sample.write_bytes(as_json(page()))
    result = check(write(tmp_path, SourcesConfig()), "--sample", sample, "--topic", "features")
    assert result.exit_code == 1
    assert "value: is no record of rillet's own; say in [sources.features] what format" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", "rillet.toml"), "--sample FILE needs --topic"),
        (("--topic", "features"), "--topic is of --sample FILE or --from-topic N"),
        (
            ("--sample", "rillet.toml", "--topic", "features", "--elsewhere"),
            "--elsewhere is of a check of the services",
        ),
    ],
)
def test_options_that_need_each_other_say_so(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    config = write(tmp_path, PAGES)
    result = check(config, *(config if argument == "rillet.toml" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in result.output


def test_a_container_is_judged_by_the_bytes_that_its_records_have_on_the_topic(tmp_path: Path) -> None:
    """The joiner refuses what was written with another schema than the topic's, and so does the check."""
    fields = [{"name": name, "type": "string"} for name in ("page_id", "article", "type")]
    at = {"name": "at", "type": "long"}
    topic = {"type": "record", "name": "Click", "fields": [at, *fields]}
    other = {"type": "record", "name": "Click", "fields": [*fields, at]}
    (tmp_path / "click.avsc").write_text(json.dumps(topic))
    sources = replace(PAGES, actions=replace(PAGES.actions, format="avro", schema=Path("click.avsc")))
    config = write(tmp_path, sources)
    container = tmp_path / "clicks.avro"
    for schema, status in ((topic, 0), (other, 1)):
        with container.open("wb") as file:
            fastavro.writer(file, schema, [click()])
        result = check(config, "--sample", container, "--topic", "actions")
        assert result.exit_code == status, result.output
    assert "does not fit: value: " in result.output
    result = check(write(tmp_path, PAGES), "--sample", container, "--topic", "actions")
    assert result.exit_code == 2
    assert "is an Avro container file, and the format of the topic is 'json'" in result.output


def test_a_timestamp_in_another_unit_is_a_warning() -> None:
    said: list[str] = []
    checked = SampleCheck(SPEC, PAGES, said.append, max_ahead_ms=1_000, lateness_ms=1_000)
    place = Sample("topic actions, partition 3, offset 42", as_json(click()))
    checked._check("actions", actions_of(), [_Looked(place, True, None, None, SHOWN_MS * 1_000)])
    assert (checked.fitting, checked.refused) == (1, 0)
    assert said[-1].startswith(f"  warning: the record's timestamp {SHOWN_MS * 1_000} is after 2105 in milliseconds")


@pytest.mark.parametrize(("data", "message"), [(None, "cannot be read"), (b" \n", "is empty")])
def test_a_file_without_records_is_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    sample = tmp_path / "pages.jsonl"
    if data is not None:
        sample.write_bytes(data)
    result = check(write(tmp_path, PAGES), "--sample", sample, "--topic", "features")
    assert result.exit_code == 2
    assert f"{sample}: {message}" in result.output


def test_a_configuration_says_how_its_topics_are_read(tmp_path: Path) -> None:
    result = check(write(tmp_path, IMPRESSIONS))
    assert result.exit_code == 0, result.output
    assert "source    features: json, one record per impression\nsource    actions: json, one record per action\n" in (
        result.output
    )


def test_a_source_that_does_not_fit_the_spec_is_refused(tmp_path: Path) -> None:
    wrong = replace(PAGES, actions=replace(PAGES.actions, names={"CLICK": "klick"}))
    result = check(write(tmp_path, wrong))
    assert result.exit_code == 2
    assert "sources.actions.names.CLICK: no task and no history of feature spec news asks for action 'klick'" in (
        result.output
    )


@pytest.mark.integration
def test_the_newest_records_of_both_topics_are_shown(broker: str, topics: Callable[..., str], tmp_path: Path) -> None:
    names = TopicNames(topics("features", partitions=2), topics("actions"))
    producer = Producer({"bootstrap.servers": broker})
    for number in range(4):
        at = SHOWN_MS + number * 1_000
        producer.produce(names.features, as_json(page(page_id=f"p{number}", shown_at=at)), str(number), timestamp=at)
    # Forty seconds before its record, and not in its unit.
    producer.produce(names.actions, as_json(click(at=SHOWN_MS)), timestamp=SHOWN_MS + 40_000)
    producer.produce(names.actions, as_json(click(at=SHOWN_MS // 1000)), timestamp=SHOWN_MS + 41_000)
    native = actions_of().native(None, as_json(click(page_id="n")))
    producer.produce(names.actions, native.value, native.key, timestamp=SHOWN_MS + 4_000)
    producer.flush(10)
    result = check(write(tmp_path, PAGES, KafkaConfig(broker, names)), "--from-topic", 3)
    assert result.exit_code == 1
    shown = [line.partition(": ")[2] for line in result.output.splitlines() if line.startswith("topic")]
    assert [line.partition(",")[0] for line in shown[:3]] == ["request p1", "request p2", "request p3"]
    assert shown[3].startswith("request n, 2025-11-22T00:06:44.250Z, action click on impression ")
    assert shown[3].endswith("(native record)")
    assert shown[5].startswith("does not fit: at: 1763770000 is 1970-01-21 in ms")
    assert "warning: the event is 40 s older than its record" in result.output
    assert result.output.endswith("5 records fit, 1 would be a dead letter\n")
