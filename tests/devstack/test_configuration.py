from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rillet.devstack.configuration import differences, record
from rillet.jobs.config import RilletConfig, parse_config


@pytest.fixture
def config(tmp_path: Path) -> RilletConfig:
    (tmp_path / "films.toml").write_text("[spec]\n")
    config = parse_config({"spec": "films.toml", "data_dir": "var"})
    kafka = replace(config.kafka, client={"sasl.username": "swordfish", "security.protocol": "SASL_SSL"})
    return replace(config, spec=tmp_path / "films.toml", kafka=kafka)


def test_a_value_that_differs_is_told_with_what_it_was_and_is(config: RilletConfig) -> None:
    before = record(config)
    assert differences(before, record(config)) == []
    changed = replace(config, trainer=replace(config.trainer, batch_size=7), data_dir=Path("other"))
    assert differences(before, record(changed)) == [
        'data_dir "var", now "other"',
        f"trainer.batch_size {config.trainer.batch_size}, now 7",
    ]


def test_another_content_of_a_spec_is_told_by_its_file(config: RilletConfig, tmp_path: Path) -> None:
    before = record(config)
    config.spec.write_text("[spec]\nname = 'b'\n")
    assert differences(before, record(config)) == [f"other contents of {config.spec}"]
    # One that was not named before is told by the key that names it.
    (tmp_path / "old.toml").write_text("[spec]\n")
    also = replace(config, also_accepts=(tmp_path / "old.toml",))
    (told,) = differences(record(config), record(also))
    assert told.startswith('also_accepts [], now ["/')
    # Of one that was named and not there, nothing else tells.
    (tmp_path / "old.toml").unlink()
    missing = record(also)
    (tmp_path / "old.toml").write_text("[spec]\n")
    assert differences(missing, record(also)) == [f"other contents of {tmp_path / 'old.toml'}"]


def test_settings_of_the_kafka_client_are_neither_kept_nor_shown(config: RilletConfig) -> None:
    client = {**config.kafka.client, "sasl.username": "trout"}
    changed = replace(config, kafka=replace(config.kafka, client=client))
    assert "swordfish" not in record(config)
    assert differences(record(config), record(changed)) == ["another kafka.client.sasl.username"]


def test_long_lists_of_differences_and_long_values_are_cut(config: RilletConfig) -> None:
    names = replace(config.kafka.topics, features="f" * 99, actions="b", examples="c", deltas="d", dead_letters="e")
    told = differences(record(config), record(replace(config, kafka=replace(config.kafka, topics=names))))
    assert len(told) == 5
    assert told[-1] == "and 1 more"
    assert told[0].startswith('kafka.topics.features "features", now "fff')
    assert told[0].endswith("f...")


@pytest.mark.parametrize("before", [None, "", "5fd2c1", "[]"])
def test_a_record_that_is_none_is_unknown(config: RilletConfig, before: str | None) -> None:
    assert differences(before, record(config)) == ["what it was started with is not known"]
