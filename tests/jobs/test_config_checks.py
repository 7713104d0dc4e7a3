"""What a configuration asks of this machine: ports that differ, a folder that can be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rillet.jobs.config import load_config
from rillet.jobs.config_checks import check_here
from rillet.jobs.errors import ConfigError


def _check(folder: Path, tables: str) -> None:
    path = folder / "rillet.toml"
    path.write_text(f'spec = "a.toml"\ndata_dir = "var"\n{tables}')
    check_here(load_config(path, environment={}), path)


@pytest.mark.parametrize(
    ("tables", "keys", "port"),
    [
        ("[health]\njoin_port = 9102\n", "health.join_port and health.train_port", 9102),
        ("[serving]\nport = 9103\n", "health.dump_port and serving.port", 9103),
        ('[serving]\nhost = "0.0.0.0"\nport = 9101\n', "health.join_port and serving.port", 9101),
        ("[health]\ntrain_port = 9092\n", "health.train_port and kafka.bootstrap_servers", 9092),
    ],
)
def test_two_services_on_one_port_are_refused_with_their_keys(
    tmp_path: Path, tables: str, keys: str, port: int
) -> None:
    with pytest.raises(
        ConfigError, match=rf"rillet\.toml: {keys}: port {port} is given to each of them; give each its"
    ):
        _check(tmp_path, tables)
    # the advice
    _check(tmp_path, tables.replace(str(port), "9199"))


@pytest.mark.parametrize(
    "tables",
    [
        "",
        "[health]\njoin_port = 0\ntrain_port = 0\ndump_port = 0\n",
        '[serving]\nhost = "10.0.0.1"\nport = 9101\n',
        '[kafka]\nbootstrap_servers = "kafka-1:9092,kafka-2:9092"\n[health]\ntrain_port = 9092\n',
    ],
)
def test_ports_that_are_off_or_of_another_address_do_not_collide(tmp_path: Path, tables: str) -> None:
    _check(tmp_path, tables)
    assert not (tmp_path / "var").exists()


def test_a_data_dir_that_cannot_be_made_is_refused_with_what_is_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(
        ConfigError, match=rf"data_dir: {tmp_path}/var cannot be used, since {tmp_path}/var is no folder"
    ):
        _check(tmp_path, "")
    # A configuration of another machine says nothing of this one's folders.
    check_here(load_config(tmp_path / "rillet.toml"), tmp_path / "rillet.toml", folders=False)


def test_a_data_dir_without_the_right_to_write_is_refused_with_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        ConfigError, match=rf"since {tmp_path} may not be written to by this user \(uid {os.getuid()}\)"
    ):
        _check(tmp_path, "")


@pytest.mark.parametrize("servers", ["kafka", "kafka:", "kafka:9092,kafka-2", "", "http://kafka:9092", "kafka 1:9092"])
def test_a_broker_without_a_port_is_refused_wherever_it_is_named(tmp_path: Path, servers: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers: .* is no HOST:PORT; .*kafka-1:9092,kafka-2:9092"):
        _check(tmp_path, f'[kafka]\nbootstrap_servers = "{servers}"\n')
    (tmp_path / "rillet.toml").write_text('spec = "a.toml"\n')
    if servers:
        with pytest.raises(
            ConfigError, match=r"--bootstrap-servers or RILLET_KAFKA_BOOTSTRAP_SERVERS: .* is no HOST:PORT"
        ):
            load_config(tmp_path / "rillet.toml", servers)
    # the advice, and an address of IPv6
    for good in ("kafka-1:9092,kafka-2:9092", "[::1]:9092"):
        assert load_config(tmp_path / "rillet.toml", good).kafka.bootstrap_servers == good
