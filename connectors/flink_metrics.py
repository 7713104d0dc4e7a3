"""What Flink's REST interface tells of a job: counters of its operators, its checkpoints and its restarts."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from rillet.connectors.errors import ConnectorError

_TIMEOUT_S = 5.0
#: of each committer of a sink: what it could not commit, and goes on without; and all that it was given
_FAILED_COMMITS, _ALL_COMMITS = "failedCommittables", "totalCommittables"
#: why checkpoints fail that were in progress when the job did
_OF_RESTARTS = ("FailoverRegion is restarting.", "Checkpoint Coordinator is suspending.")
#: begins what Python tells of an error
_PYTHON = "Traceback (most recent call last):"
#: by which Flink talks to a Python process, and all that it tells of one that is gone
_GRPC = "org.apache.beam.vendor.grpc"
Answer = TypeVar("Answer")


class JobFigures(NamedTuple):
    """How a job is doing."""

    restarts: int
    #: of the last failure, in one line; empty where there was none
    failure: str
    completed_checkpoints: int
    failed_checkpoints: int
    #: checkpoints that have failed since the last complete one, as far as Flink remembers, and why the last of them did
    failed_in_a_row: int
    checkpoint_failure: str
    #: of the last complete checkpoint: all that it stands for, what was written for it, and how long that took
    state_bytes: int
    checkpoint_bytes: int
    checkpoint_ms: int
    #: transactions that could not be committed since the first reading, whatever was restarted, and had not been before:
    #: the broker has aborted them, and their rows are lost; None while no task has told
    lost_transactions: int | None


class _FlinkRest:
    """Asks for what is below one job."""

    def __init__(self, rest_url: str, job_id: str) -> None:
        """:param rest_url: of the JobManager, ``http://host:port``."""
        self._job = f"{rest_url.rstrip('/')}/jobs/{job_id}"

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConnectorError(f"Flink answers at {self._job} with what are no counts: {error!r}") from error

    def _get(self, url: str) -> Any:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  our own cluster's address
                return json.load(answer)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise ConnectorError(f"Flink does not answer at {url}: {error}") from error


class FlinkJob(_FlinkRest):
    """Reads how a job is doing."""

    def __init__(
        self,
        rest_url: str,
        job_id: str,
        *,
        transaction_timeout_ms: int = 900_000,
        longest_transaction_ms: int = 0,
        restored_ms: int | None = None,
        settling: int = 3,
    ) -> None:
        """
        :param transaction_timeout_ms: after which the broker ends a transaction.
        :param longest_transaction_ms: how long one may be open until the checkpoint after it is complete.
        :param restored_ms: wall clock at which the checkpoint of another job was complete that this one goes on from; None
            where it goes on from the savepoint of a stop, whose transactions were all committed, or from nothing.
        :param settling: readings after a start or a restart at which transactions are not judged: Flink tells of checkpoints
            as they were up to three seconds ago, and of what tasks count as it was one ago.
        """
        super().__init__(rest_url, job_id)
        self._timeout_ms, self._longest_ms = transaction_timeout_ms, longest_transaction_ms
        self._restored_ms = restored_ms
        self._settling = self._unsettled = settling
        #: metrics of the subtasks that commit transactions, by URL: failed commits and all, as last told
        self._committers: dict[str, tuple[int, int]] = {}
        #: those that may be of another task since; and when it was restored
        self._fresh: set[str] = set()
        self._started_ms: int | None = None
        self._lost: int | None = None
        #: restarts when the last failure was asked for
        self._explained = 0
        self._failure = ""

    def read(self) -> JobFigures:
        """The figures as they are now.

        :raises ConnectorError: Flink does not answer, or not with such figures.
        """
        return self._asked(self._read)

    def _read(self) -> JobFigures:
        found = self._get(f"{self._job}/checkpoints")
        completed, failed = found["latest"]["completed"] or {}, found["latest"]["failed"] or {}
        newest = completed.get("id", -1)
        in_a_row = sum(one["status"] == "FAILED" and one["id"] > newest for one in found["history"])
        if failed.get("failure_message") in _OF_RESTARTS:
            in_a_row = 0
        restarts = sum(int(one["value"]) for one in self._get(f"{self._job}/metrics?get=numRestarts"))
        if restarts > self._explained:
            self._explained, self._failure = restarts, self._last_failure()
            self._unsettled = self._settling
        return JobFigures(
            restarts,
            self._failure,
            int(found["counts"]["completed"]),
            int(found["counts"]["failed"]),
            in_a_row,
            str(failed.get("failure_message") or "no reason given") if in_a_row else "",
            int(completed.get("state_size", 0)),
            int(completed.get("checkpointed_size", 0)),
            int(completed.get("end_to_end_duration", 0)),
            self._lost_transactions(found),
        )

    def _last_failure(self) -> str:
        history = self._get(f"{self._job}/exceptions?maxExceptions=1")["exceptionHistory"]["entries"]
        return innermost_cause(history[0]["stacktrace"]) if history else ""

    def _lost_transactions(self, checkpoints: Any) -> int | None:
        """Counts what tasks have failed to commit, as far as it is lost.

        A task that is restored commits again what was to be committed at its checkpoint. Mostly it has been: brokers of Kafka
        4 refuse that, since a commit gives the producer another epoch, and Flink counts it as failed all the same. Lost
        it can only be if the transaction was open for longer than its timeout.
        """
        if self._unsettled:
            self._unsettled -= 1
            return self._lost
        if not self._committers:  # nor has Flink told of any while the job begins
            vertices = [one for one in self._get(self._job)["vertices"] if "Committer" in one["name"]]
            subtasks = ((one["id"], number) for one in vertices for number in range(one["parallelism"]))
            urls = (f"{self._job}/vertices/{vertex}/subtasks/{number}/metrics" for vertex, number in subtasks)
            self._committers = dict.fromkeys(urls, (0, 0))
            self._fresh = set(self._committers)
        restored = checkpoints["latest"].get("restored")
        started_ms = restored and restored["restore_timestamp"]
        if started_ms != self._started_ms:
            self._started_ms, self._fresh = started_ms, set(self._committers)
        for url, before in self._committers.items():
            names = [one["id"] for one in self._get(url) if one["id"].endswith((_FAILED_COMMITS, _ALL_COMMITS))]
            if not names:
                continue
            self._lost = self._lost or 0
            told = {one["id"]: int(one["value"]) for one in self._get(f"{url}?get={quote(','.join(names))}")}
            failed = sum(count for name, count in told.items() if name.endswith(_FAILED_COMMITS))
            commits = sum(told.values()) - failed
            if (failed, commits) == before:
                continue  # perhaps of the task before, until the other one tells its own
            if url not in self._fresh:
                self._lost += max(0, failed - before[0])
            elif self._may_have_timed_out(checkpoints):
                self._lost += failed
            if commits:
                self._fresh.discard(url)
            self._committers[url] = failed, commits
        return self._lost

    def _may_have_timed_out(self, checkpoints: Any) -> bool:
        """Whether the transactions that a restored task commits again were open for longer than their timeout."""
        restored = checkpoints["latest"].get("restored")
        if restored is None:
            return True
        begun_ms = {
            one["id"]: one["trigger_timestamp"] for one in checkpoints["history"] if one["status"] == "COMPLETED"
        }
        if restored["id"] in begun_ms:
            # Rows of a checkpoint come after the one before it.
            earlier_ms = [time_ms for number, time_ms in begun_ms.items() if number < restored["id"]]
            open_since_ms = max(earlier_ms, default=begun_ms[restored["id"]] - self._longest_ms)
        elif self._restored_ms is not None:
            open_since_ms = self._restored_ms - self._longest_ms
        else:
            return False
        return bool(restored["restore_timestamp"] - open_since_ms > self._timeout_ms)


