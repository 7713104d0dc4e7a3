"""Counters of one operator of a Flink job, read from Flink's REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from rillet.connectors.errors import ConnectorError

_TIMEOUT_S = 5.0


class FlinkCounters:
    """Reads the counters that an operator has in a metric group of its own, subtask by subtask."""

    def __init__(self, rest_url: str, job_id: str, operator: str, group: str) -> None:
        """
        :param rest_url: of the JobManager, ``http://host:port``.
        :param operator: its name in the job; it stands at the beginning of the name of its vertex.
        :param group: only counters in it are read.
        """
        self._job = f"{rest_url.rstrip('/')}/jobs/{job_id}"
        self._operator = operator
        self._prefix = f"{operator}.{group}."
        self._vertex: tuple[str, int] | None = None

    def read(self) -> list[dict[str, int]]:
        """Name of a counter, with its groups below ``group`` before it and dots between, to its count; per subtask.

        A subtask that has not told its metrics yet is left out.

        :raises ConnectorError: Flink does not answer, or has no such operator.
        """
        vertex, subtasks = self._find()
        found = []
        for subtask in range(subtasks):
            url = f"{self._job}/vertices/{vertex}/subtasks/{subtask}/metrics"
            names = [entry["id"] for entry in self._get(url) if entry["id"].startswith(self._prefix)]
            if names:
                values = self._get(f"{url}?get={quote(','.join(names))}")
                found.append({entry["id"].removeprefix(self._prefix): int(entry["value"]) for entry in values})
        return found

    def _find(self) -> tuple[str, int]:
        if self._vertex is None:
            for vertex in self._get(self._job)["vertices"]:
                # Chained operators are one vertex: "join -> (examples: Writer, ...)".
                if vertex["name"].split(" ")[0].rstrip(":") == self._operator:
                    self._vertex = vertex["id"], vertex["parallelism"]
                    break
            else:
                raise ConnectorError(f"the job at {self._job} has no operator {self._operator}")
        return self._vertex

    def _get(self, url: str) -> Any:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  our own cluster's address
                return json.load(answer)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise ConnectorError(f"Flink does not answer at {url}: {error}") from error
