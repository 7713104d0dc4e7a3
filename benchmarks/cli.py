"""`rillet bench`."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(path_type=Path, dir_okay=False)


@click.group()
def bench() -> None:
    """Measure rillet beside the libraries that people would otherwise use.

    Ratios compare what ran in the same call, on this machine.
    """


@bench.command()
@click.option(
    "--recording",
    "directories",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A recording, with --config for each; without any, MovieLens-1M at 100,000 and 250,000 requests, and a synthetic one.",
)
@click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--requests", type=click.IntRange(min=100), help="Only the first so many of each recording.")
@click.option("--peers", default="vw,river", show_default=True, help="Which to run.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path("var/bench"), show_default=True)
@click.option("--json", "json_path", type=_PATH, help="Write figures, ratios and versions here.")
def learning(
    directories: tuple[Path, ...],
    configs: tuple[Path, ...],
    requests: int | None,
    peers: str,
    data: Path,
    json_path: Path | None,
) -> None:
    """Quality as served and speed, beside Vowpal Wabbit and River.

    All learn from the same joined rows at the same delays. The peers are installed in an environment of their own.
    """
