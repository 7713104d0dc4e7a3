"""The picture of label modes and late policies: the rows that the joiner itself makes of one impression, over time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import LABEL_OF_KIND, ActionEvent, FeatureEvent, FeatureSpec, LabelKind, Slot, Task, make_fids

_MINUTE, _START_MS = 60_000, 1_760_000_000_000
_FILM = Slot("film", 1, "id")
_TASK = Task("watch", "watch", 10 * _MINUTE, labels="positives_first")
_SHORT = replace(_TASK, late="correct", negative_after_ms=1 * _MINUTE)
#: heading, task, and the minutes at which an action is done and at which it arrives, None where there is none
_Lane = tuple[str, Task, tuple[float, float] | None]
_LANES: tuple[_Lane, ...] = (
    ("positives_first", _TASK, (3, 3)),
    ("", _TASK, None),
    ("aligned", replace(_TASK, labels="aligned"), (3, 3)),
    ("", replace(_TASK, labels="aligned"), None),
    ("immediate", replace(_TASK, labels="immediate"), (3, 3)),
    ("", replace(_TASK, labels="immediate"), None),
    ("negative_after_ms = 60_000", _SHORT, (3, 3)),
    ("", _SHORT, None),
    ('late = "drop"', _TASK, (9, 12)),
    ('late = "correct"', replace(_TASK, late="correct"), (9, 12)),
    ("… its negative left out by the sample", replace(_TASK, late="correct", negative_rate=1e-6), (9, 12)),
    ('late = "emit_unsampled"', replace(_TASK, late="emit_unsampled"), (9, 12)),
    ("… its negative left out by the sample", replace(_TASK, late="emit_unsampled", negative_rate=1e-6), (9, 12)),
)
_MINUTES, _LEFT, _WIDTH, _TOP, _LANE = 14, 250, 640, 46, 34


def _feature(spec: FeatureSpec, request_id: str, at_ms: int) -> FeatureEvent:
    fids = make_fids(_FILM.slot, np.array([1]))
    return FeatureEvent(request_id, at_ms, spec.hash, np.empty(0, np.int64), np.array([7]), fids)


def rows(task: Task, acted: tuple[float, float] | None) -> list[tuple[float, LabelKind]]:
    """Minute and kind of the rows of one impression, shown at minute 0.

    :param acted: minutes at which an action is done and at which it arrives.
    """
    spec = FeatureSpec("timeline", (), (_FILM,), (), (task,))
    found: list[tuple[float, LabelKind]] = []
    with TemporaryDirectory() as folder:
        config = JoinerConfig(slice_ms=10_000, late_retention_ms=10 * _MINUTE)
        join = SimulatedJoin(spec, config, lateness_ms=0, commit_ms=0, directory=Path(folder) / "joiner")
        join.take(_feature(spec, "shown", _START_MS))
        for tick in range(1, 6 * _MINUTES + 1):
            at_ms = _START_MS + tick * 10_000
            # Another request, so that time goes on.
            join.take(_feature(spec, f"tick {tick}", at_ms))
            if acted is not None and tick == round(acted[1] * 6):
                join.take(ActionEvent("shown", _START_MS + round(acted[0] * _MINUTE), 7, "watch"))
                join.take(_feature(spec, f"after {tick}", at_ms + 1))
            for visible_ms, block in join.visible(at_ms + 1):
                for index, kind in zip(block.request_index, block.label_kind, strict=True):
                    if block.request_ids[index] == "shown":
                        found.append(((visible_ms - _START_MS) / _MINUTE, LabelKind(kind)))
        join.close()
    return found


def svg() -> str:
    """The picture."""
    height = _TOP + _LANE * len(_LANES) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" font-size="12"'
        ' font-family="sans-serif">',
        "<title>The rows of a pair in each label mode, and what becomes of a late action</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for minute in range(0, _MINUTES + 1, 2):
        lines.append(_text(_x(minute), 20, f"{minute} min", "middle", "#555"))
        lines.append(_line(_x(minute), 28, _x(minute), height - 26, "#ddd"))
    lines.append(_line(_x(10), 28, _x(10), height - 26, "#888", "4 3"))
    lines.append(_text(_x(10) + 4, 40, "end of the window", "start", "#555"))
    for number, (heading, task, acted) in enumerate(_LANES):
        y = _TOP + _LANE * number + _LANE // 2
        lines += [_text(10, y + 4, heading, "start", "#111"), _line(_x(0), y, _x(_MINUTES), y, "#bbb")]
        if acted is not None:
            lines.append(_line(_x(acted[0]), y, _x(acted[1]), y, "#c60", "2 2"))
            lines.append(f'<path d="M{_x(acted[0]) - 4} {y - 6}h8l-4 7z" fill="#c60"/>')
        for at, kind in rows(task, acted):
            fill = "#2a6" if LABEL_OF_KIND[kind] else "white"
            lines.append(f'<circle cx="{_x(at)}" cy="{y}" r="5" fill="{fill}" stroke="#174"/>')
            lines.append(_text(_x(at) + 8, y - 5, kind.name, "start", "#174", 9))
    lines.append(
        _text(
            10,
            height - 8,
            "▼ action, dotted until it arrives    ● row with label 1    ○ row with label 0",
            "start",
            "#555",
        )
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _x(minute: float) -> int:
    return _LEFT + round(minute * _WIDTH / _MINUTES)


def _text(x: int, y: int, text: str, anchor: str, fill: str, size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{text}</text>'


def _line(x: int, y: int, to_x: int, to_y: int, stroke: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{stroke}"{dashed}/>'
