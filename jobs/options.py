"""Command-line options that many commands share. Imports nothing heavy: a command's --help has to be quick."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from rillet.jobs.log_format import LEVELS, LogFormat, log_to_stderr

#: exit status of what the operator can mend: a wrong command line, configuration, data or surroundings
USER_ERROR = 2


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


def logged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --log-level and --log-format of a service, and sets its logging up before it runs.

    As JSON the error that ends a service is a line of its log too.
    """

    @click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        envvar="RILLET_LOG_LEVEL",
        show_envvar=True,
        help="Leave out what is less important.",
    )
    @click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        envvar="RILLET_LOG_FORMAT",
        show_envvar=True,
        help="Lines for people, or one JSON object a line.",
    )
    @wraps(command)
    def run(log_level: str, log_format: LogFormat, **arguments: Any) -> Any:
        from rillet.schemas import RilletError

        log_to_stderr(log_level, log_format)
        try:
            return command(**arguments)
        except RilletError as error:
            if log_format == "text":
                raise
            logging.getLogger("rillet").error("%s", error)
            raise SystemExit(USER_ERROR) from error

    return run
