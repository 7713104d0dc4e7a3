"""Counters of a Flink operator, read from a REST interface that answers as Flink's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from rillet.connectors.errors import ConnectorError
from rillet.connectors.flink_metrics import FlinkCounters, FlinkJob, JobFigures, innermost_cause

METRICS = {
    "/jobs/j/metrics": {"numRestarts": "2"},
    "/jobs/j/vertices/v2/subtasks/0/metrics": {
        "join.joiner.features": "7",
        "join.joiner.unknown_action.CLICK.count": "3",
        "join.numRecordsIn": "9",
        "0.Shuffle.Netty": "1.5",
        "examples__Committer.failedCommittables": "2",
        "examples__Committer.totalCommittables": "40",
    },
    "/jobs/j/vertices/v2/subtasks/1/metrics": {"join.joiner.features": "2"},
    "/jobs/j/vertices/v2/subtasks/2/metrics": {},
    "/jobs/j/vertices/v1/subtasks/0/metrics": {"convert-features.joiner.dead_letters": "4", "Calc[2].joiner.x": "1"},
}
JOB = {
    "vertices": [
        {"id": "v1", "name": "Source: features[1] -> Calc[2] -> convert-features", "parallelism": 1},
        {
            "id": "v2",
            "name": "join -> (examples: Writer -> examples: Committer, dead letters: Writer)",
            "parallelism": 3,
        },
    ]
}


CHECKPOINTS: dict[str, object] = {
    "counts": {"completed": 3, "failed": 4},
    "latest": {
        "completed": {"id": 5, "state_size": 7_000, "checkpointed_size": 90, "end_to_end_duration": 120},
        "failed": {"id": 7, "failure_message": "Checkpoint expired before completing."},
    },
    "history": [
        {"id": 8, "status": "IN_PROGRESS"},
        {"id": 7, "status": "FAILED"},
        {"id": 6, "status": "FAILED"},
        {"id": 5, "status": "COMPLETED"},
        {"id": 4, "status": "FAILED"},
    ],
}
#: of a function in a Python process of its own: Flink's cause says nothing, what Python has raised follows it
PYTHON_TRACE = (
    "java.lang.RuntimeException: Failed to close remote bundle\n\tat a.b\n"
    "Caused by: java.util.concurrent.ExecutionException: java.lang.RuntimeException: Error received from SDK harness\n"
    "Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 4: Traceback (most recent call"
    ' last):\n  File "x.py", line 3, in process\n    raise ValueError("no slot 7")\nValueError: no slot 7\n\n\tat c.d\n'
)
TRACE = "java.lang.RuntimeException: chain\n\tat a.b\nCaused by: java.io.IOException: No space left on device\n\tat c"
OF_JOB: dict[str, object] = {
    "/jobs/j": JOB,
    "/jobs/j/checkpoints": CHECKPOINTS,
    "/jobs/j/exceptions": {"exceptionHistory": {"entries": [{"stacktrace": TRACE}]}},
    "/jobs/j/metrics": [{"id": "numRestarts", "value": "2"}],
}


class Rest(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        answer = OF_JOB.get(url.path)
        if answer is None:
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


def test_an_operator_that_is_chained_to_others_is_found_among_them(rest: str) -> None:
    counters = FlinkCounters(rest, "j", ["join", "convert-features"], "joiner")
    assert counters.read()[-1] == {"dead_letters": 4}


def test_checkpoints_and_restarts_are_told_with_their_reasons(rest: str) -> None:
    assert FlinkJob(rest, "j").read() == JobFigures(
        restarts=2,
        failure="java.io.IOException: No space left on device",
        completed_checkpoints=3,
        failed_checkpoints=4,
        failed_in_a_row=2,
        checkpoint_failure="Checkpoint expired before completing.",
        state_bytes=7_000,
        checkpoint_bytes=90,
        checkpoint_ms=120,
        lost_transactions=2,
    )


def test_the_cause_of_a_failure_in_python_is_what_python_has_raised() -> None:
    assert innermost_cause(PYTHON_TRACE) == "ValueError: no slot 7"
    thread_mode = (
        "java.lang.RuntimeException: Error\nCaused by: pemja.core.PythonException: <class 'OSError'>: disk full\n"
        "\tat /x/joiner.py.open(joiner.py:7)\n\tat pemja.core.PythonInterpreter.invoke(Native Method)\n"
    )
    assert innermost_cause(thread_mode) == "pemja.core.PythonException: <class 'OSError'>: disk full"


def test_a_job_without_a_checkpoint_has_no_state_yet(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"counts": {"completed": 0, "failed": 0}, "latest": {"completed": None, "failed": None}, "history": []}
    monkeypatch.setitem(OF_JOB, "/jobs/j/checkpoints", empty)
    monkeypatch.setitem(OF_JOB, "/jobs/j/metrics", [])
    monkeypatch.setitem(METRICS, "/jobs/j/vertices/v2/subtasks/0/metrics", {})
    assert FlinkJob(rest, "j").read() == JobFigures(0, "", 0, 0, 0, "", 0, 0, 0, None)


def test_transactions_that_are_lost_after_a_restart_come_on_top_of_those_before(
    rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A committer's counters begin at 0 with its task, and what it cannot commit it counts at its start: 0 is never seen."""
    job, path = FlinkJob(rest, "j"), "/jobs/j/vertices/v2/subtasks/{}/metrics"

    def lost(subtask: int, failed: int, total: int) -> int | None:
        name = "examples__Committer."
        counts = {f"{name}failedCommittables": str(failed), f"{name}totalCommittables": str(total)}
        monkeypatch.setitem(METRICS, path.format(subtask), counts)
        return job.read().lost_transactions

    assert lost(0, failed=1, total=40) == 1
    assert lost(0, failed=1, total=41) == 1
    assert lost(0, failed=1, total=3) == 2, "another task's"
    assert lost(1, failed=2, total=9) == 4, "of another subtask"
    assert lost(0, failed=0, total=2) == 4
    assert lost(0, failed=0, total=5) == 4
    monkeypatch.setitem(METRICS, path.format(0), {})
    assert job.read().lost_transactions == 4, "while Flink tells nothing of a task that starts"


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
