"""How the mini-cluster's Java process is started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rillet.operators.mini_cluster import _start_java_apart


def test_java_holds_the_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A joiner that was killed leaves it for seconds, in which it may still complete a checkpoint."""
    from pyflink import pyflink_gateway_server

    monkeypatch.setattr(pyflink_gateway_server, "Popen", subprocess.Popen)
    path = tmp_path / "join.lock"
    with path.open("w") as lock:
        _start_java_apart(lock.fileno())
        java = pyflink_gateway_server.Popen(["sleep", "60"])
        try:
            assert path.resolve() in {link.resolve() for link in Path(f"/proc/{java.pid}/fd").iterdir()}
            assert os.getsid(java.pid) == java.pid
        finally:
            java.kill()
            java.wait()
