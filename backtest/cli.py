"""`rillet backtest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rillet.backtest.names import BASELINES

if TYPE_CHECKING:
    from rillet.backtest.report import BacktestReport

INTERRUPTED = 130
_PATH = click.Path(path_type=Path, dir_okay=False)


class _Interval(click.ParamType[int]):
    name = "interval"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from rillet.backtest.delays import parse_interval
        from rillet.jobs.errors import ConfigError

        if isinstance(value, int):
            return value
        try:
            return parse_interval(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("directory", metavar="RECORDING", type=click.Path(path_type=Path, exists=True, file_okay=False))
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
    help="A setting; several values, or several options with some, make a grid of every combination.",
)
@click.option("--requests", type=click.IntRange(min=10), help="Only the first so many requests.")
@click.option(
    "--judge-from",
    type=click.FloatRange(0, 0.95),
    default=0.2,
    show_default=True,
    help="Share of the requests after which scores are judged; the frozen model stops learning there.",
)
@click.option(
    "--baselines",
    metavar="NAMES",
    default=",".join(BASELINES),
    show_default=True,
    help="What is scored beside the first setting; none for nothing.",
)
@click.option("--commit", type=_Interval(), help="Event time between two commits of the joiner.")
@click.option("--publish", type=_Interval(), help="Event time between two publications of embedding rows.")
@click.option("--dense", type=_Interval(), help="Event time between two publications of the network's weights.")
@click.option("--apply", type=_Interval(), help="Event time from a publication to its being served.  [default: 0]")
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiply the configuration's intervals: for a recording that was driven so many times faster than it was made.",
)
@click.option("--by-slot", "slots", multiple=True, metavar="NAME", help="Also quality by the values of this slot.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs per setting under other seeds: from 2 on, differences of settings have intervals.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes of a grid; one per core by default.")
@click.option("--json", "json_path", type=_PATH, help="Write figures, differences, curves, slots and settings here.")
@click.option("--html", "html_path", type=_PATH, help="Write the report page here: one file, with all curves.")
def backtest(
    directory: Path,
    config_path: Path | None,
    settings: tuple[str, ...],
    requests: int | None,
    judge_from: float,
    baselines: str,
    commit: int | None,
    publish: int | None,
    dense: int | None,
    apply: int | None,
    speed: float,
    slots: tuple[str, ...],
    seeds: int,
    workers: int | None,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Run a recording through the whole loop in simulated time, and tell how good what was served would have been.

    Every request is scored by what would have been served at that moment: joined, trained and published by the
    production code at the configuration's intervals, in event time. Beside the model stand what it has to beat: itself
    frozen, logistic regression, popularity. Figures have 95 % intervals, differences to the first setting are paired.
    Two runs of one setting differ by the luck of their initial weights: --seeds 3 repeats each setting, so that the
    intervals of differences tell the one from the other.

    \b
    Is a wider embedding worth it?
      rillet backtest var/recordings/monday --set model.dim=8,16,32
    How much does it cost to publish less often? (--html draws AUC by interval)
      rillet backtest ... --set delays.publish=10s,1m,10m,1h,24h --html report.html
    Windows, rates and label modes of the feature spec:
      rillet backtest ... --set spec.tasks.watch.window_ms=600000,3600000
      rillet backtest ... --set spec.tasks.watch.labels=immediate,aligned,positives_first
    Which crosses of the spec that --config names pay?
      rillet backtest ... --set 'spec.crosses=[],["user_genre"],["user_genre","age_film"]'
    For whom is it good?
      rillet backtest ... --by-slot country

    KEY is one of the configuration (model.dim, table.learning_rate, trainer.batch_size ...), delays.commit, .publish,
    .dense or .apply, spec.sampling_seed, spec.crosses, spec.tasks.TASK. with window_ms, negative_rate, labels, late,
    early_ms or negative_after_ms, spec.context.HISTORY. with action, max_values or max_age_ms, or spec.dense.NAME.transform.
    Whatever a setting learns from, all are judged by the labels of the recording's own feature spec, on requests whose
    label window had closed when the recording ended. If the spec that --config names has other windows, rates, label
    modes, crosses, histories or transforms, they are what is learned from.

    Intervals are numbers with a unit (500ms, 10s, 1m, 2h, 1d), or 0: at once. They default to the configuration's
    [flink] checkpoint_interval_ms and [publisher] sparse_interval_s and dense_interval_s, times --speed.
    """

    from rich.console import Console

    from rillet.backtest.comparison import compare
    from rillet.backtest.progress import show_progress
    from rillet.backtest.settings import grid
    from rillet.backtest.slots import find_slot
    from rillet.backtest.specs import learned_spec, spec_changes
    from rillet.recordings import Recording

    console = Console(stderr=True, highlight=False)
    recording = Recording(directory)
    spec = recording.info.spec
    for path in (json_path, html_path):
        check_writable(path)
    for change in spec_changes(spec, learned_spec(spec, config_path)):
        console.print(f"learning as {config_path} says: {change}", markup=False, soft_wrap=True)
    for slot in slots:
        find_slot(spec, slot)
    delays = {"commit": commit, "publish": publish, "dense": dense, "apply": apply}
    setups = grid(
        spec,
        config_path,
        settings,
        delays={key: value for key, value in delays.items() if value is not None},
        speed=speed,
    )
    names = [name.strip() for name in baselines.split(",") if name.strip() not in ("", "none")]
    try:
        with show_progress(console, f"{len(setups)} settings" if len(setups) > 1 else "backtest") as progress:
            report = compare(
                recording,
                setups,
                requests=requests,
                judge_from=judge_from,
                baselines=names,
                seeds=seeds,
                workers=workers,
                on_progress=progress,
            )
        click.echo(report.table(slots))
        _write(report, slots, json_path, html_path)
    except KeyboardInterrupt:
        console.print("interrupted", markup=False)
        raise click.exceptions.Exit(INTERRUPTED) from None


def check_writable(path: Path | None) -> None:
    """Refuses a path for what a run gives before the run.

    :raises click.UsageError: a file cannot be written there; one that was there is left as it was.
    """
    if not path:
        return
    existed = path.exists()
    try:
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _write(report: BacktestReport, slots: tuple[str, ...], json_path: Path | None, html_path: Path | None) -> None:
    import json

    if json_path:
        json_path.write_text(json.dumps(report.to_json(slots), indent=2, allow_nan=False) + "\n", "utf-8")
    if html_path:
        html_path.write_text(report.to_html(slots), "utf-8")
