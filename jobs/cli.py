"""Commands of the services, one each, and of what they share: topics, configuration, state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from rillet.jobs.options import configured, logged

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig
    from rillet.schemas import FeatureSpec, History, Slot
    from rillet.sources import Kind

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
    from rillet.jobs.join import run_backfill
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


@click.command("check-config")
@click.option(
    "--sample",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Show what would be made of the records in this file: JSON, one per line; an Avro container; one Avro message.",
)
@click.option("--topic", type=click.Choice(["features", "actions"]), help="Whose records those are.")
@click.option(
    "--from-topic",
    "newest",
    metavar="N",
    type=click.IntRange(min=1),
    help="Show what would be made of the newest N records of both topics, or of --topic.",
)
@click.option("--elsewhere", is_flag=True, help="The services run on another machine: do not look at data_dir here.")
@configured
def check_config(
    config: RilletConfig,
    config_path: Path,
    sample: Path | None,
    topic: Kind | None,
    newest: int | None,
    elsewhere: bool,
) -> None:
    """Check a configuration and its feature spec without starting anything.

    With --sample or --from-topic records instead, as [sources] says how to read them. Status 1 if one does not fit, or if no
    action is one that the feature spec asks for.
    """
    if sample is not None and topic is None:
        raise click.UsageError("--sample FILE needs --topic features or --topic actions")
    if topic is not None and sample is None and newest is None:
        raise click.UsageError("--topic is of --sample FILE or --from-topic N")
    if sample is not None or newest is not None:
        if elsewhere:
            raise click.UsageError("--elsewhere is of a check of the services, not of --sample or --from-topic")
        raise SystemExit(_check_samples(config, sample, topic, newest))
    from rillet.connectors.sample_check import describe_sources
    from rillet.jobs.config_checks import check_here
    from rillet.joiner import SliceSchedule
    from rillet.operators.memory import TaskMemory

    check_here(config, config_path, folders=not elsewhere)
    specs = config.load_specs()
    spec = specs.current
    schedule = SliceSchedule(spec, config.joiner)
    sources = describe_sources(spec, config.sources)
    click.echo(f"{config_path}: good")
    of_model = f", of the model {spec.model_hash:#x}" if spec.model_hash != spec.hash else ""
    click.echo(f"spec      {config.spec}: {spec.name}, hash {spec.hash:#x}{of_model}")
    for other in specs.others:
        click.echo(f"accepts   {other.name}, hash {other.hash:#x}: {_changes(other, spec)}")
    click.echo(f"slots     {', '.join(slot.name for slot in spec.slots)} ({len(spec.context)} of the context)")
    for slot in spec.histories:
        if slot.history is not None:
            _echo_history(spec, slot, slot.history)
    for cross in spec.crosses:
        click.echo(f"cross     {cross}")
    for dense in spec.dense:
        click.echo(f"dense     {dense.name}: transform {dense.transform}, standardised by the trainer")
    for task in spec.tasks:
        ms = task.window_ms
        window = f"{ms / 1000:g} s" if ms % 60_000 else f"{ms // 60_000:,} min"
        rule = task.rate_by_slot or task.rate_by_score
        rate = f"{task.negative_rate:g} of negatives" + (f" {rule}" if rule else "")
        click.echo(f"task      {task.name}: action {task.action} within {window}, {rate}, labels {task.labels}")
    for source in sources:
        click.echo(f"source    {source}")
    memory = partial(TaskMemory.of, config.joiner, config.flink, converted_topics=len(config.sources.converted))
    click.echo(f"memory    Flink below rillet join: {memory(subtasks=config.flink.parallelism)}")
    click.echo(f"          each TaskManager of a cluster: {memory()}")
    click.echo(f"slices    {schedule.slice_ms / 1000:g} s, {schedule.live_slices} alive at once")
    click.echo(f"model     {config.model.name}: {config.model.kind}, dim {config.model.dim}")
    kafka = config.kafka
    click.echo(f"kafka     {kafka.bootstrap_servers}: {', '.join(kafka.topic_partitions)}")
    # Names alone: a value may be a secret. Flink's are checked by being translated.
    for name, settings in (("client", kafka.client), ("flink", kafka.flink_settings)):
        if settings:
            click.echo(f"{name:10}{', '.join(settings)}")
    click.echo(f"store     {config.store_url}")
    click.echo(f"dump      {config.dump_url}")
    click.echo(f"data_dir  {config.data_dir}")


def _changes(other: FeatureSpec, spec: FeatureSpec) -> str:
    from rillet.schemas import compare

    return "; ".join(str(change) for change in compare(other, spec).changes)


def _check_samples(config: RilletConfig, sample: Path | None, topic: Kind | None, newest: int | None) -> int:
    """What becomes of a file's records and of the newest on the topics; 1 if one does not fit."""
    from rillet.connectors.sample_check import KINDS, SampleCheck

    kafka = config.kafka
    check = SampleCheck(
        config.load_spec(),
        config.sources,
        click.echo,
        max_ahead_ms=config.joiner.max_ahead_ms,
        lateness_ms=config.flink.lateness_ms,
    )
    if sample is not None and topic is not None:
        check.file(sample, topic)
    if newest is not None:
        for kind in KINDS if topic is None else (topic,):
            check.topic(kafka.connection, getattr(kafka.topics, kind), kind, newest)
    return 0 if check.conclude() else 1


def _echo_history(spec: FeatureSpec, slot: Slot, history: History) -> None:
    age = f"up to {history.max_age_ms / 60_000:g} min old" if history.max_age_ms else "of any age"
    values = f"the newest {slot.max_values} of {history.of} by action {history.action}"
    click.echo(f"history   {slot.name}: {values} per {history.by}, {age}")
    if history.action not in {task.action for task in spec.tasks}:
        click.echo(
            f"warning: history {slot.name}: action {history.action} is no task's:"
            " the history stays empty unless applications send it",
            err=True,
        )
