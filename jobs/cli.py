"""Commands of the services, one each, and of what they share: topics, configuration, state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.jobs.options import configured, log_to_stderr

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig


@click.command()
@configured
def status(config: RilletConfig, config_path: Path) -> None:
    """Show what runs, what is ready, and how far each topic has got."""
    from rillet.jobs.status import run_status

    for line in run_status(config):
        click.echo(line)


@click.command()
@configured
def topics(config: RilletConfig, config_path: Path) -> None:
    """Make the topics that are not there yet, kept without a time limit."""
    from rillet.connectors.topics import create_topics

    kafka = config.kafka
    made = create_topics(kafka.connection, kafka.topic_partitions, replication=kafka.replication)
    for name, partitions in kafka.topic_partitions.items():
        click.echo(f"{name:14}{partitions:>3} partitions, {'made' if name in made else 'was there'}")


@click.command()
@click.option("--until-latest", is_flag=True, help="Stop at the present ends of the topics, closing every window.")
@click.option(
    "--drain", is_flag=True, help="When stopped, close every open window instead of keeping it for a restart."
)
@configured
def join(config: RilletConfig, config_path: Path, until_latest: bool, drain: bool) -> None:
    """Join features and actions into labelled examples, in a Flink of its own in this process.

    Every record counts exactly once, also over restarts. Runs until it gets SIGTERM or Ctrl-C.
    """
    from rillet.jobs.join import run_join

    log_to_stderr()
    raise SystemExit(run_join(config, until_latest=until_latest, drain=drain))


@click.command()
@click.option("--until-latest", is_flag=True, help="Stop at the present end of the examples topic.")
@configured
def train(config: RilletConfig, config_path: Path, until_latest: bool) -> None:
    """Learn from examples as they come and publish what changed.

    Goes on where its last checkpoint ended. Runs until it gets SIGTERM or Ctrl-C.
    """
    from rillet.jobs.train import run_train

    log_to_stderr()
    raise SystemExit(run_train(config, until_latest=until_latest))


@click.command()
@configured
def serve(config: RilletConfig, config_path: Path) -> None:
    """Answer requests (Open Inference Protocol over HTTP) with the model as it is now.

    Logs the features that it served for the joiner. Runs until it gets SIGTERM or Ctrl-C.
    """
    from rillet.jobs.serve import run_serve

    log_to_stderr()
    raise SystemExit(run_serve(config) or 0)


@click.command("check-config")
@configured
def check_config(config: RilletConfig, config_path: Path) -> None:
    """Check a configuration and its feature spec without starting anything."""
    from rillet.joiner import SliceSchedule

    spec = config.load_spec()
    schedule = SliceSchedule(spec, config.joiner)
    click.echo(f"{config_path}: good")
    with_crosses = f", with crosses {spec.model_hash:#x}" if spec.crosses else ""
    click.echo(f"spec      {config.spec}: {spec.name}, hash {spec.hash:#x}{with_crosses}")
    click.echo(f"slots     {', '.join(slot.name for slot in spec.slots)} ({len(spec.context)} of the context)")
    for cross in spec.crosses:
        click.echo(f"cross     {cross}")
    for task in spec.tasks:
        window = f"{task.window_ms / 60_000:g} min"
        rate = f"{task.negative_rate:g} of negatives"
        click.echo(f"task      {task.name}: action {task.action} within {window}, {rate}, labels {task.labels}")
    click.echo(f"slices    {schedule.slice_ms / 1000:g} s, {schedule.live_slices} alive at once")
    click.echo(f"model     {config.model.name}: {config.model.kind}, dim {config.model.dim}")
    kafka = config.kafka
    click.echo(f"kafka     {kafka.bootstrap_servers}: {', '.join(kafka.topic_partitions)}")
    # Names alone: a value may be a secret. Flink's are checked by being translated.
    for name, settings in (("client", kafka.client), ("flink", kafka.flink_settings)):
        if settings:
            click.echo(f"{name:10}{', '.join(settings)}")
    click.echo(f"store     {config.store_url}")
    click.echo(f"data_dir  {config.data_dir}")
