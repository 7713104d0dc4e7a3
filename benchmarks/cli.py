"""`rillet bench`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.benchmarks.names import CONTESTANTS, PEER_LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rillet.benchmarks.join.figures import Measured
    from rillet.schemas.spec import LabelMode

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.group()
def bench() -> None:
    """Measure rillet beside the libraries that people would otherwise use.

    Ratios compare what ran in the same call, on this machine.
    """


@bench.command()
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME:REQUESTS",
    default=("movielens:100000", "movielens:250000", "synthetic:100000"),
    show_default=True,
    help="What to learn from; made where it is not there yet.",
)
@click.option("--peers", default="vw,river", show_default=True, help="Which libraries to run beside rillet.")
@click.option(
    "--vw", "vw_lines", multiple=True, metavar="LINE", help="Arguments of Vowpal Wabbit, instead of the grid."
)
@click.option("--river", "river_lines", multiple=True, metavar="JSON", help="Options of River, instead of the grid.")
@click.option(
    "--labels",
    multiple=True,
    type=click.Choice(PEER_LABELS),
    default=PEER_LABELS,
    show_default=True,
    help="When peers see which labels.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/bench"),
    show_default=True,
    help="Recordings, and the environment of the peers.",
)
@click.option("--json", "json_path", type=_PATH, help="Write figures, ratios and versions here.")
def learning(
    datasets: tuple[str, ...],
    peers: str,
    vw_lines: tuple[str, ...],
    river_lines: tuple[str, ...],
    labels: tuple[LabelMode, ...],
    data: Path,
    json_path: Path | None,
) -> None:
    """Quality as served and speed, beside Vowpal Wabbit and River.

    All learn from the same requests at the same delays. Each peer runs with every line of its grid, and is represented by
    its best. The peers are installed in an environment of their own.

    The grids take hours on large data sets; --vw, --river and --labels (repeated for more) name what to run instead:

    \b
      rillet bench learning --vw '-b 24 {crosses} --coin' --river '{"optimizer": "sgd", "lr": 0.05, "crosses": null}'

    {crosses} and null stand for the crosses of the feature spec.
    """
    from rich.console import Console

    from rillet.backtest.cli import check_writable
    from rillet.backtest.progress import show_progress
    from rillet.benchmarks.datasets import open_dataset
    from rillet.benchmarks.environment import peer_environment
    from rillet.benchmarks.learning import GRIDS
    from rillet.benchmarks.learning import learning as run

    libraries = tuple(name for name in peers.split(",") if name)
    for name in libraries:
        if name not in GRIDS:
            raise click.BadParameter(f"{name} is none of {', '.join(GRIDS)}", param_hint="--peers")
    check_writable(json_path)
    console = Console(stderr=True)
    prepared = {name: open_dataset(name, data) for name in datasets}
    python = peer_environment(data / "peers", libraries)
    with show_progress(console, "learning") as progress:
        grids = {**GRIDS, **{name: lines for name, lines in (("vw", vw_lines), ("river", river_lines)) if lines}}
        result = run(
            prepared,
            python,
            libraries=libraries,
            grids=grids,
            labels=labels,
            on_progress=progress,
            # A grid takes hours: what is known by then is not lost when it is stopped.
            on_figure=lambda figure: console.print(figure.line(), markup=False, highlight=False, soft_wrap=True),
        )
    for line in result.lines():
        click.echo(line)
    if json_path is not None:
        result.write(json_path)


@bench.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(CONTESTANTS),
    metavar="NAME",
    help=f"Run this contestant, repeated for more, instead of all: {', '.join(CONTESTANTS)}.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1_000),
    default=30_000,
    show_default=True,
    help="How many requests of 16 impressions to join; of less than some 15,000, Java's warming up is in the figures.",
)
@click.option(
    "--parallelism", type=click.IntRange(min=1), default=1, show_default=True, help="Subtasks of Flink's jobs."
)
@click.option("--latency/--no-latency", default=True, show_default=True, help="Measure how long an action takes, too.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=1), default=900.0, show_default=True, help="Seconds per run."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var/bench"),
    show_default=True,
    help="Recordings, the broker with its topics, and the environments of peers; used again by the next call.",
)
@click.option("--json", "json_path", type=_PATH, help="Write figures, ratios and versions here.")
def joiner(
    only: tuple[str, ...],
    requests: int,
    parallelism: int,
    latency: bool,
    timeout_s: float,
    data: Path,
    json_path: Path | None,
) -> None:
    """Speed, memory and latency of the join, beside Flink SQL, plain PyFlink and Quix Streams.

    Each contestant reads the same two topics of one broker, in processes of its own, and writes examples to Kafka exactly once:
    a positive with its action, one of ten negatives when the label window of two minutes has closed. The same impressions
    lie there twice: 16 per record, and one per record with a key of its own, which is what a join can read that keeps
    impressions apart.

    \b
      ours                rillet join with its defaults: thread mode, RocksDB state
      flink-sql           interval LEFT JOIN of Flink SQL, RocksDB state
      flink-sql-heap      the same, state in the Java heap
      plain-pyflink       state and timer per impression in a KeyedProcessFunction
      quixstreams         join_interval of Quix Streams, which has no negatives
      passthrough         no join: records go through a Python function of Flink, and one of five goes on
      ours-process        rillet join in process mode

    \b
      rillet bench joiner --requests 20000 --only ours --only flink-sql
      rillet bench joiner --json joiner.json

    Speed and CPU time are of the part between a quarter and 95 % of the recording, by the time at which the broker took the
    positives; start-up is before it. CPU time is of all processes of a contestant, without the broker and without Java's
    compilers, which are busy in the first minutes only; other work on the machine disturbs it less than impressions per second. All have to write the same number of positives; the command ends with status 1 where one does
    not, or fails.
    """
    from rich.console import Console

    from rillet.backtest.cli import check_writable
    from rillet.benchmarks.join.bench import JoinerBench, latency_lines, result_of, run_all, table_of
    from rillet.benchmarks.join.contestants import contestants
    from rillet.benchmarks.join.figures import ratios

    check_writable(json_path)
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    errors = Console(stderr=True)

    def say(line: str) -> None:
        errors.print(line, markup=False, highlight=False, soft_wrap=True)

    known = contestants()
    chosen = [contestant for name, contestant in known.items() if not only or name in only]
    bench = JoinerBench(data, requests, parallelism, timeout_s, say)

    def write(measured: Sequence[Measured]) -> None:
        # All of it takes half an hour: what is known by then is not lost when it is stopped.
        if json_path is not None:
            result_of(measured, chosen).write(json_path)

    measured, failed = run_all(bench, chosen, data, write, latency=latency)
    wide = Console(width=160) if not errors.is_terminal else Console()
    wide.print(table_of(measured, {name: contestant.what for name, contestant in known.items()}))
    for line in latency_lines(measured):
        click.echo(line)
    for name, ratio in ratios(measured).items():
        click.echo(f"{name:32} {ratio:8.2f}")
    for subject, why in failed.items():
        click.echo(f"{subject} failed: {why}", err=True)
    if failed or any(one.correct is False for one in measured):
        raise SystemExit(1)
