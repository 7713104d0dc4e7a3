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
@click.option("--replace", is_flag=True, help="Replace the recording that is in DIRECTORY already.")
@configured
def record(config: RilletConfig, config_path: Path, directory: Path, replace: bool) -> None:
    """Write what is on the features and actions topics to a recording in DIRECTORY."""
    from rillet.recordings.errors import RecordingError
    from rillet.recordings.format import INFO_FILE
    from rillet.recordings.record import record as write

    if (directory / INFO_FILE).exists() and not replace:
        raise RecordingError(f"{directory}: holds a recording already; name another directory, or say --replace")
    topics, specs = config.kafka.topics, config.load_specs()
    recorded = write(
        config.kafka.connection,
        directory,
        specs.current,
        features=topics.features,
        actions=topics.actions,
        sources=config.sources,
        max_ahead_ms=config.joiner.max_ahead_ms,
        also_accepts=specs.others,
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
@click.option("--features", metavar="TOPIC", help="Topic for features; the configuration's by default.")
@click.option("--actions", metavar="TOPIC", help="Topic for actions; the configuration's by default.")
@configured
def replay(
    config: RilletConfig,
    config_path: Path,
    directory: Path,
    speed: str,
    requests: int | None,
    features: str | None,
    actions: str | None,
) -> None:
    """Send the recording in DIRECTORY to the features and actions topics.

    Requests keep their ids: to the joiner, those that are on the topics already are duplicates. Replay into topics of
    another name (--features, --actions), or of another broker.
    """
    from rillet.connectors.topics import topic_ends
    from rillet.recordings.errors import RecordingError
    from rillet.recordings.format import Recording
    from rillet.recordings.replay import parse_speed
    from rillet.recordings.replay import replay as send

    kafka = config.kafka
    recording, specs = Recording(directory), config.load_specs()
    spec = specs.current
    if specs.find(recording.info.spec.hash) is None:
        raise RecordingError(
            f"{directory}: recorded under feature spec {recording.info.spec.name} ({recording.info.spec.hash:#x}), but "
            f"{config_path} names {spec.name} ({spec.hash:#x}): every record would be a dead letter; name another --config"
        )
    features, actions = features or kafka.topics.features, actions or kafka.topics.actions
    for topic in (features, actions):
        held = sum(end - first for first, end in (topic_ends(kafka.connection, topic) or {}).values())
        if held:
            click.echo(
                f"topic {topic} holds {held:,} records; requests that are among them count as duplicates", err=True
            )
    sent = send(
        recording,
        kafka.connection,
        speed=parse_speed(speed),
        features=features,
        actions=actions,
        partitions=kafka.partitions,
        requests=requests,
    )
    click.echo(f"sent {sent.features:,} features and {sent.actions:,} actions in {sent.wall_s:.1f} s")
