"""What importing the package loads: each name its own module, and the client nothing of the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rillet.serving


def test_the_client_loads_the_protocol_and_nothing_else_of_the_server() -> None:
    code = (
        "import sys, rillet.serving.client; "
        "print(*(name for name in sys.modules if name.startswith('rillet.serving.')"
        " and not name.startswith('rillet.serving.client')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shared = {f"rillet.serving.{name}" for name in ("errors", "features", "protocol")}
    assert set(done.stdout.split()) <= shared


def test_every_public_name_can_be_had_and_no_other() -> None:
    for name in rillet.serving.__all__:
        assert getattr(rillet.serving, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = rillet.serving.nothing
