"""The `rillet` command: the rooms' own commands under one name, also as ``python -m rillet``.

Here because only the root stands above all rooms. Heavy packages are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from rillet.demo.cli import demo
from rillet.devstack.cli import down, up
from rillet.jobs.cli import check_config, join, serve, status, topics, train
from rillet.recordings.cli import record, replay

USER_ERROR = 2


class _Commands(click.Group):
    """Turns a RilletError of any command into one line; lists commands in the order in which they were added."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Imported only now, so that --help needs neither NumPy nor Avro.
            from rillet.schemas import RilletError

            if not isinstance(error, RilletError):
                raise
            click.echo(f"rillet {ctx.invoked_subcommand}: {error}", err=True)
            ctx.exit(USER_ERROR)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


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


for command in (demo, up, down, status, topics, join, train, serve, record, replay, check_config):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
