"""The requests on the page on the server's protocol, sent to a real server, get the answers on the page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from rillet.jobs.config import load_config
from rillet.schemas import make_fids
from rillet.serving.errors import RequestError
from tests.docs.commands import ROOT, blocks
from tests.serving.helpers import WIDTH, FakeModel, Linear, Running, empty_table, program, running_server

PAGE = ROOT / "docs" / "serving-protocol.md"
CONFIG = load_config(ROOT / "examples" / "producers" / "rillet.toml", environment={})
ADDRESS = f"127.0.0.1:{CONFIG.serving.port}"
PAIRS = list(zip(blocks(PAGE, "bash"), blocks(PAGE, "json"), strict=True))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Film 17 has the logit 0.5, film 23 has -1, whoever asks."""
    spec = CONFIG.load_spec()
    model = FakeModel(empty_table(), program(Linear(1), spec), version=3)
    rows = np.zeros((2, WIDTH), np.float32)
    rows[:, 0] = (0.5, -1.0)
    model.table.upsert(make_fids(16, [17, 23]), rows)
    with running_server(spec, model, name=CONFIG.model.name) as running:
        yield running


@pytest.mark.integration
@pytest.mark.parametrize(("command", "answer"), PAIRS, ids=["metadata", "scores", "error"])
def test_a_request_of_the_page_gets_the_answer_of_the_page(server: Running, command: str, answer: str) -> None:
    assert ADDRESS in command
    before = len(server.features.events)
    done = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, server.url)], capture_output=True, text=True, timeout=20, check=True
    )
    assert json.loads(done.stdout) == json.loads(answer)
    assert len(server.features.events) == before, "an example of the documents was logged as if it had been shown"


@pytest.mark.integration
def test_an_answer_says_whether_the_page_will_be_learned_from(server: Running) -> None:
    logged = PAIRS[1][0].replace('"log": false, ', "")
    for command, expected in ((logged, True), (PAIRS[1][0], False)):
        before = len(server.features.events)
        done = subprocess.run(
            ["bash", "-c", command.replace(ADDRESS, server.url)], capture_output=True, text=True, timeout=20, check=True
        )
        assert json.loads(done.stdout)["parameters"] == {"logged": expected}
        assert len(server.features.events) - before == expected


def test_every_status_of_a_refused_request_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for error in RequestError.__subclasses__():
        assert f"\n| {error.status} |" in text, error.__name__
