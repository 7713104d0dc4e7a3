"""What code written for applications runs on in tests: a server and a broker that are there only for it."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Self

import httpx2

from rillet.connectors.connection import KafkaConnection
from rillet.schemas import ActionEvent, decode_as, encode
from rillet.serving.client import Client
from tests.serving.fake_server import FakeServer


def client_of(server: FakeServer) -> Any:
    """Stands in for the class ``Client``: its clients reach ``server``, whatever their address."""
    return partial(Client, transport=httpx2.MockTransport(server))


class FakeActions:
    """Stands in for the class ``EventProducer``; ``made`` holds every producer since it was last cleared."""

    made: ClassVar[list[FakeActions]] = []

    def __init__(self, kafka: KafkaConnection | str, topic: str) -> None:
        self.kafka, self.topic = KafkaConnection.of(kafka), topic
        self.sent: list[ActionEvent] = []
        self.acknowledged = 0
        self.closed = False
        self.made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()
        self.close()

    def submit(self, event: ActionEvent) -> None:
        assert not self.closed
        self.sent.append(decode_as(ActionEvent, encode(event)))  # as the real one: what cannot be written fails here

    def flush(self, timeout_s: float = 30.0) -> None:
        self.acknowledged = len(self.sent)

    def close(self) -> None:
        self.closed = True
