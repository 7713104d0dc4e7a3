from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rillet.devstack import ports
from rillet.devstack.ports import holder_of, require_free_port
from rillet.devstack.process import free_port
from rillet.jobs.errors import PortInUseError, ServiceError

LISTENER = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(60)"


def test_a_taken_port_is_refused_with_its_holder_and_the_setting_to_change() -> None:
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            with pytest.raises(PortInUseError) as caught:
                require_free_port(port, "[serving] port")
            found = holder_of(port)
        finally:
            other.kill()
    told = str(caught.value)
    assert told.startswith(f"port {port} is in use by process {other.pid} ({sys.executable} -c import socket")
    assert told.endswith("...): stop it, or choose another with [serving] port")
    assert found is not None
    assert (found.pid, found.command) == (other.pid, " ".join(command))
    require_free_port(port, "[serving] port")


def test_where_the_holder_cannot_be_told_the_port_is_refused_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_listening", lambda port: iter(()))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            PortInUseError, match=rf"port {port} is in use: stop what listens there, .* \[serving\] port"
        ):
            require_free_port(port, "[serving] port", "0.0.0.0")  # noqa: S104  every address of this machine


def test_a_listener_on_every_address_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        found = holder_of(taken.getsockname()[1])
        assert found is not None
        assert found.pid == os.getpid()
    assert holder_of(free_port()) is None


def test_an_address_of_another_machine_is_told_as_such() -> None:
    with pytest.raises(
        ServiceError, match=r"port \d+ on 192\.0\.2\.1 cannot be listened on .*\[health\] join_port or the"
    ):
        require_free_port(free_port(), "[health] join_port", "192.0.2.1")
