"""Services end with status 0 when they are told to, also before they have begun, and alone or as a process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs.film_spec import SPEC


@pytest.mark.integration
@pytest.mark.parametrize(
    ("service", "number"), [("train", signal.SIGTERM), ("serve", signal.SIGINT), ("dump", signal.SIGTERM)]
)
def test_a_service_that_waits_for_a_broker_says_so_and_ends_when_told_to(
    tmp_path: Path, service: str, number: signal.Signals
) -> None:
    (tmp_path / "films.spec.toml").write_text(SPEC)
    path = tmp_path / "rillet.toml"
    path.write_text('spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    command = [sys.executable, "-m", "rillet", service, "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "WARNING no Kafka broker answers at 127.0.0.1:1 yet" in line
        begun = time.monotonic()
        os.killpg(process.pid, number)
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 10
        assert "Traceback" not in process.stderr.read()
