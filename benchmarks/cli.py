"""`rillet bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.benchmarks.names import PEER_LABELS

if TYPE_CHECKING:
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
    from rillet.benchmarks.environment import PACKAGES, peer_environment
    from rillet.benchmarks.learning import GRIDS
    from rillet.benchmarks.learning import learning as run

    libraries = tuple(name for name in peers.split(",") if name)
    for name in libraries:
        if name not in PACKAGES:
            raise click.BadParameter(f"{name} is none of {', '.join(PACKAGES)}", param_hint="--peers")
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
