"""The example's application asks for what its page shows, and reports under the id that it was shown under."""

from __future__ import annotations

import time

import numpy as np
import pytest
from examples.films import client as films
from examples.films import traffic

from rillet.jobs.config import load_config
from rillet.schemas import token_values, value_of
from rillet.serving.client import CandidateEncoder, Histories
from rillet.serving.features import ScoreRequest
from tests.examples.fakes import FakeActions, client_of
from tests.serving.fake_server import FakeServer

CONFIG = load_config(films.CONFIG, environment={})


def _descending(request: ScoreRequest, tasks: int) -> np.ndarray:
    return np.linspace(1, -1, request.rows, dtype=np.float32)[:, None]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer(CONFIG.load_spec(), CONFIG.model.name, _descending)
    monkeypatch.setattr(films, "Client", client_of(server))
    monkeypatch.setattr(films, "EventProducer", FakeActions)
    FakeActions.made.clear()
    return server


def test_the_server_gets_user_films_and_shelves(server: FakeServer) -> None:
    films.main([])
    (request,) = server.scored
    assert value_of(request.context_fids).tolist() == [7]
    items = value_of(request.item_fids).reshape(-1, 2)
    assert items[:, 0].tolist() == [17, 23, 42]
    assert items[:, 1].tolist() == token_values(["drama", "comedy", "drama"]).tolist()
    assert request.impression_ids.tolist() == [17, 23, 42]
    assert request.log


def test_scores_are_printed_and_the_action_joins_its_request(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    films.main([])
    assert capsys.readouterr().out.splitlines()[:3] == ["film 17: 0.7311", "film 23: 0.5000", "film 42: 0.2689"]
    (producer,) = FakeActions.made
    assert (producer.kafka, producer.topic) == (
        CONFIG.kafka.connection,
        CONFIG.kafka.topics.actions,
    )
    (action,) = producer.sent
    assert (action.request_id, action.impression_id, action.action) == (server.scored[0].request_id, 42, "watch")
    assert producer.acknowledged == 1
    assert producer.closed


def test_what_a_user_watched_goes_with_the_next_request(server: FakeServer) -> None:
    spec = CONFIG.load_spec()
    encoder, histories = CandidateEncoder(spec), Histories(spec)
    with films.Client("http://server", CONFIG.model.name) as client:
        for film in (42, 17):
            scores = films.score(client, encoder, histories, user=7, films=films.FILMS)
            films.report_watched(CONFIG, histories, scores.request_id, user=7, film=film)
            time.sleep(0.002)  # visible to later requests only
        films.score(client, encoder, histories, user=7, films=films.FILMS)
    assert [value_of(request.context_fids).tolist() for request in server.scored] == [[7], [7, 42], [7, 17, 42]]


def test_simulated_users_watch_what_they_like_under_the_request_that_showed_it(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "Client", client_of(server))
    monkeypatch.setattr(traffic, "EventProducer", FakeActions)
    # A clock that only sleeping moves: two minutes of traffic in no time.
    clock = [0.0]
    monkeypatch.setattr(traffic.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(traffic.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 0.05))
    lines: list[str] = []
    traffic.drive(CONFIG, seconds=40, requests_per_s=10, seed=1, show=lines.append)
    assert len(server.scored) == pytest.approx(400, abs=5)
    assert len(lines) == 3
    assert "liked 0.5" in lines[0]
    (producer,) = FakeActions.made
    shown = {request.request_id: request for request in server.scored}
    watched = {True: 0, False: 0}
    for action in producer.sent:
        request = shown[action.request_id]
        assert action.impression_id in request.impression_ids
        watched[traffic.likes(int(value_of(request.context_fids)[0]), action.impression_id)] += 1
    pages = {True: 0, False: 0}
    for request in server.scored:
        for film in request.impression_ids.tolist():
            pages[traffic.likes(int(value_of(request.context_fids)[0]), film)] += 1
    # The last pages are watched after the end.
    assert 0.5 < watched[True] / pages[True] < 0.75
    assert 0.02 < watched[False] / pages[False] < 0.08
