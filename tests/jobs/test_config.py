from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rillet.jobs.config import BOOTSTRAP_VARIABLE, dump_config, load_config, parse_config
from rillet.jobs.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "rillet.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "spec: is missing"),
        ('spec = "a"\n[joinr]\nx = 1', "joinr: unknown key; did you mean joiner?"),
        ('spec = "a"\n[joiner]\nslize_ms = 1', "joiner.slize_ms: unknown key; did you mean slice_ms?"),
        ('spec = "a"\n[kafka.topics]\nclicks = "c"', "kafka.topics.clicks: unknown key; known are features,"),
        ('spec = "a"\n[trainer]\nbatch_size = "many"', "trainer.batch_size: .*found 'many'"),
        ('spec = "a"\n[trainer]\nbatch_size = 2.5', "trainer.batch_size: .*found 2.5"),
        ('spec = "a"\n[model]\nhidden = [64, "x"]', "model.hidden.1: .*found 'x'"),
        ('spec = "a"\n[flink]\nexecution_mode = "fast"', "flink.execution_mode: .*found 'fast'"),
        ('spec = "a"\n[joiner]\nslice_ms = -1', "joiner.slice_ms"),
        *(
            (f'spec = "a"\n[joiner]\n{key} = 1', rf"joiner\.{key}: unknown key; did you mean flink\.{key}\?")
            for key in ("lateness_ms", "idle_ms", "parallelism", "execution_mode", "max_drift_ms", "max_restarts")
        ),
        ('spec = "a"\n[joiner]\ncheckpoint_interval_ms = 1', r"did you mean flink\.checkpoint_interval_ms"),
        ('spec = "a"\n[flink]\nbuckets = 1', r"flink\.buckets: unknown key; did you mean joiner\.buckets\?"),
        (
            'spec = "a"\n[flink]\ncheckpoint_interval_ms = 300000',
            "flink.transaction_timeout_ms: 900000 is less than a transaction may stay open",
        ),
        ('spec = "a"\n[serving]\nport = 70000', "serving.port: 70000 is not in"),
        ('spec = "a"\n[kafka]\npartitions = 0', "kafka.partitions: 0 is not above 0"),
        ('spec = "a"\n[kafka.topics]\nactions = "features"', "kafka.topics.*name of its own"),
        ('spec = "a"\n[publisher]\nslice_rows = 5', "publisher.slice_rows: unknown key"),
        ('spec = "a"\n[replica]\nfetch_rekords = 5', "replica.fetch_rekords: unknown key; did you mean fetch_records?"),
        ('spec = "a"\n[store]\nurl = ""', "store.url: empty"),
        ('spec = "a"\n[publisher]\nkeep_bases = 0', "publisher.keep_bases: 0 is not above 0"),
        ("spec = 3", "spec: .*found 3"),
        ('spec = "a"\njoiner = 5', "joiner: .*found 5"),
        ('spec = "a', "at end of document|line 1"),
    ],
)
def test_a_wrong_key_is_refused_with_file_and_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'rillet.toml'}: ")


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?=.*serving\.port)(?=.*wrong)(?=.*model\.dim)"):
        load_config(write(tmp_path, 'spec = "a"\nwrong = 1\n[serving]\nport = -1\n[model]\ndim = "x"'))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_config(tmp_path / "gone.toml")


def test_paths_are_relative_to_the_file_not_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, 'spec = "a.toml"\ndata_dir = "data"\n[store]\nurl = "bases"')
    monkeypatch.chdir(tmp_path)
    config = load_config("config/rillet.toml")
    assert config.spec == folder / "a.toml"
    assert config.data_dir == folder / "data"
    assert config.store_url == str(folder / "data" / "bases")


def test_a_store_that_is_a_url_stays_one() -> None:
    assert parse_config({"spec": "a", "store": {"url": "s3://bucket/models"}}).store_url == "s3://bucket/models"


