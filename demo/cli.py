"""`rillet demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
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
    writes a report. Ends with status 1 when the audit finds any fault, or a request was not logged.
    """
    from rillet.demo.run import run_demo

    raise SystemExit(run_demo(requests=requests, recording=recording, dataset=dataset, out=out))
