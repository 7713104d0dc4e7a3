"""``rillet check-config``: what a configuration says, and what would be made of records; nothing is started or changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.jobs.options import configured

if TYPE_CHECKING:
    from rillet.jobs.config import RilletConfig
    from rillet.schemas import FeatureSpec, History, Slot
    from rillet.sources import Kind


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

    With --sample or --from-topic records instead, as [sources] says how to read them. Status 1 if one does not fit, if no
    action is one that the feature spec asks for, or if a task asks for values and none of its actions has one.
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
    from rillet.sources.actions import tasks_of_values

    check_here(config, config_path, folders=not elsewhere)
    specs = config.load_specs()
    spec = specs.current
    schedule = SliceSchedule(spec, config.joiner)
    sources = describe_sources(specs, config.sources)
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
        wait = "" if task.negative_after_ms is None else f", negatives after {task.negative_after_ms / 1000:g} s"
        of = " or ".join(task.actions) + (f", {task.at_least}," if task.at_least else "")
        click.echo(f"task      {task.name}: action {of} within {window}, {rate}, labels {task.labels}{wait}")
    for source in sources:
        click.echo(f"source    {source}")
    actions = config.sources.actions
    for task in tasks_of_values(spec) if actions.format != "rillet" and not actions.value else ():
        click.echo(
            f"warning: task {task.name}: asks for a {task.at_least}, and [sources.actions] value names no path: it has"
            " negatives alone",
            err=True,
        )
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

    kafka, specs = config.kafka, config.load_specs()
    check = SampleCheck(
        specs.current,
        config.sources,
        click.echo,
        max_ahead_ms=config.joiner.max_ahead_ms,
        lateness_ms=config.flink.lateness_ms,
        also_accepts=specs.others,
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
    if history.action not in {name for task in spec.tasks for name in task.actions}:
        click.echo(
            f"warning: history {slot.name}: action {history.action} is no task's:"
            " the history stays empty unless applications send it",
            err=True,
        )
