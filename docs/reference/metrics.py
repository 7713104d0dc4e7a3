"""The joiner's metrics, out of the collector that shows them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rillet.connectors.flink_metrics import JobFigures
from rillet.joiner import Counters
from rillet.joiner.metrics import BY_ACTION, BY_ERROR, BY_TIER, BY_TOPIC, LACKING, VALUED, VALUELESS
from rillet.pipelines.joiner_watch import GAUGES, JoinerWatch

#: counters with a name in their own names
_NAMED = (BY_ACTION, BY_ERROR, BY_TIER, BY_TOPIC, VALUED, VALUELESS, LACKING)


def joiner() -> str:
    """All metrics of ``rillet join`` as a table, in the order in which they are shown."""
    counts = dict.fromkeys((*Counters().as_dict(), *GAUGES, *(f"{group}.x.count" for group in _NAMED)), 1)
    flink: Any = SimpleNamespace(read=lambda: [counts])
    job: Any = SimpleNamespace(read=lambda: JobFigures(0, "", 0, 0, 0, "", 0, 0, 0, 0))
    alarms: Any = SimpleNamespace(judge=lambda *_, **__: [])
    watch = JoinerWatch(flink, alarms, job)
    watch.refresh()
    rows = ["| metric | is |", "|---|---|"]
    for family in watch.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ",".join(family.samples[0].labels) if family.samples else ""
        rows.append(
            f"| `{name}{{{labels}}}` | {family.documentation} |" if labels else f"| `{name}` | {family.documentation} |"
        )
    return "\n".join(rows)
