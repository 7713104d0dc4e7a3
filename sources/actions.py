"""Action events of records of the actions topic."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rillet.schemas import ActionEvent, FeatureSpec, RecordError, SpecRegistry, Task
from rillet.sources.config import ActionSource
from rillet.sources.errors import SourceError
from rillet.sources.features import impression_request_id
from rillet.sources.paths import Path, shown
from rillet.sources.values import id_text, impression_number, time_ms


@dataclass(frozen=True, slots=True)
class RawAction:
    """What a record says of one action.

    :param impression: the impression's id as found; ``impression_id`` the same as an integer.
    :param action: as the feature spec calls it.
    :param record: all of it as decoded; for messages.
    """

    request_id: str
    event_time_ms: int
    impression: Any
    impression_id: int
    action: str
    value: float | None
    action_id: str | None
    record: Mapping[str, Any]


class ActionReader:
    """Reads decoded records of the actions topic as a source says."""

    def __init__(self, specs: SpecRegistry, source: ActionSource, *, per_impression: bool) -> None:
        """
        :param per_impression: each impression is a request of its own.
        :raises SourceError: an action is called what none of the specs asks for.
        """
        spec = specs.current
        for name, action in source.names.items():
            if not any(action in one.actions for one in (spec, *specs.others)):
                raise SourceError(
                    f"sources.actions.names.{name}: no task and no history of feature spec {spec.name} asks for action"
                    f" {action!r}; they ask for {', '.join(sorted(spec.actions))}"
                )
        self.time_path = source.time
        self._source = source
        self._per_impression = per_impression
        self._request_id = Path(source.request_id)
        self._time = Path(source.time)
        self._impression_id = Path(source.impression_id)
        self._action = Path(source.action)
        self._value = Path(source.value) if source.value else None
        self._action_id = Path(source.action_id) if source.action_id else None

    def read(self, value: Mapping[str, Any]) -> RawAction:
        """What the record says.

        :raises RecordError: something is missing or not of its kind; with its path.
        """
        source = self._source
        request_id = id_text(self._request_id.find(value), source.request_id)
        impression = self._impression_id.find(value)
        number = impression_number(impression, source.impression_id)
        if self._per_impression:
            request_id = impression_request_id(request_id, impression)
        name = id_text(self._action.find(value), source.action)
        return RawAction(
            request_id,
            time_ms(self._time.find(value), source.time_unit, source.time),
            impression,
            number,
            source.names.get(name, name),
            _number(self._value, value),
            _id(self._action_id, value),
            value,
        )

    def event(self, raw: RawAction) -> ActionEvent:
        """The event; an action that no task asks for is one, too: the joiner counts it."""
        return ActionEvent(raw.request_id, raw.event_time_ms, raw.impression_id, raw.action, raw.value, raw.action_id)


def _number(path: Path | None, record: Mapping[str, Any]) -> float | None:
    """:raises RecordError: something else than a finite number lies there."""
    found = None if path is None else path.find(record)
    if path is None or found is None:
        return None
    try:
        number = float(found) if type(found) in (int, float, Decimal) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RecordError(f"{path.text}: {shown(found)} is no finite number")
    return number


def _id(path: Path | None, record: Mapping[str, Any]) -> str | None:
    found = None if path is None else path.find(record)
    return None if path is None or found is None else id_text(found, path.text)


def nearest_action(name: str, spec: FeatureSpec) -> str | None:
    """The action asked for that a name may stand for: ``click`` for ``CLICK``."""
    return next(iter(difflib.get_close_matches(name.lower(), sorted(spec.actions), 1)), None)


def tasks_of_values(spec: FeatureSpec) -> list[Task]:
    """The tasks of which an action without a value makes no positive."""
    return [task for task in spec.tasks if task.at_least is not None and task.at_least.needs_values]
