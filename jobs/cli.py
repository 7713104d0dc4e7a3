"""The `rillet` command. Parses arguments and hands over; heavy packages are imported inside the commands.

Whatever the user can mend (any RilletError) ends as one line on stderr and exit status 2; anything else
is a bug and shows its traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas import RilletError

if TYPE_CHECKING:
    from jobs.config import RilletConfig
    from jobs.local.stack import Stack

USER_ERROR = 2


class _Commands(click.Group):
    """Turns a RilletError of any command into one line; lists commands in the order of their declaration."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RilletError as error:
            click.echo(f"rillet {ctx.invoked_subcommand}: {error}", err=True)
            ctx.exit(USER_ERROR)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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
        from jobs.config import load_config

        config = load_config(config_path, bootstrap_servers)
        return command(config=config, config_path=config_path.absolute(), **arguments)

    return load


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rillet", prog_name="rillet")
def main() -> None:
    """Real-time recommendation learning: what a user did a minute ago changes what is served next.

    \b
      features, actions --> join --> examples --> train --> deltas --> serve
            ^                                                            |
            +------------------- features as served ---------------------+

    \b
    See it work:            rillet demo
    Run it on this machine: rillet up, rillet status, rillet down
    Run one service:        rillet join | train | serve --config rillet.toml
    On a Flink cluster:     flink run -py jobs/joiner_job.py --config rillet.toml
    """


@main.command()
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="How many requests to drive it with; 50,000 by default, or all of a recording.",
)
@click.option(
    "--recording",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A recording made by `rillet record`, instead of a data set.",
)
@click.option("--dataset", type=click.Choice(["movielens", "synthetic"]), default="movielens", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    show_default=True,
    help="Where report.json and report.html go.",
)
def demo(requests: int | None, recording: Path | None, dataset: str, out: Path) -> None:
    """Run the whole loop on real data, and audit it.

    Starts a broker, the joiner, the trainer and a server on this machine, drives them with a recording and
    writes a report. Ends with status 1 when the audit finds an example lost, duplicated or mislabelled.
    """
    from jobs.demo.run import run_demo

    raise SystemExit(run_demo(requests=requests, recording=recording, dataset=dataset, out=out))


@main.command()
@configured
def up(config: RilletConfig, config_path: Path) -> None:
    """Start broker, joiner, trainer and server as processes of this machine.

    Starts what does not run yet, and returns when all of it is ready. Logs and pid files lie in data_dir.
    """
    from jobs.local.stack import up as start_all

    start_all(_stack(config, config_path), click.echo)


@main.command()
@configured
def down(config: RilletConfig, config_path: Path) -> None:
    """Stop what `rillet up` started; nothing that was learnt is lost."""
    from jobs.local.stack import down as stop_all

    stop_all(_stack(config, config_path), click.echo)


@main.command()
@configured
def status(config: RilletConfig, config_path: Path) -> None:
    """Show what runs, what is ready, and how far each topic has got."""
    from jobs.status import run_status

    for line in run_status(_stack(config, config_path)):
        click.echo(line)


@main.command()
@configured
def topics(config: RilletConfig, config_path: Path) -> None:
    """Make the topics that are not there yet, kept without a time limit."""
    from jobs.kafka import create_topics

    kafka = config.kafka
    made = create_topics(kafka.bootstrap_servers, kafka.topic_partitions, replication=kafka.replication)
    for name, partitions in kafka.topic_partitions.items():
        click.echo(f"{name:14}{partitions:>3} partitions, {'made' if name in made else 'was there'}")


@main.command()
@click.option("--until-latest", is_flag=True, help="Stop at the present ends of the topics, closing every window.")
@click.option(
    "--drain", is_flag=True, help="When stopped, close every open window instead of keeping it for a restart."
)
@configured
def join(config: RilletConfig, config_path: Path, until_latest: bool, drain: bool) -> None:
    """Join features and actions into labelled examples, in a Flink of its own in this process.

    Every record counts exactly once, also over restarts. Runs until it gets SIGTERM or Ctrl-C.
    """
    from jobs.join import run_join

    _log_to_stderr()
    raise SystemExit(run_join(config, until_latest=until_latest, drain=drain))


