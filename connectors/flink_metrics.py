"""Counters of operators of a Flink job, read from Flink's REST interface."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from rillet.connectors.errors import ConnectorError

_TIMEOUT_S = 5.0


class FlinkCounters:
    """Reads the counters that operators have in a metric group of their own, subtask by subtask."""

    def __init__(self, rest_url: str, job_id: str, operators: Sequence[str], group: str) -> None:
        """
        :param rest_url: of the JobManager, ``http://host:port``.
        :param operators: their names in the job, of letters and ``-``.
        :param group: only counters in it are read.
        """
        self._job = f"{rest_url.rstrip('/')}/jobs/{job_id}"
        self._operators = operators
        self._group = group
        #: vertex and number of subtasks of each operator
        self._vertices: dict[str, tuple[str, int]] = {}

    def read(self) -> list[dict[str, int]]:
        """Name of a counter, with its groups below ``group`` before it and dots between, to its count; per subtask.

        A subtask that has not told its metrics yet has none, so that each keeps its place in the list.

        :raises ConnectorError: Flink does not answer, or not with counts, or has no such operator.
        """
        try:
            return self._read()
        except (KeyError, TypeError, ValueError) as error:
            raise ConnectorError(f"Flink answers at {self._job} with what are no counts: {error!r}") from error

    def restarts(self) -> int:
        """How often Flink has started the job's tasks again, each time with counters at 0.

        :raises ConnectorError: as :meth:`read`.
        """
        found = self._get(f"{self._job}/metrics?get=numRestarts")
        try:
            return int(found[0]["value"]) if found else 0
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConnectorError(f"Flink answers at {self._job} with what is no count: {error!r}") from error

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

    def _get(self, url: str) -> Any:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310  our own cluster's address
                return json.load(answer)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise ConnectorError(f"Flink does not answer at {url}: {error}") from error
