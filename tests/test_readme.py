"""What the README shows as code runs, and what it says of options and variables is so."""

from __future__ import annotations

import re
import shlex
from itertools import chain
from pathlib import Path

import click
import pytest

from rillet.__main__ import main
from rillet.jobs.config import BOOTSTRAP_VARIABLE, load_config
from rillet.recordings import Recording
from rillet.recordings.histories import HistoryFiller
from rillet.schemas import FeatureEvent, load_spec, value_of
from rillet.serving.client import Client
from tests.docs.commands import ROOT, blocks, commands
from tests.examples.fakes import FakeActions, client_of
from tests.serving.fake_server import FakeServer


def inline(path: Path) -> list[str]:
    """Code within the text."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S)
    return re.findall(r"`([^`\n]+)`", text)


def test_the_readme_shows_the_two_commands_first() -> None:
    assert commands(ROOT / "README.md")[:2] == ["make demo", "make test"]


def test_what_the_text_says_of_the_demo_are_options_of_it() -> None:
    arguments = [re.search(r'ARGS="([^"]*)"', code) for code in inline(ROOT / "README.md")]
    given = [shlex.split(match.group(1)) for match in arguments if match]
    assert given, "the README names no arguments of the demo any more"
    command = main.get_command(click.Context(main), "demo")
    assert command is not None
    for one in given:
        command.make_context("demo", one)


def test_the_variable_that_the_text_names_is_the_one_that_is_read() -> None:
    assert [code for code in inline(ROOT / "README.md") if code.startswith("RILLET_")] == [BOOTSTRAP_VARIABLE]


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server and the broker of the README's code."""
    config = load_config(ROOT / "examples" / "films" / "rillet.toml", environment={})
    server = FakeServer(config.load_spec(), config.model.name)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("rillet.serving.client.Client", client_of(server))
    monkeypatch.setattr("rillet.connectors.producers.EventProducer", FakeActions)
    FakeActions.made.clear()
    return server


def test_the_readmes_code_asks_the_server_and_reports_an_action(films: FakeServer) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    (request,) = films.scored
    (producer,) = FakeActions.made
    (action,) = producer.sent
    assert request.impression_ids.tolist() == [17, 23, 42]
    assert (action.request_id, action.impression_id, action.action) == (request.request_id, 17, "watch")
    assert (producer.acknowledged, producer.closed) == (1, True)


def test_the_addresses_in_the_readmes_code_are_those_of_the_example() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    config = load_config(ROOT / "examples" / "films" / "rillet.toml", environment={})
    assert f'{Client.__name__}("http://127.0.0.1:{config.serving.port}", "{config.model.name}")' in code
    assert f'EventProducer("{config.kafka.bootstrap_servers}", "{config.kafka.topics.actions}")' in code


def test_a_log_of_ones_own_becomes_a_recording_as_the_text_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (block for block in blocks(ROOT / "docs" / "backtest.md", "python") if "RecordingWriter" in block)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102  our own
    recording = Recording(tmp_path / "var" / "recordings" / "mine")
    assert (recording.info.requests, recording.info.impressions, recording.info.actions) == (2, 4, 1)
    # With the histories of the example's spec: the film that was watched between the pages is in the second one's.
    filler = HistoryFiller(recording.info.spec, load_spec("examples/films/films.spec.toml"))
    events = sorted(chain(recording.features(), recording.actions()), key=lambda event: event.event_time_ms)
    first, _, second = map(filler.take, events)
    assert isinstance(first, FeatureEvent)
    assert isinstance(second, FeatureEvent)
    assert [value_of(event.context_fids).tolist() for event in (first, second)] == [[7], [7, 23]]
