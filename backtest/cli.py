"""`rillet backtest`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Configuration file; without one every setting has its default.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=V1[,V2...]",
    help="A setting of the configuration, such as model.dim=8,16. Several values make a grid.",
)
@click.option("--requests", type=click.IntRange(min=10), help="Only the first so many requests.")
@click.option(
    "--judge-from",
    type=click.FloatRange(0, 0.95),
    default=0.2,
    show_default=True,
    help="Share of the requests after which scores are judged; the frozen model stops learning there.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes of a grid; one per core by default.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures here."
)
def backtest(
    directory: Path,
    config_path: Path | None,
    settings: tuple[str, ...],
    requests: int | None,
    judge_from: float,
    workers: int | None,
    json_path: Path | None,
) -> None:
    """Run the recording in DIRECTORY through the whole loop in simulated time.

    Every request is scored by what would have been served at that moment: joined, trained and published with the
    production code at the configuration's intervals, in event time. Beside the model stand what it has to beat:
    itself frozen, and popularity. Figures have 95 % intervals.
    """
    import json
    import os

    from rich.console import Console

    from rillet.backtest.grid import parse_grid, run_grid
    from rillet.jobs.config import read_tables

    console = Console(stderr=True, highlight=False)
    raw = read_tables(config_path) if config_path else {}
    raw["spec"] = str(directory / "recording.json")  # the recording's own spec is used
    variants = parse_grid(settings)
    with console.status(f"{len(variants)} run(s) over {directory}"):
        report = run_grid(
            directory,
            raw,
            variants,
            requests=requests,
            judge_from=judge_from,
            workers=workers or os.cpu_count() or 1,
            on_done=lambda done, total: console.print(f"{done} of {total} runs done", markup=False),
        )
    click.echo(report.table())
    if json_path:
        json_path.write_text(json.dumps(report.to_json(), indent=2) + "\n", "utf-8")
