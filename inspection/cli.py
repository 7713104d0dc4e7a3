"""Commands to look with: ``rillet status``, ``rillet peek`` and ``rillet audit``. They change nothing."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rillet.jobs.options import USER_ERROR, configured

if TYPE_CHECKING:
    from rillet.inspection.facts import LoopFacts
    from rillet.jobs.config import RilletConfig

_EVERY_S = 2.0
#: of output that is no terminal
_WIDTH = 140
_KINDS = ("features", "actions", "examples", "deltas", "dead-letters")


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one per look, each on a line.")
@configured
def status(config: RilletConfig, config_path: Path, watch: bool, as_json: bool) -> None:
    """Show the whole loop: services, topics, lags, open windows, quality, freshness, dead letters, last errors.

    Asks the addresses of the configuration, whoever started what runs there. Services are shown with the broker away, too.

    Exit status: 0 if the broker answers and every service that has a port is ready, 1 if not, 2 if the configuration
    cannot be used. With --watch it is that of the last look.
    """
    import json
    import time

    from rich.console import Console
    from rich.live import Live

    from rillet.inspection.facts import to_json
    from rillet.inspection.gather import LoopGatherer
    from rillet.inspection.screen import screen

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)

    facts: LoopFacts | None = None

    def show() -> None:
        if facts is not None and as_json:
            click.echo(json.dumps(to_json(facts), allow_nan=False))
        elif facts is not None:
            console.print(screen(facts))

    on_screen = watch and console.is_terminal and not as_json
    with (
        LoopGatherer(config) as gatherer,
        suppress(*([KeyboardInterrupt] if watch else [])),  # Ctrl-C is how --watch is ended
        Live(console=console, screen=True, auto_refresh=False) if on_screen else nullcontext() as live,
    ):
        while True:
            facts = gatherer.look()
            if live is None:
                show()
            else:
                live.update(screen(facts), refresh=True)
            if not watch:
                break
            time.sleep(_EVERY_S)
    if on_screen:  # the last look stays
        show()
    raise SystemExit(0 if facts is not None and facts.ready else 1)


@click.command()
@click.argument("topic", type=click.Choice(_KINDS), required=False)
@click.option("-n", "--count", type=click.IntRange(min=0), default=10, show_default=True, help="The newest N records.")
@click.option("--follow", "-f", is_flag=True, help="Then show records as they come, until Ctrl-C.")
@click.option(
    "--request",
    "request_id",
    metavar="ID",
    help="What there is of this request: its page, its actions, its examples and its dead letters; of all topics or of one.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Rows that are shown of a block of examples or of the delta log; 0 for all.",
)
@click.option(
    "--search",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="How many of the newest offsets of a partition --request looks through.",
)
@click.option("--full", is_flag=True, help="Show refused records and long texts whole instead of how they begin.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per record, on a line of its own.")
@configured
@click.pass_context
def peek(
    context: click.Context,
    config: RilletConfig,
    config_path: Path,
    topic: Any,
    count: int,
    follow: bool,
    request_id: str | None,
    rows: int,
    search: int,
    full: bool,
    as_json: bool,
) -> None:
    """Show records of a topic, decoded: names of the feature spec instead of fids, times with their ages.

    A record that cannot be decoded is shown with the reason. Exit status: 1 if --request finds nothing.
    """
    from rillet.inspection.peek import Peek, kinds_of_request

    if topic is None and request_id is None:
        raise click.UsageError(f"name a topic ({', '.join(_KINDS)}), or a request with --request ID")
    if request_id is not None and (follow or topic == "deltas"):
        raise click.UsageError("--request looks through what there is: no --follow; deltas know of no requests")
    ignored = {"search": "--search"} if request_id is None else {"count": "-n", "rows": "--rows"}
    for name, option in ignored.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option} is of --request ID"
                if request_id is None
                else f"--request shows all that there is of the request: no {option}; --search N says how far back to look"
            )

    def tell(line: str) -> None:
        click.echo(line, err=True)

    looking = Peek(config, rows=rows or None, full=full, as_json=as_json, show=click.echo, tell=tell)
    if request_id is None:
        # Ctrl-C is how --follow is ended.
        with suppress(*([KeyboardInterrupt] if follow else [])):
            looking.newest(topic, count, then_follow=follow)
    elif not looking.request(request_id, kinds_of_request(topic), search):
        tell(f"request {request_id}: nothing was found")
        raise SystemExit(1)


@click.command()
@click.option(
    "--allowed-late",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many positives may be missing as late: what rillet_joiner_late_actions_total counted.",
)
@click.option(
    "--also-accepts",
    "spec_paths",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A feature spec file that the joiner had before, besides also_accepts of the configuration. May be repeated.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the report here, too."
)
@configured
def audit(
    config: RilletConfig,
    config_path: Path,
    allowed_late: int,
    spec_paths: tuple[Path, ...],
    json_path: Path | None,
) -> None:
    """Check the examples topic: every row that the raw topics ask for is there, once, and right.

    Joins features and actions anew, plainly and in memory (some 350 bytes per impression), and compares all rows. The rows
    of open windows have to be on the topic, so close the windows first:

    \b
      1. stop the traffic
      2. rillet down, or stop the joiner wherever it runs
      3. rillet up --broker-only, where the broker is one of rillet up
      4. rillet join --until-latest --drain
      5. rillet audit

    Where the feature spec was changed under traffic, each request is judged under the spec that it was joined under, as long
    as the old one is in also_accepts or named with --also-accepts.

    A drain closes windows early: actions that come later for pages from before it are lost (docs/join.md, rule 15).

    Exit status: 0 if all rows are there, once, right; 1 if not; 2 if the topics cannot be read or hold no event.
    """
    import json
    from dataclasses import asdict, replace

    from rillet.audit.comparison import audit_topics

    topics = config.kafka.topics
    if json_path is not None:
        json_path.touch()  # before minutes of work, of which nothing would be left
    specs = replace(config, also_accepts=(*config.also_accepts, *spec_paths)).load_specs()
    report, _ = audit_topics(
        config.kafka.connection,
        specs.current,
        also_accepts=specs.others,
        features=topics.features,
        actions=topics.actions,
        examples=topics.examples,
        sources=config.sources,
        max_ahead_ms=config.joiner.max_ahead_ms,
        lateness_ms=config.flink.lateness_ms,
        allowed_late=allowed_late,
    )
    if json_path is not None:
        json_path.write_text(json.dumps({"ok": report.ok, **asdict(report)}, indent=2) + "\n", "utf-8")
    for line in report.lines():
        click.echo(line)
    if not (report.requests or report.actions or report.unusable_events):
        click.echo(
            f"rillet audit: topics {topics.features} and {topics.actions} hold no event: nothing to audit", err=True
        )
        raise SystemExit(USER_ERROR)
    if report.lost and not report.unknown_specs:
        click.echo(
            "rows of windows that are still open count as lost: see `rillet audit --help` for how to close them first",
            err=True,
        )
    raise SystemExit(0 if report.ok else 1)
