"""Counters of a Flink operator, read from a REST interface that answers as Flink's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import FlinkCounters

METRICS = {
    "/jobs/j/metrics": {"numRestarts": "2"},
    "/jobs/j/vertices/v2/subtasks/0/metrics": {
        "join.joiner.features": "7",
        "join.joiner.unknown_action.CLICK.count": "3",
        "join.numRecordsIn": "9",
        "0.Shuffle.Netty": "1.5",
    },
    "/jobs/j/vertices/v2/subtasks/1/metrics": {"join.joiner.features": "2"},
    "/jobs/j/vertices/v2/subtasks/2/metrics": {},
    "/jobs/j/vertices/v1/subtasks/0/metrics": {"convert-features.joiner.dead_letters": "4", "Calc[2].joiner.x": "1"},
}
JOB = {
    "vertices": [
        {"id": "v1", "name": "Source: features[1] -> Calc[2] -> convert-features", "parallelism": 1},
        {"id": "v2", "name": "join -> (examples: Writer, dead letters: Writer)", "parallelism": 3},
    ]
}


class Rest(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        answer: object = JOB
        if url.path != "/jobs/j":
            found = METRICS[url.path]
            wanted = parse_qs(url.query).get("get")
            answer = [{"id": name} for name in found]
            if wanted:
                answer = [{"id": name, "value": found[name]} for name in wanted[0].split(",")]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def rest() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Rest)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_counters_of_the_operators_group_are_read_per_subtask(rest: str) -> None:
    counters = FlinkCounters(rest, "j", ["join"], "joiner")
    assert counters.read() == [{"features": 7, "unknown_action.CLICK.count": 3}, {"features": 2}, {}]


def test_how_often_the_tasks_were_started_again_is_the_jobs_own_count(rest: str) -> None:
    assert FlinkCounters(rest, "j", ["join"], "joiner").restarts() == 2


def test_an_operator_that_is_chained_to_others_is_found_among_them(rest: str) -> None:
    counters = FlinkCounters(rest, "j", ["join", "convert-features"], "joiner")
    assert counters.read()[-1] == {"dead_letters": 4}


def test_what_cannot_be_read_is_an_error_that_names_the_address(rest: str) -> None:
    with pytest.raises(ConnectorError, match="/jobs/j has no operator fold"):
        FlinkCounters(rest, "j", ["fold"], "joiner").read()
    with pytest.raises(ConnectorError, match=r"Flink does not answer at http://127\.0\.0\.1:1/jobs/j"):
        FlinkCounters("http://127.0.0.1:1", "j", ["join"], "joiner").read()


@pytest.mark.parametrize("answer", [[], {"errors": ["gone"]}, {"vertices": [{}]}])
def test_an_answer_without_counts_is_an_error_that_can_be_told(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    monkeypatch.setattr(FlinkCounters, "_get", lambda *_: answer)
    with pytest.raises(ConnectorError, match="Flink answers at http://flink/jobs/j with what are no counts"):
        FlinkCounters("http://flink", "j", ["join"], "joiner").read()
