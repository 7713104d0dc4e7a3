"""`rillet record` and `rillet replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.jobs.options import configured

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@configured
def record(config: RilletConfig, config_path: Path, directory: Path) -> None:
    """Write what is on the features and actions topics to a recording in DIRECTORY."""
    from rillet.recordings.record import record as write

    topics = config.kafka.topics
    recorded = write(
        config.kafka.connection,
        directory,
        config.load_spec(),
        features=topics.features,
        actions=topics.actions,
        max_ahead_ms=config.joiner.max_ahead_ms,
    )
    click.echo(f"{directory}: {recorded.info.requests:,} requests, {recorded.info.actions:,} actions")
    if recorded.dead_letters:
        click.echo(f"{recorded.dead_letters:,} records could not be used, see dead_letters.jsonl there", err=True)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--speed", default="max", show_default=True, help="1x is recorded time, 100x a hundred times faster, or max."
)
@click.option("--requests", type=click.IntRange(min=1), help="Only the first so many requests.")
@configured
def replay(config: RilletConfig, config_path: Path, directory: Path, speed: str, requests: int | None) -> None:
    """Send the recording in DIRECTORY to the features and actions topics."""
    from rillet.recordings.format import Recording
    from rillet.recordings.replay import parse_speed
    from rillet.recordings.replay import replay as send

    kafka = config.kafka
    sent = send(
        Recording(directory),
        kafka.connection,
        speed=parse_speed(speed),
        features=kafka.topics.features,
        actions=kafka.topics.actions,
        partitions=kafka.partitions,
        requests=requests,
    )
    click.echo(f"sent {sent.features:,} features and {sent.actions:,} actions in {sent.wall_s:.1f} s")
