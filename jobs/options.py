"""Command-line options that many commands share. Imports nothing heavy: a command's --help has to be quick."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config and --bootstrap-servers; the command gets ``config`` (loaded) and ``config_path``."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("rillet.toml"),
        show_default=True,
        help="Configuration file.",
    )
    @click.option(
        "--bootstrap-servers",
        help="Kafka address; goes before the file and RILLET_KAFKA_BOOTSTRAP_SERVERS.",
        metavar="HOST:PORT",
    )
    @wraps(command)
    def load(config_path: Path, bootstrap_servers: str | None, **arguments: Any) -> Any:
        from rillet.jobs.config import load_config

        config = load_config(config_path, bootstrap_servers)
        return command(config=config, config_path=config_path.absolute(), **arguments)

    return load


def log_to_stderr() -> None:
    """What the long-running services log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
