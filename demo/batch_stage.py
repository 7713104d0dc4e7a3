"""The batch stage of the demo: the product's own commands, on files of the same examples that the stream would hold."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rillet.demo.errors import DemoError
from rillet.devstack.stack import Stack
from rillet.jobs.toolchain import python_environment
from rillet.recordings import Recording

_JOIN_TIMEOUT_S = 900.0


def join_recording(stack: Stack, recording: Recording, requests: int, files: Path) -> None:
    """Joins the first requests of a recording into ``files``.

    :raises DemoError: it failed, or took too long.
    """
    log = stack.config.data_dir / "services" / "join-recording.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["--recording", str(recording.directory), "--requests", str(requests), "--to", str(files)]
    with log.open("wb") as out:
        try:
            subprocess.run(  # noqa: S603
                [*stack.command("join"), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=python_environment(),
                timeout=_JOIN_TIMEOUT_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise DemoError(f"rillet join --recording failed, see {log}: {error}") from error


def start_trainer(stack: Stack, files: Path | None) -> None:
    """Starts the trainer, which learns from ``files`` before it goes on with the topic; None for the topic alone."""
    batch = ["--batch-from", str(files), "--then-online"] if files is not None else []
    stack.process("train").start([*stack.command("train"), *batch], python_environment())
