"""Fixtures for tests that need the real thing: one broker a test session, and topics of one's own on it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rillet.connectors.topics import create_topics
from rillet.devstack.broker import Broker, start_broker


def pytest_configure() -> None:
    """A terminated run still unwinds its fixtures, so that no broker outlives its tests; torch has one thread.

    The services set their own number of threads. Here, batches are so small that more threads only spin.
    """
    # `make unit` tries fewer examples than `make test`.
    settings.register_profile("quick", max_examples=30)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """A service flushes denormals to zero in its process; what runs after a test that started one must not."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


def pytest_collection_finish() -> None:
    """Two things that would take seconds of a run.

    A million objects of libraries and tests live as long as the run: collections do not walk through them. Torch's
    loggers do not propagate: pytest would attach its handlers to each of sixty, six times per test.
    """
    gc.freeze()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch"):
            logging.getLogger(name).propagate = True


@pytest.fixture(scope="session")
def broker_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker of the session as a process. A test that stops it must start it again."""
    folder: Path = tmp_path_factory.mktemp("broker")
    broker = start_broker(folder)
    try:
        yield broker
    finally:
        broker.stop(kill=True)


@pytest.fixture(scope="session")
def broker(broker_process: Broker) -> str:
    """Bootstrap servers of a real KRaft broker."""
    return broker_process.bootstrap_servers


@pytest.fixture
def topics(broker: str) -> Callable[..., str]:
    """``topics("features", partitions=2)`` makes a fresh topic and returns its name."""

    def make(name: str = "topic", partitions: int = 1) -> str:
        unique = f"{name}-{uuid.uuid4().hex[:8]}"
        create_topics(broker, {unique: partitions})
        return unique

    return make