@main.command()
@click.option("--until-latest", is_flag=True, help="Stop at the present end of the examples topic.")
@configured
def train(config: RilletConfig, config_path: Path, until_latest: bool) -> None:
    """Learn from examples as they come and publish what changed.

    Goes on where its last checkpoint ended. Runs until it gets SIGTERM or Ctrl-C.
    """
    from jobs.train import run_train

    _log_to_stderr()
    raise SystemExit(run_train(config, until_latest=until_latest))


@main.command()
@configured
def serve(config: RilletConfig, config_path: Path) -> None:
    """Answer requests (Open Inference Protocol over HTTP) with the model as it is now.

    Logs the features that it served for the joiner. Runs until it gets SIGTERM or Ctrl-C.
    """
    from jobs.serve import run_serve

    _log_to_stderr()
    raise SystemExit(run_serve(config) or 0)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@configured
def record(config: RilletConfig, config_path: Path, directory: Path) -> None:
    """Write what is on the features and actions topics to a recording in DIRECTORY."""
    from jobs.recordings.record import record as write

    topics = config.kafka.topics
    recorded = write(
        config.kafka.bootstrap_servers,
        directory,
        config.load_spec(),
        features=topics.features,
        actions=topics.actions,
    )
    click.echo(f"{directory}: {recorded.info.requests:,} requests, {recorded.info.actions:,} actions")
    if recorded.dead_letters:
        click.echo(f"{recorded.dead_letters:,} records could not be used, see dead_letters.jsonl there", err=True)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--speed", default="max", show_default=True, help="1x is recorded time, 100x a hundred times faster, or max."
)
@click.option("--requests", type=click.IntRange(min=1), help="Only the first so many requests.")
@configured
def replay(config: RilletConfig, config_path: Path, directory: Path, speed: str, requests: int | None) -> None:
    """Send the recording in DIRECTORY to the features and actions topics."""
    from jobs.recordings.format import Recording
    from jobs.recordings.replay import parse_speed
    from jobs.recordings.replay import replay as send

    kafka = config.kafka
    sent = send(
        Recording(directory),
        kafka.bootstrap_servers,
        speed=parse_speed(speed),
        features=kafka.topics.features,
        actions=kafka.topics.actions,
        partitions=kafka.partitions,
        requests=requests,
    )
    click.echo(f"sent {sent.features:,} features and {sent.actions:,} actions in {sent.wall_s:.1f} s")


@main.command("check-config")
@configured
def check_config(config: RilletConfig, config_path: Path) -> None:
    """Check a configuration and its feature spec without starting anything."""
    from joiner import Timeline

    spec = config.load_spec()
    timeline = Timeline(spec, config.joiner)
    click.echo(f"{config_path}: good")
    click.echo(f"spec      {config.spec}: {spec.name}, hash {spec.hash:#x}")
    click.echo(f"slots     {', '.join(slot.name for slot in spec.slots)} ({len(spec.context)} of the context)")
    for task in spec.tasks:
        window = f"{task.window_ms / 60_000:g} min"
        click.echo(f"task      {task.name}: action {task.action} within {window}, {task.negative_rate:g} of negatives")
    click.echo(f"slices    {timeline.slice_ms / 1000:g} s, {timeline.live_slices} alive at once")
    click.echo(f"model     {config.model.name}: {config.model.kind}, dim {config.model.dim}")
    click.echo(f"kafka     {config.kafka.bootstrap_servers}: {', '.join(config.kafka.topic_partitions)}")
    click.echo(f"store     {config.store_url}")
    click.echo(f"data_dir  {config.data_dir}")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")


def _stack(config: RilletConfig, config_path: Path) -> Stack:
    from jobs.local.stack import Stack

    return Stack(config, config_path)


if __name__ == "__main__":
    main()
