"""`rillet up` and `rillet down`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.jobs.options import configured

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig


@click.command()
@click.option("--broker-only", is_flag=True, help="Start the broker and make the topics, and start no service.")
@configured
def up(config: RilletConfig, config_path: Path, broker_only: bool) -> None:
    """Start broker, joiner, trainer and server as processes of this machine.

    Starts what does not run yet, and returns when all of it is ready. Logs and pid files lie in data_dir.
    """
    from rillet.devstack.stack import Stack
    from rillet.devstack.stack import up as start_all
    from rillet.jobs.services import SERVICES

    start_all(Stack(config, config_path), click.echo, () if broker_only else SERVICES)


@click.command()
@configured
def down(config: RilletConfig, config_path: Path) -> None:
    """Stop what `rillet up` started; nothing that was learnt is lost."""
    from rillet.devstack.stack import Stack
    from rillet.devstack.stack import down as stop_all

    stop_all(Stack(config, config_path), click.echo)
