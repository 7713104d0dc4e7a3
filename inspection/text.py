"""Described records (``inspection/records.py``) as lines for a person: times with their ages, values in columns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rillet.inspection.columns import Json
from rillet.inspection.words import age, duration, printable_texts

#: numbers of a row of a table that are shown
_NUMBERS = 4
#: an ingestion further than this from the event is worth a word
_INGEST_MS = 1_000


def lines_of(view: Json, now_ms: int, *, full: bool = False) -> list[str]:
    """A record in lines, the first of which says what it is, where it lies and when it was.

    :param now_ms: wall clock, for ages.
    :param full: texts as long as they are.
    """
    view = printable_texts(view, sys.maxsize) if full else printable_texts(view)
    kind, place = view["record"], f"{view['topic']} {view['partition']}:{view['offset']}"
    shown = _SHOWN.get(kind, _undecoded)
    first, *rest = shown(view, now_ms)
    lines = [f"{place}  {first}", *(f"    {line}" for line in rest)]
    if kind is not None and "problem" in view:
        lines.append(f"    ! refused by its readers: {view['problem']}")
    if "source" in view:
        lines.append(f"    from {view['source']}")
    return lines


def _undecoded(view: Json, now_ms: int) -> list[str]:
    when = _when(view, "timestamp", now_ms)
    return [f"{when}  cannot be decoded: {view['problem']}", f"value {view['value']}"]


def _feature(view: Json, now_ms: int) -> list[str]:
    impressions: Sequence[Json] = view["impressions"]
    by = f", answered by {view['model']} version {view['model_version']}" if view["model"] else ""
    columns = [
        [
            f"impression {shown['impression_id']}",
            *_fields(shown["features"]),
            *_fields(shown.get("dense", {})),
            *(f"{task} served {score}" for task, score in shown.get("served", {}).items()),
        ]
        for shown in impressions
    ]
    return [
        f"{_event_time(view, now_ms)}  request {view['request_id']}, {len(impressions)} impressions{by}",
        "  ".join(_fields(view["context"])),
        *_aligned(columns),
    ]


def _action(view: Json, now_ms: int) -> list[str]:
    tasks: Sequence[str] = view["tasks"]
    of = f"of task {', '.join(tasks)}" if tasks else "which no task asks for"
    more = [f"{name} {view[name]}" for name in ("value", "action_id") if name in view]
    words = [f"{view['action']} on impression {view['impression_id']} of request {view['request_id']}", of, *more]
    return [f"{_event_time(view, now_ms)}  {', '.join(words)}"]


def _examples(view: Json, now_ms: int) -> list[str]:
    rows: Sequence[Json] = view["rows"]
    columns = [
        [
            str(row["kind"]),
            " ".join(f"{task}={label}" for task, label in row["labels"].items()),
            f"request {row['request_id']}",
            f"impression {row['impression_id']}",
            _when(row, "feature_time", now_ms),
            _acted(row),
            f"rate {row['sampling_rate']:g}",
            *_fields(row["features"]),
            *_fields(row.get("dense", {})),
            *(f"{task} served {score}" for task, score in row.get("served", {}).items()),
        ]
        for row in rows
    ]
    # When a block was written is not in it; the newest of its events is the next best.
    latest = max((row[name] or 0 for row in rows for name in ("feature_time_ms", "action_time_ms")), default=0)
    when = f", newest event {age(latest, now_ms)}" if latest else ""
    count = view["row_count"]
    return [
        f"{count:,} {'row' if count == 1 else 'rows'} of bucket {view['bucket']}{when}",
        *_aligned(columns),
        *_left_out(view),
    ]


def _delta(view: Json, now_ms: int) -> list[str]:
    columns = [[row["slot"], str(row["value"]), f"fid {row['fid']}", _numbers(row["row"])] for row in view["rows"]]
    gone = [[row["slot"], str(row["value"]), f"fid {row['fid']}", "removed"] for row in view.get("tombstones", ())]
    return [
        f"{_written(view, now_ms)}  {_sequence(view)}: {view['row_count']:,} rows of dim {view['dim']}, "
        f"{view['tombstone_count']:,} removed, {view['actions']:,} actions learned from, "
        f"newest event {_age_of(view, 'newest_event', now_ms)}",
        *_aligned([*columns, *gone]),
        *_left_out(view),
    ]


def _dense(view: Json, now_ms: int) -> list[str]:
    return [f"{_written(view, now_ms)}  {_sequence(view)}: dense weights {view['version']} at {view['path']}"]


def _claim(view: Json, now_ms: int) -> list[str]:
    return [f"{_written(view, now_ms)}  {_sequence(view)}: epoch claimed by {view['writer']}"]


def _letter(view: Json, now_ms: int) -> list[str]:
    place = view["place"]
    row = "" if place["row"] is None else f", row {place['row']}"
    size = f", cut, {view['value_bytes']:,} bytes in all" if view["cut"] else ""
    return [
        f"refused {_when(view, 'refused', now_ms)}: {view['reason']}",
        f"from   {place['topic']} {place['partition']}:{place['offset']}{row}, key {view['record_key']}",
        f"value  {view['value']}{size}",
    ]


_SHOWN = {
    "feature_event": _feature,
    "action_event": _action,
    "example_block": _examples,
    "delta_block": _delta,
    "dense_ref": _dense,
    "epoch_claim": _claim,
    "dead_letter": _letter,
}


def _event_time(view: Json, now_ms: int) -> str:
    """The event's time, and how far from it the ingestion was where that is far."""
    late_ms = (view.get("ingest_ms") or view["event_time_ms"] or 0) - (view["event_time_ms"] or 0)
    ingested = f", ingested {duration(abs(late_ms) / 1000)} {'later' if late_ms > 0 else 'earlier'}"
    return _when(view, "event_time", now_ms) + (ingested if abs(late_ms) > _INGEST_MS else "")


def _written(view: Json, now_ms: int) -> str:
    return _when(view, "timestamp", now_ms)


def _when(view: Json, name: str, now_ms: int) -> str:
    return f"{view[name] or 'no time'} ({_age_of(view, name, now_ms)})"


def _age_of(view: Json, name: str, now_ms: int) -> str:
    time_ms = view[f"{name}_ms"]
    return "at an unknown time" if time_ms is None else age(time_ms, now_ms)


def _acted(row: Json) -> str:
    if row["action_time_ms"] is None:
        return "no action"
    return f"acted {(row['action_time_ms'] - row['feature_time_ms']) / 1000:+,.1f} s"


def _sequence(view: Json) -> str:
    return f"{view['model']} {view['epoch']}/{view['sequence']}"


def _numbers(row: Sequence[float | str]) -> str:
    shown = " ".join(number if isinstance(number, str) else f"{number:.4g}" for number in row[:_NUMBERS])
    return f"[{shown}{' ...' if len(row) > _NUMBERS else ''}]"


def _left_out(view: Json) -> list[str]:
    left = view["row_count"] - len(view["rows"])
    return [f"... {left:,} more rows"] if left > 0 else []


def _fields(values: Mapping[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        yield f"{name} {_values(value)}"


def _values(value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words in columns as wide as their widest word."""
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        for at, word in enumerate(row):
            widths[at] = max(widths[at], len(word))
    return ["  ".join(word.ljust(widths[at]) for at, word in enumerate(row)).rstrip() for row in rows]
