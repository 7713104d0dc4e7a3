from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topics import create_topics, ensure_broker, topic_ends
from rillet.devstack.broker import Broker, start_broker
from rillet.jobs.errors import PortInUseError


def test_a_taken_port_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match=r"\[kafka\] bootstrap_servers"):
            start_broker(tmp_path, taken.getsockname()[1])
    assert not (tmp_path / "server.properties").exists()


@pytest.mark.integration
def test_a_killed_broker_comes_back_with_its_topics(tmp_path: Path) -> None:
    broker = start_broker(tmp_path)
    try:
        create_topics(broker.bootstrap_servers, {"kept": 3})
        broker.stop(kill=True)
        with pytest.raises(BrokerUnavailableError):
            ensure_broker(broker.bootstrap_servers, timeout_s=0.5)
        again = Broker(tmp_path, broker.port)
        again.start()
        assert set(topic_ends(again.bootstrap_servers, "kept") or {}) == {0, 1, 2}
        assert again.stop() is True
        assert not again.running
    finally:
        broker.stop(kill=True)
