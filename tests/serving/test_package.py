"""What importing the client loads."""

from __future__ import annotations

import subprocess
import sys


def test_the_client_loads_the_protocol_and_nothing_else_of_the_server() -> None:
    code = (
        "import sys, rillet.serving.client; "
        "print(*(name for name in sys.modules if name.startswith('rillet.serving.')"
        " and not name.startswith('rillet.serving.client')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shared = {f"rillet.serving.{name}" for name in ("errors", "features", "protocol")}
    assert set(done.stdout.split()) <= shared
