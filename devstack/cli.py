"""`rillet up`, `rillet down` and `rillet reset`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.jobs.options import configured

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig


@click.command()
@click.option("--broker-only", is_flag=True, help="Start the broker and make the topics, and start no service.")
@click.option(
    "--restart",
    is_flag=True,
    help="Restart services that run with another configuration than this: trainer, joiner, server, each once the one before"
    " it is ready.",
)
@configured
def up(config: RilletConfig, config_path: Path, broker_only: bool, restart: bool) -> None:
    """Start broker, joiner, trainer and server as processes of this machine.

    Starts what does not run yet, and returns when all of it is ready. Logs and pid files lie in data_dir. Interrupted, it
    stops what it has started and is not ready yet.

    Configuration, feature specs, topics and ports are checked before anything is started or stopped. Services that run with
    another configuration are refused, with what differs, unless --restart is given.
    """
    from rillet.devstack.stack import Stack
    from rillet.devstack.stack import up as start_all
    from rillet.jobs.services import SERVICES

    if broker_only and restart:
        raise click.UsageError("--restart is for services, of which --broker-only starts none: leave out one of them")
    # As Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start_all(Stack(config, config_path), click.echo, () if broker_only else SERVICES, restart=restart)


@click.command()
@click.option("--keep-broker", is_flag=True, help="Leave the broker running: to join what is left, and to audit.")
@configured
def down(config: RilletConfig, config_path: Path, keep_broker: bool) -> None:
    """Stop what `rillet up` started; nothing that was learnt is lost."""
    from rillet.devstack.stack import Stack
    from rillet.devstack.stack import down as stop_all

    stop_all(Stack(config, config_path), click.echo, keep_broker=keep_broker)


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


@click.command()
@click.option(
    "--topics",
    is_flag=True,
    help="Delete topics with all records, and make them anew; no raw topic of another format in [sources].",
)
@click.option("--model", is_flag=True, help="Delete the configured model: its checkpoints, its bases in the store.")
@click.option(
    "--joiner", is_flag=True, help="Delete the joiner's state: open windows and positions; and that of backfills."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete the model though a trainer of another data_dir seems to hold it.")
@configured
def reset(
    config: RilletConfig, config_path: Path, topics: bool, model: bool, joiner: bool, yes: bool, force: bool
) -> None:
    """Start over: delete topics, model and joiner state, or those of them that are named.

    Says what it would delete and asks, unless --yes is given. Refuses while a service runs that uses it.
    """
    from rillet.devstack.reset import Reset
    from rillet.devstack.stack import Stack

    everything = not (topics or model or joiner)
    work = Reset(Stack(config, config_path), topics or everything, model or everything, joiner or everything, force)
    with work.prepared():
        for line in work.plan():
            click.echo(line)
        if not yes:
            if not has_terminal():
                click.echo("nothing was deleted: there is no terminal to ask on, add --yes", err=True)
                raise SystemExit(1)
            click.confirm("delete it?", abort=True)
        work.run(click.echo)
