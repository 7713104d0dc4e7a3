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
    assert FlinkJob(rest, "j", settling=0).read() == JobFigures(
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


def test_that_a_python_process_has_ended_is_said_in_other_words_than_its_protocols() -> None:
    beam = "org.apache.beam.vendor.grpc.v1p60p1.io.grpc.StatusRuntimeException: CANCELLED: call already cancelled."
    told = innermost_cause(f"java.lang.RuntimeException: Failed to start remote bundle\nCaused by: {beam}\n\tat a.b")
    assert told == f"a Python process of the job has ended, killed for its memory perhaps ({beam})"


def test_a_job_without_a_checkpoint_has_no_state_yet(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"counts": {"completed": 0, "failed": 0}, "latest": {"completed": None, "failed": None}, "history": []}
    monkeypatch.setitem(OF_JOB, "/jobs/j/checkpoints", empty)
    monkeypatch.setitem(OF_JOB, "/jobs/j/metrics", [])
    monkeypatch.setitem(METRICS, "/jobs/j/vertices/v2/subtasks/0/metrics", {})
    assert FlinkJob(rest, "j").read() == JobFigures(0, "", 0, 0, 0, "", 0, 0, 0, None)


class Committers:
    """A job of which a test says what its committers count, and what it was restored from."""

    def __init__(self, rest: str, patch: pytest.MonkeyPatch, restored_ms: int | None = None, settling: int = 0) -> None:
        self.patch = patch
        self.job = FlinkJob(
            rest,
            "j",
            transaction_timeout_ms=60_000,
            longest_transaction_ms=10_000,
            restored_ms=restored_ms,
            settling=settling,
        )
        self.restored: dict[str, int] | None = None

    def lost(self, failed: int, commits: int, subtask: int = 0) -> int | None:
        name = "examples__Committer."
        counts = {f"{name}failedCommittables": str(failed), f"{name}totalCommittables": str(commits)}
        self.patch.setitem(METRICS, f"/jobs/j/vertices/v2/subtasks/{subtask}/metrics", counts)
        history = [{"id": n, "status": "COMPLETED", "trigger_timestamp": 5_000 * n} for n in (4, 5)]
        latest = CHECKPOINTS["latest"] | {"restored": self.restored}  # type: ignore[operator]
        self.patch.setitem(OF_JOB, "/jobs/j/checkpoints", CHECKPOINTS | {"latest": latest, "history": history})
        return self.job.read().lost_transactions

    def restore(self, checkpoint: int, time_ms: int) -> None:
        self.restored = {"id": checkpoint, "restore_timestamp": time_ms}


def test_a_transaction_that_a_running_task_cannot_commit_is_lost(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Committers(rest, monkeypatch)
    assert [found.lost(0, 40), found.lost(1, 41), found.lost(1, 42), found.lost(3, 44)] == [0, 1, 1, 3]
    assert [found.lost(0, 9, subtask=1), found.lost(2, 11, subtask=1)] == [3, 5]
    monkeypatch.setitem(METRICS, "/jobs/j/vertices/v2/subtasks/0/metrics", {})
    assert found.job.read().lost_transactions == 5, "while Flink tells nothing of a task that starts"


def test_what_was_committed_before_a_restart_is_not_lost_when_the_broker_refuses_it_a_second_time(
    rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As brokers of Kafka 4 do at each restart."""
    found = Committers(rest, monkeypatch)
    assert found.lost(0, 40) == 0
    found.restore(5, 30_000)
    assert [found.lost(0, 40), found.lost(0, 0), found.lost(1, 1), found.lost(1, 2)] == [0, 0, 0, 0]
    found.restore(5, 50_000)
    assert [found.lost(1, 2), found.lost(1, 1), found.lost(2, 2)] == [0, 0, 1], "and a later one is"
    fresh = Committers(rest, monkeypatch)
    fresh.restore(3, 10_000_000)
    assert [fresh.lost(1, 1), fresh.lost(1, 2)] == [0, 0], "of a start from the savepoint of a stop"


def test_a_restart_that_flink_tells_late_is_waited_for(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are told as they were three seconds ago: without the restore, while tasks show what they count since."""
    found = Committers(rest, monkeypatch, settling=2)
    monkeypatch.setitem(OF_JOB, "/jobs/j/metrics", [])
    assert [found.lost(0, 40) for _ in range(3)] == [None, None, 0]
    monkeypatch.setitem(OF_JOB, "/jobs/j/metrics", [{"id": "numRestarts", "value": "1"}])
    assert found.lost(1, 1) == 0
    found.restore(5, 30_000)
    assert [found.lost(1, 2), found.lost(1, 3), found.lost(1, 4), found.lost(2, 5)] == [0, 0, 0, 1]


def test_a_transaction_whose_timeout_has_passed_at_a_restart_is_lost_also_if_others_were_before(
    rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task counts from 0, and has failed to commit before it is asked for the first time."""
    found = Committers(rest, monkeypatch)
    assert found.lost(1, 40) == 1, "of a job without anything to restore"
    found.restore(5, 80_001)
    assert [found.lost(1, 40), found.lost(1, 1), found.lost(1, 2)] == [1, 2, 2]
    for restored_ms, lost in ((1_000_000, 0), (940_000, 1)):
        other = Committers(rest, monkeypatch, restored_ms)
        other.restore(99, 1_000_001)
        other.patch.setitem(METRICS, "/jobs/j/vertices/v2/subtasks/1/metrics", {})
        assert other.lost(1, 1) == lost, "of a start from a checkpoint of another job"


def test_checkpoints_that_a_restart_breaks_off_have_not_failed(rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"id": 7, "failure_message": "FailoverRegion is restarting."}
    latest = CHECKPOINTS["latest"] | {"failed": failed}  # type: ignore[operator]
    monkeypatch.setitem(OF_JOB, "/jobs/j/checkpoints", CHECKPOINTS | {"latest": latest})
    figures = FlinkJob(rest, "j").read()
    assert (figures.failed_in_a_row, figures.checkpoint_failure, figures.failed_checkpoints) == (0, "", 4)


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
