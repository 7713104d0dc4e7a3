"""The example's application asks for what its page shows, and reports under the id that it was shown under."""

from __future__ import annotations

import numpy as np
import pytest
from examples.films import client as films

from rillet.jobs.config import load_config
from rillet.schemas import token_values, value_of
from rillet.serving import ScoreRequest
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
    films.main()
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
    films.main()
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
