"""Fixtures for tests that need the real thing: one broker a test session, and topics of one's own on it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from rillet.connectors.topics import create_topics
from rillet.devstack.broker import Broker, start_broker


def pytest_configure(config: pytest.Config) -> None:
    """A terminated run still unwinds its fixtures, so that no broker outlives its tests; torch has one thread.

    The services set their own number of threads. Here, batches are so small that more threads only spin.

    Java's optimising compiler is off: a broker or a Flink job lives for half a minute here, and would spend half of its
    time on being compiled for hours to come.
    """
    # `make unit` tries fewer examples than `make test`. How long one takes depends on what else the machine does.
    settings.register_profile("thorough", deadline=None)
    settings.register_profile("quick", max_examples=30, deadline=None)
    if config.getoption("hypothesis_profile") is None:
        settings.load_profile("thorough")
    # Imports and collection make a million objects and next to no garbage: looking for it takes a quarter of their time.
    gc.disable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    _interrupt_on_signals()


def _interrupt_on_signals() -> None:
    # SIGINT too: a shell's background job has it ignored, and by it a worker learns that its run is over.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _process_settings() -> Iterator[None]:
    """What a service sets for its process does not outlive the test that started one in this process.

    It flushes denormals to zero, and takes signals for itself.
    """
    yield
    if threading.current_thread() is threading.main_thread():
        _interrupt_on_signals()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with integration tests come first: most of their time they wait, and what computes fills the gaps at the end.

    With several workers, a file that takes a minute must not be the last one.
    """
    waiting = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in waiting)


def pytest_collection_finish() -> None:
    """Three things that would take seconds of a run.

    A million objects of libraries and tests live as long as the run: collections do not walk through them, and come
    less often. Torch has one thread: a folder's conftest may have loaded it before the environment said so. Torch's
    loggers do not propagate: pytest would attach its handlers to each of sixty, six times per test.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
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
