"""The `rillet` command: the rooms' own commands under one name, also as ``python -m rillet``.

Here because only the root stands above all rooms. A command's module is imported when the command is asked for, so
that a service never loads what belongs to the demo or the local stack.
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from rillet.jobs.options import USER_ERROR

#: a library that not every installation has, and the extra that brings it
EXTRAS = {
    **dict.fromkeys(("pyflink", "rocksdict", "py4j"), "joiner"),
    **dict.fromkeys(("torch", "numba", "safetensors"), "trainer"),
    **dict.fromkeys(("starlette", "uvicorn", "uvloop", "httptools"), "serving"),
    **dict.fromkeys(("httpx2", "orjson"), "client"),
    "pyarrow": "batch",
    **dict.fromkeys(("jinja2", "matplotlib"), "backtest"),
}

#: what the operating system says of files and folders that somebody has to mend
_OPERATORS_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR)

#: command -> the module that has it, in the order of --help
COMMANDS = {
    "demo": "rillet.demo.cli",
    "up": "rillet.devstack.cli",
    "down": "rillet.devstack.cli",
    "reset": "rillet.devstack.cli",
    "status": "rillet.inspection.cli",
    "peek": "rillet.inspection.cli",
    "audit": "rillet.inspection.cli",
    "topics": "rillet.jobs.cli",
    "join": "rillet.jobs.cli",
    "backfill": "rillet.jobs.cli",
    "train": "rillet.jobs.cli",
    "serve": "rillet.jobs.cli",
    "dump": "rillet.jobs.cli",
    "record": "rillet.recordings.cli",
    "replay": "rillet.recordings.cli",
    "backtest": "rillet.backtest.cli",
    "bench": "rillet.benchmarks.cli",
    "check-config": "rillet.inspection.check_config",
    "spec": "rillet.jobs.spec_cli",
}


class _Commands(click.Group):
    """Finds commands by :data:`COMMANDS`; turns a RilletError of any command into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        # Benchmarks belong to the source tree: a wheel has none.
        return [name for name in COMMANDS if name != "bench" or find_spec("rillet.benchmarks")]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(COMMANDS[name]), name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            click.echo(
                f"rillet {ctx.invoked_subcommand}: {error.name} is not installed: pip install 'rillet[{extra}]'",
                err=True,
            )
            ctx.exit(USER_ERROR)
        except OSError as error:
            if error.errno not in _OPERATORS_ERRNOS or not error.filename:
                raise
            click.echo(f"rillet {ctx.invoked_subcommand}: {error.filename}: {error.strerror}", err=True)
            ctx.exit(USER_ERROR)
        except Exception as error:
            # Imported only now, so that --help needs neither NumPy nor Avro.
            from rillet.schemas import RilletError

            if not isinstance(error, RilletError):
                raise
            click.echo(f"rillet {ctx.invoked_subcommand}: {error}", err=True)
            ctx.exit(USER_ERROR)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rillet", prog_name="rillet")
@click.pass_context
def main(context: click.Context) -> None:
    """Real-time recommendation learning: what a user did a minute ago changes what is served next.

    \b
      features, actions --> join --> examples --> train --> deltas --> serve
            ^                                                            |
            +------------------- features as served ---------------------+

    \b
    See it work:            rillet demo
    Run it on this machine: rillet up, rillet status, rillet down
    See what flows:         rillet status --watch, rillet peek features
    Check what was joined:  rillet audit
    Run one service:        rillet join | train | serve | dump --config rillet.toml
    Start over:             rillet reset
    On a Flink cluster:     flink run -py jobs/joiner_job.py --config rillet.toml

    \b
    Exit status: 0 done, or a service that was told to stop (SIGTERM, Ctrl-C); 1 interrupted or not confirmed, or a bug,
    with its traceback; 2 something to mend, said in one line on stderr; 3 specs that `rillet spec diff` finds incompatible.
    """
    context.obj = {"join_recording": _join_recording}


def _join_recording(**arguments: Any) -> None:
    """What ``rillet join --recording`` does, of which the join that is a service knows nothing."""
    from rillet.recordings.join import run_join_recording

    run_join_recording(**arguments)


if __name__ == "__main__":
    sys.exit(main())
