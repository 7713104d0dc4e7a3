"""What importing the client loads."""

from __future__ import annotations

import subprocess
import sys

SERVERS_LIBRARIES = {"torch", "starlette", "uvicorn", "numba", "safetensors", "confluent_kafka"}


def test_the_client_loads_the_protocol_and_nothing_else_of_the_server_and_none_of_its_libraries() -> None:
    code = "import sys, rillet.serving.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    of_serving = {name for name in loaded if name.startswith("rillet.serving.")}
    shared = {f"rillet.serving.{name}" for name in ("errors", "features", "protocol")}
    assert {name for name in of_serving if not name.startswith("rillet.serving.client")} <= shared
    assert not loaded & SERVERS_LIBRARIES
