"""Requests of every feature spec that a server knows, read and answered by one model.

A client of another spec than the server's says so with ``spec_hash``: its features become those of the server's spec, and
the columns of its answer are the tasks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rillet.schemas import FeatureSpec, SpecRegistry
from rillet.schemas.arrays import Float32s
from rillet.schemas.conversion import SpecConversion, take_columns
from rillet.serving.errors import InvalidRequestError
from rillet.serving.features import RequestLayout, ScoreRequest
from rillet.serving.protocol import InferRequest

_FIELD = "parameters.spec_hash"


@dataclass(frozen=True, slots=True, eq=False)
class SpecOfRequest:
    """How requests of one spec are read and answered."""

    layout: RequestLayout
    #: to our spec and back; None for our spec
    there: SpecConversion | None = None
    back: SpecConversion | None = None

    def parse(self, request: InferRequest, now_ms: int, new_id: str) -> ScoreRequest:
        """See :meth:`RequestLayout.parse`; in the columns of our spec.

        :raises InvalidRequestError: with the field that is wrong.
        """
        scoring, there = self.layout.parse(request, now_ms, new_id), self.there
        if there is None:
            return scoring
        rows = scoring.rows
        context_fids, context_lengths = there.context(scoring.context_fids, scoring.context_lengths, 1)
        item_fids, item_lengths = there.item(scoring.item_fids, scoring.item_lengths, rows)
        return replace(
            scoring,
            context_fids=context_fids,
            context_lengths=context_lengths,
            item_fids=item_fids,
            item_lengths=item_lengths,
            dense=there.dense(scoring.dense, rows),
        )

    def columns(self, logits: Float32s) -> Float32s:
        """Logits float32[n, T] of our tasks as those of the request's; NaN for one that we do not have."""
        if self.back is None:
            return logits
        return take_columns(logits.reshape(-1), len(logits), self.back.tasks, np.nan).reshape(len(logits), -1)

    @property
    def missing_tasks(self) -> list[str]:
        """The tasks of the request's spec that ours does not have."""
        if self.back is None:
            return []
        tasks = self.layout.spec.tasks
        return [task.name for task, ours in zip(tasks, self.back.tasks.tolist(), strict=True) if ours < 0]


class RequestSpecs:
    """The specs of requests that are answered."""

    def __init__(self, specs: SpecRegistry, max_rows: int) -> None:
        """:param max_rows: largest number of candidates in a request."""
        self.ours = SpecOfRequest(RequestLayout(specs.current, max_rows))
        self._of = {specs.current.hash: self.ours}
        for spec in specs.others:
            if (there := specs.conversion(spec.hash)) is not None:
                back = SpecConversion(specs.current, spec)
                self._of[spec.hash] = SpecOfRequest(RequestLayout(spec, max_rows), there, back)

    @property
    def also_accepted(self) -> list[FeatureSpec]:
        """Those beside our own."""
        return [one.layout.spec for one in self._of.values() if one is not self.ours]

    def of(self, parameters: Mapping[str, Any]) -> SpecOfRequest:
        """The spec that a request names, ours where it names none.

        :raises InvalidRequestError: it is none that is known here.
        """
        value = parameters.get("spec_hash")
        if value is None:
            return self.ours
        try:
            return self._of[int(value, 16)]
        except (TypeError, ValueError):
            raise InvalidRequestError(_FIELD, f"{str(value)[:40]!r} is no hash in hexadecimal digits") from None
        except KeyError:
            known = ", ".join(f"{spec_hash:#x}" for spec_hash in self._of)
            raise InvalidRequestError(
                _FIELD,
                f"the request is of feature spec {value[:40]}, this server takes {known}: name that spec's file in"
                " also_accepts of its rillet.toml, or deploy the same spec to both",
            ) from None
