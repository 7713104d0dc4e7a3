"""Commands of the services, one each, and of what they share: topics, configuration, state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from rillet.jobs.options import configured, logged

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig

Meaning = TypeVar("Meaning")


@click.command()
@configured
def topics(config: RilletConfig, config_path: Path) -> None:
    """Make the topics that are not there yet, kept without a time limit."""
    from rillet.connectors.topics import create_topics

    kafka = config.kafka
    made = create_topics(kafka.connection, kafka.topic_partitions, replication=kafka.replication)
    for name, partitions in kafka.topic_partitions.items():
        click.echo(f"{name:14}" + (f"made, {partitions} partitions" if name in made else "was there"))


@click.command()
@click.option("--until-latest", is_flag=True, help="Stop when what the topics hold at the start is read.")
@click.option(
    "--drain", is_flag=True, help="At the stop close every open window, instead of keeping it for the next start."
)
@click.option(
    "--from",
    "start",
    metavar="WHERE",
    help="Where a first start begins to read: earliest (the default), latest, the time of a record such as 2026-05-01T00:00Z, or"
    " offsets of every partition such as features:0=1200,actions:0=5400. Refused where there is state to go on from.",
)
@click.option(
    "--recording",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Join this recording to Parquet files instead, for a batch stage; needs neither Kafka nor Flink.",
)
@click.option("--to", metavar="URI", help="Where the files of --recording go: a new folder, or any fsspec URL.")
@click.option("--requests", type=click.IntRange(min=1), help="Only the first so many requests of --recording.")
@click.option(
    "--max-lost",
    type=click.FloatRange(0, 1),
    help="Share of the requests or actions of --recording that may be refused, late, early or orphans; 0.01 by default.",
)
@click.option(
    "--keep-open-windows",
    is_flag=True,
    help="Keep rows of --recording whose label window had not ended at its end: they may be wrong negatives.",
)
@logged
@configured
@click.pass_context
def join(
    context: click.Context,
    config: RilletConfig,
    config_path: Path,
    until_latest: bool,
    drain: bool,
    start: str | None,
    recording: Path | None,
    to: str | None,
    requests: int | None,
    max_lost: float | None,
    keep_open_windows: bool,
) -> None:
    """Join features and actions into labelled examples, in a Flink of its own in this process.

    Every record counts exactly once: each start, bounded by --until-latest or not, goes on where the last one ended.
    Runs until it gets SIGTERM or Ctrl-C.
    """
    others = requests is not None or max_lost is not None or keep_open_windows
    if (recording is None) != (to is None) or (others and recording is None):
        raise click.UsageError(
            "--recording DIR and --to URI go together, and --requests, --max-lost and --keep-open-windows with them"
        )
    if recording is not None:
        if until_latest or drain or start:
            raise click.UsageError("--until-latest, --drain and --from are of a join of topics, not of --recording")
        # Services do not import what reads recordings; the root command hands it in.
        given = {"max_lost": max_lost} if max_lost is not None else {}
        context.obj["join_recording"](
            config=config, recording=recording, to=to, requests=requests, keep_open=keep_open_windows, **given
        )
        return
    logging.getLogger(__name__).info("rillet join starts: loading Flink")  # which takes seconds, on a busy machine many
    from rillet.connectors.start_positions import StartAt
    from rillet.jobs.join import run_join

    begin = None if start is None else _said(start, "--from", StartAt.parse)
    raise SystemExit(run_join(config, until_latest=until_latest, drain=drain, start=begin))


@click.command()
@click.option(
    "--from", "begin", metavar="TIME", required=True, help="Event time, such as 2026-05-01T00:00Z: from it on."
)
@click.option("--until", "end", metavar="TIME", required=True, help="Event time: up to and without it.")
@click.option(
    "--examples-topic",
    metavar="NAME",
    required=True,
    help="For the rows: a topic of its own, which is made if need be.",
)
@logged
@configured
def backfill(config: RilletConfig, config_path: Path, begin: str, end: str, examples_topic: str) -> None:
    """Join the requests of a range of time once more, into another topic, while the joiner goes on.

    Reads the raw topics from --from until the last label window of the range is closed, and writes the rows that a joiner
    of this configuration would have written of these requests. Stopped, it goes on when it is called again.
    """
    import time

    from rillet.connectors.start_positions import parse_time_ms
    from rillet.jobs.backfill import run_backfill
    from rillet.joiner import RequestRange

    first_ms, end_ms = _said(begin, "--from", parse_time_ms), _said(end, "--until", parse_time_ms)
    try:
        requests = RequestRange(first_ms, end_ms)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    raise SystemExit(run_backfill(config, requests, examples_topic, time.time_ns() // 1_000_000))


def _said(text: str, option: str, parse: Callable[[str], Meaning]) -> Meaning:
    try:
        return parse(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


@click.command()
@click.option("--until-latest", is_flag=True, help="Stop at the present end of the examples topic.")
@click.option(
    "--batch-from", metavar="URI", help="Learn from these files first: of `rillet dump` or `rillet join --recording`."
)
@click.option(
    "--then-online", is_flag=True, help="After the files go on with the topic, from the offsets that follow them."
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Passes over the files. More than one overfits: embeddings learn their rows by heart.",
)
@click.option(
    "--shuffle-rows",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Mix so many rows of the files among each other at a time; 0 keeps their order.",
)
@logged
@configured
def train(
    config: RilletConfig,
    config_path: Path,
    until_latest: bool,
    batch_from: str | None,
    then_online: bool,
    epochs: int,
    shuffle_rows: int,
) -> None:
    """Learn from examples as they come and publish what changed.

    Goes on where its last checkpoint ended. Runs until it gets SIGTERM or Ctrl-C.

    With --batch-from a new model learns from files first, and stops after them, with a base published and a checkpoint
    saved, or goes on with the topic (--then-online). Asked again, it goes on in the files where it was.
    """
    from rillet.jobs.train import run_train
    from rillet.pipelines.batch_stage import BatchOptions

    if batch_from is None and (then_online or epochs > 1 or shuffle_rows):
        raise click.UsageError("--then-online, --epochs and --shuffle-rows are of --batch-from URI")
    batch = BatchOptions(batch_from, epochs, shuffle_rows, then_online) if batch_from is not None else None
    raise SystemExit(run_train(config, until_latest=until_latest, batch=batch))


@click.command()
@logged
@configured
def serve(config: RilletConfig, config_path: Path) -> None:
    """Answer requests (Open Inference Protocol over HTTP) with the model as it is now.

    Logs the features that it served for the joiner. Runs until it gets SIGTERM or Ctrl-C.
    """
    from rillet.jobs.serve import run_serve

    raise SystemExit(run_serve(config) or 0)


@click.command()
@click.option("--to", metavar="URI", help="Where to: a folder or any fsspec URL; [dump] to by default.")
@click.option("--until-latest", is_flag=True, help="Stop at the present end of the examples topic.")
@logged
@configured
def dump(config: RilletConfig, config_path: Path, to: str | None, until_latest: bool) -> None:
    """Write the examples topic to Parquet files by hour, for batch stages and for analyses.

    Goes on where the files end; no row is lost or written twice. Runs until it gets SIGTERM or Ctrl-C.
    """
    from dataclasses import replace

    from rillet.jobs.dump import run_dump

    if to is not None:
        config = replace(config, dump=replace(config.dump, to=to if "://" in to else str(Path(to).absolute())))
    raise SystemExit(run_dump(config, until_latest=until_latest))