def test_bootstrap_servers_argument_goes_before_environment_before_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'spec = "a"\n[kafka]\nbootstrap_servers = "file:1"\npartitions = 7')
    environment = {BOOTSTRAP_VARIABLE: "environment:1"}
    assert load_config(path, environment={}).kafka.bootstrap_servers == "file:1"
    assert load_config(path, environment=environment).kafka.bootstrap_servers == "environment:1"
    config = load_config(path, "argument:1", environment)
    assert (config.kafka.bootstrap_servers, config.kafka.partitions) == ("argument:1", 7)


def test_a_dumped_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = parse_config({"spec": str(tmp_path / "a.toml"), "data_dir": str(tmp_path / "d")})
    config = replace(
        config,
        model=replace(config.model, name='odd "name"', hidden=(3, 4)),
        table=replace(config.table, learning_rate=1e-7),
    )
    assert load_config(write(tmp_path, dump_config(config)), environment={}) == config


def test_every_topic_has_its_partitions() -> None:
    kafka = parse_config({"spec": "a", "kafka": {"partitions": 3, "examples_partitions": 4}}).kafka
    assert set(kafka.topic_partitions) == set(asdict(kafka.topics).values())
    assert kafka.topic_partitions["features"] == kafka.topic_partitions["actions"] == 3
    assert kafka.topic_partitions["examples"] == 4
    assert kafka.topic_partitions["deltas"] == 1


SECURED = """
spec = "a"
[kafka.client]
security.protocol = "SASL_SSL"
"sasl.password" = { env = "KAFKA_PASSWORD" }
"ssl.ca.location" = "ca.pem"
[kafka.flink]
"ssl.truststore.location" = "/jks"
"ssl.truststore.password" = { file = "truststore" }
"""


def test_secrets_are_looked_up_at_load_and_dumped_as_references(tmp_path: Path) -> None:
    (tmp_path / "truststore").write_text("opens-sesame\n")
    environment = {"KAFKA_PASSWORD": "hidden-value"}
    config = load_config(write(tmp_path, SECURED), environment=environment)
    assert config.kafka.connection.settings == {
        "security.protocol": "SASL_SSL",
        "sasl.password": "hidden-value",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
    }
    assert config.kafka.flink["ssl.truststore.location"] == "/jks"
    dumped = dump_config(config)
    for text in (dumped, repr(config), repr(config.kafka.connection)):
        assert "hidden-value" not in text
        assert "opens-sesame" not in text
    assert load_config(write(tmp_path, dumped), environment=environment) == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            '[kafka.client]\nsasl.password = { env = "GONE" }',
            "kafka.client.sasl.password: environment variable GONE is",
        ),
        ('[kafka.flink]\n"sasl.jaas.config" = { file = "gone" }', "kafka.flink.sasl.jaas.config: file .*gone: No such"),
        ('[kafka.client]\n"sasl.password" = "hidden-value"', "kafka.client.sasl.password: a secret does not stand"),
        ('[kafka.client]\n"sasl.password" = ["hidden-value"]', "kafka.client.sasl.password: is no text"),
        ('[kafka.client]\nsasl.password = { env = "A", file = "B" }', "kafka.client.sasl.password: is no text"),
        ('[kafka]\nclient = ["hidden-value"]', "kafka.client: is no table of settings"),
        ('[kafka.client]\n"group.id" = "mine"', "kafka.client.group.id: cannot be set: rillet decides"),
        ('[kafka.client]\n"a.b" = "1"\na.b = "2"', "kafka.client.a.b: is given twice"),
        ("[publisher]\nmax_block_bytes = 99_000_000", "publisher.max_block_bytes: 99000000 is above"),
    ],
)
def test_settings_of_the_client_are_refused_with_their_path(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, f'spec = "a"\n{table}'), environment={})
    assert str(caught.value).startswith(f"{tmp_path / 'rillet.toml'}: ")
    assert "hidden-value" not in str(caught.value)


@pytest.mark.parametrize("path", ["rillet.toml", "deploy/rillet.toml"])
def test_the_configurations_of_the_project_are_good(path: str) -> None:
    config = load_config(ROOT / path, environment={})
    assert config.load_spec().tasks
