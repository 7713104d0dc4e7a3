"""What is wrong with a configuration on this machine, before anything of it is started: ports and folders."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ConfigError


def check_here(config: RilletConfig, source: Path, *, folders: bool = True) -> None:
    """Refuses a configuration whose services cannot all run here.

    :param source: its file, for the message.
    :param folders: whether data_dir is one of this machine.
    :raises ConfigError: with everything that is wrong.
    """
    if found := [*_equal_ports(config), *(_unwritable(config) if folders else [])]:
        raise ConfigError(f"{source}: " + "; ".join(found))


def _equal_ports(config: RilletConfig) -> list[str]:
    """Services on one port of one address: the second could not listen. A broker on this machine listens too."""
    health, serving = config.health, config.serving
    listens = [
        (health.host, health.join_port, "health.join_port"),
        (health.host, health.train_port, "health.train_port"),
        (health.host, health.dump_port, "health.dump_port"),
        (serving.host, serving.port, "serving.port"),
    ]
    for server in config.kafka.bootstrap_servers.split(","):
        host, _, number = server.strip().rpartition(":")
        if host in ("127.0.0.1", "localhost"):
            listens.append(("127.0.0.1", int(number), "kafka.bootstrap_servers"))
    by_port: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for host, port, key in listens:
        if port:
            by_port[port].append((host, key))
    return [
        f"{' and '.join(key for _, key in users)}: port {port} is given to each of them; give each its own"
        for port, users in by_port.items()
        if len(users) > 1 and (len({host for host, _ in users}) == 1 or any(_all_addresses(host) for host, _ in users))
    ]


def _all_addresses(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104  compared, not bound


def _unwritable(config: RilletConfig) -> list[str]:
    """data_dir is made where it is missing: then what counts is the folder that it would be made in."""
    there = config.data_dir
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    what = "is no folder" if not there.is_dir() else f"may not be written to by this user (uid {os.getuid()})"
    return [f"data_dir: {config.data_dir} cannot be used, since {there} {what}"]