def innermost_cause(trace: str) -> str:
    """Of a Java stack trace, in one line: the last "Caused by", or the first line where there is none.

    Where that holds a traceback of Python, which has lines of its own: what Python has raised.

    >>> innermost_cause("a.Outer: x\\n\\tat y\\nCaused by: b.Inner: out of disk\\n\\tat z")
    'b.Inner: out of disk'
    """
    cause = trace.strip().rpartition("\nCaused by: ")[2]
    lines = cause.partition("\n\tat ")[0].splitlines()
    raised = [line for line in lines[1:] if line and not line[0].isspace()]
    if raised and lines[0].endswith(_PYTHON):
        return raised[-1]
    told = "".join(lines[:1])
    return f"a Python process of the job has ended, killed for its memory perhaps ({told})" if _GRPC in told else told


class FlinkCounters(_FlinkRest):
    """Reads the counters that operators have in a metric group of their own, subtask by subtask."""

    def __init__(self, rest_url: str, job_id: str, operators: Sequence[str], group: str) -> None:
        """
        :param operators: their names in the job, of letters and ``-``.
        :param group: only counters in it are read.
        """
        super().__init__(rest_url, job_id)
        self._operators = operators
        self._group = group
        #: vertex and number of subtasks of each operator
        self._vertices: dict[str, tuple[str, int]] = {}

    def read(self) -> list[dict[str, int]]:
        """Name of a counter, with its groups below ``group`` before it and dots between, to its count; per subtask.

        A subtask that has not told its metrics yet has none, so that each keeps its place in the list.

        :raises ConnectorError: Flink does not answer, or not with counts, or has no such operator.
        """
        return self._asked(self._read)

    def _read(self) -> list[dict[str, int]]:
        found = []
        for operator in self._operators:
            vertex, subtasks = self._find(operator)
            prefix = f"{operator}.{self._group}."
            for subtask in range(subtasks):
                url = f"{self._job}/vertices/{vertex}/subtasks/{subtask}/metrics"
                names = [entry["id"] for entry in self._get(url) if entry["id"].startswith(prefix)]
                values = self._get(f"{url}?get={quote(','.join(names))}") if names else []
                found.append({entry["id"].removeprefix(prefix): int(entry["value"]) for entry in values})
        return found

    def _find(self, operator: str) -> tuple[str, int]:
        if operator not in self._vertices:
            for vertex in self._get(self._job)["vertices"]:
                # Chained operators are one vertex: "join -> (examples: Writer, ...)".
                if operator in re.split(r"[ :,()]+", vertex["name"]):
                    self._vertices[operator] = vertex["id"], vertex["parallelism"]
                    break
            else:
                raise ConnectorError(f"the job at {self._job} has no operator {operator}")
        return self._vertices[operator]
