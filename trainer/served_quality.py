"""Quality as served, by stretches of event time: how good were the answers to the requests of 12:00 to 12:05?

Rows are counted into the stretch of their *request's* time, with the logit that was served then. A stretch is told once
its label windows have closed, since before that it has its positives and not yet its negatives (or, in mode ``immediate``,
not yet its corrections). Predictions made while training are no quality: see ``docs/quality.md``.

Memory is bounded: a histogram per stretch, about a window's worth of them open and ``COMPLETE_KEPT`` complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rillet.schemas import LabelKind, Task
from rillet.trainer.batch import Batch
from rillet.trainer.config import TrainerConfig
from rillet.trainer.errors import TrainerError
from rillet.trainer.evaluation import BINS, SUMS, Metrics, ScoredRows, ScoreHistogram

State = dict[str, npt.NDArray[np.generic]]

#: complete stretches that are held for the figures; rows of older ones are left out
COMPLETE_KEPT = 16
#: stretches that are held beyond those and the window's, for a joiner that closes windows late
_LATE_KEPT = 64
#: stretches of one label window at most
MAX_PER_WINDOW = 64
_MIN_STRETCH_MS = 60_000
_DEFAULT_PER_WINDOW = 8
#: a three-day window is told four times a day rather than every nine hours
_LONG_STRETCH_MS = 6 * 3_600_000


@dataclass(frozen=True, slots=True)
class KnownQuality:
    """Figures of the newest complete stretches of one task.

    :param start_ms: of the oldest stretch that was needed for enough rows; event time of requests, inclusive.
    :param end_ms: of the newest complete stretch, exclusive: how far quality is known.
    """

    metrics: Metrics
    start_ms: int
    end_ms: int


class ServedQuality:
    """Quality of all tasks, fed with every batch that is trained on.

    The order of rows does not matter, as long as a row comes while its stretch is held.
    """

    def __init__(self, tasks: Sequence[Task], config: TrainerConfig) -> None:
        """
        :raises TrainerError: stretches so short that a label window has too many of them.
        """
        self._tasks = [_TaskQuality(task, config) for task in tasks]
        self._newest_ms = -1

    def add(self, batch: Batch) -> None:
        """Counts a batch. Rows without a served logit are not judged, only counted."""
        self._newest_ms = max(self._newest_ms, batch.newest_event_ms)
        for column, task in enumerate(self._tasks):
            taught = batch.mask[:, column] != 0
            if taught.any():
                task.add(batch, column, taught, self._newest_ms)

    def known(self, task: int) -> KnownQuality | None:
        """The newest figures of a task; None until a stretch is complete."""
        return self._tasks[task].known(self._newest_ms)

    def stretch_ms(self, task: int) -> int:
        """Length of a stretch of a task."""
        return self._tasks[task].stretch_ms

    def held_rows(self, task: int) -> int:
        """Rows of a task in the stretches that are held, complete or not."""
        return self._tasks[task].held_rows

    def unscored_rows(self, task: int) -> int:
        """Rows of a task that carried no served logit, since the very first example."""
        return self._tasks[task].unscored_rows

    def left_out_rows(self, task: int) -> int:
        """Rows of a task that came when their stretch was no longer held, or whose stretch never became complete."""
        return self._tasks[task].left_out_rows

    def state(self) -> State:
        """Everything, as arrays."""
        state: State = {"newest_ms": np.array([self._newest_ms])}
        for index, task in enumerate(self._tasks):
            state |= {f"{index}.{name}": array for name, array in task.state().items()}
        return state

    def load_state(self, state: State) -> None:
        """Goes on from :meth:`state`; a task whose stretches had another length starts empty."""
        self._newest_ms = int(state["newest_ms"][0])
        for index, task in enumerate(self._tasks):
            prefix = f"{index}."
            task.load_state({key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)})


class _TaskQuality:
    """The stretches of one task. A stretch is numbered by its start over its length."""

    def __init__(self, task: Task, config: TrainerConfig) -> None:
        self._window_ms = task.window_ms
        self._waits_for_negatives = task.labels != "immediate"
        self._rows = config.quality_rows
        self.stretch_ms = config.quality_stretch_ms or _default_stretch_ms(task.window_ms)
        per_window = -(-task.window_ms // self.stretch_ms)
        if per_window > MAX_PER_WINDOW:
            raise TrainerError(
                f"[trainer] quality_stretch_ms: {self.stretch_ms} makes {per_window} stretches of the label window of task"
                f" {task.name}, at most {MAX_PER_WINDOW} are held: set {-(-task.window_ms // MAX_PER_WINDOW)} or more, or 0"
            )
        # Beside the window: one that fills, one of slack, and room for a joiner that closes windows late.
        self._limit = per_window + 2 + COMPLETE_KEPT + _LATE_KEPT
        self._held: dict[int, ScoreHistogram] = {}
        #: the oldest stretch that rows are still taken for
        self._oldest = 0
        #: the newest request of which a negative has come: its window was closed
        self._closed_ms = -1
        self.unscored_rows = 0
        self.left_out_rows = 0

    def add(self, batch: Batch, column: int, taught: npt.NDArray[np.bool_], newest_ms: int) -> None:
        """Counts the rows of a batch that ``taught`` selects."""
        closing = taught & (batch.label_kind == LabelKind.NEGATIVE)
        if closing.any():
            self._closed_ms = max(self._closed_ms, int(batch.feature_time_ms[closing].max()))
        logits = batch.served_logits[:, column]
        judged = np.flatnonzero(taught & np.isfinite(logits))
        self.unscored_rows += int(np.count_nonzero(taught)) - len(judged)
        if not len(judged):
            self._forget(newest_ms)
            return
        stretches = batch.feature_time_ms[judged] // self.stretch_ms
        order = np.argsort(stretches, kind="stable")
        judged, stretches = judged[order], stretches[order]
        rows = ScoredRows.of(
            logits[judged], batch.labels[judged, column], batch.label_kind[judged], batch.sampling_rate[judged]
        )
        # Rows of little traffic are spread over many stretches: only this loop is per stretch.
        first = np.flatnonzero(np.diff(stretches, prepend=-1)).tolist()
        for start, end in pairwise([*first, len(stretches)]):
            stretch = int(stretches[start])
            if stretch < self._oldest:
                self.left_out_rows += end - start
            else:
                self._held.setdefault(stretch, ScoreHistogram()).add_scored(rows, slice(start, end))
        self._forget(newest_ms)

    @property
    def held_rows(self) -> int:
        """Rows in all stretches that are held."""
        return sum(histogram.rows for histogram in self._held.values())

    def known(self, newest_ms: int) -> KnownQuality | None:
        """Figures of the newest complete stretches that have enough rows, or of all that are held."""
        total = ScoreHistogram()
        first = last = None
        for stretch in reversed(self._complete(newest_ms)):
            total.merge(self._held[stretch])
            first, last = stretch, stretch if last is None else last
            if total.rows >= self._rows:
                break
        if first is None or last is None:
            return None
        return KnownQuality(total.metrics(), first * self.stretch_ms, (last + 1) * self.stretch_ms)

    def state(self) -> State:
        """Everything, as arrays."""
        held = sorted(self._held)
        counts = [self._held[stretch].counts for stretch in held]
        sums = [self._held[stretch].sums for stretch in held]
        return {
            "stretches": np.array(held, np.int64),
            # Shapes stand here for the case that none is held.
            "counts": np.array(counts).reshape(len(held), 2, BINS),
            "sums": np.array(sums).reshape(len(held), SUMS),
            "marks": np.array([self.stretch_ms, self._oldest, self._closed_ms, self.unscored_rows, self.left_out_rows]),
        }

    def load_state(self, state: State) -> None:
        """Goes on from :meth:`state`."""
        stretch_ms, oldest, closed_ms, self.unscored_rows, self.left_out_rows = state["marks"].tolist()
        if stretch_ms != self.stretch_ms:
            return
        self._oldest, self._closed_ms = oldest, closed_ms
        self._held = {
            stretch: ScoreHistogram(np.array(counts, np.float64), np.array(sums, np.float64))
            for stretch, counts, sums in zip(state["stretches"].tolist(), state["counts"], state["sums"], strict=True)
        }

    def _complete(self, newest_ms: int) -> list[int]:
        """Held stretches whose label windows have closed, oldest first.

        By time, with a stretch of slack for rows that other partitions bring later; and where negatives come with the
        close of a window, one of a request after the stretch must have come too: a joiner may close windows late.
        """
        due_ms = newest_ms - self._window_ms - self.stretch_ms
        known_ms = min(due_ms, self._closed_ms) if self._waits_for_negatives else due_ms
        return sorted(stretch for stretch in self._held if (stretch + 1) * self.stretch_ms <= known_ms)

    def _forget(self, newest_ms: int) -> None:
        complete = self._complete(newest_ms)
        # Memory is bounded even where windows do not close for long past their time, or requests lie far in the future.
        excess = sorted(self._held)[: -self._limit]
        for stretch in {*complete[:-COMPLETE_KEPT], *excess}:
            histogram = self._held.pop(stretch)
            self._oldest = max(self._oldest, stretch + 1)
            if stretch not in complete:
                self.left_out_rows += histogram.rows


def _default_stretch_ms(window_ms: int) -> int:
    short = min(window_ms // _DEFAULT_PER_WINDOW, _LONG_STRETCH_MS)
    return max(short, _MIN_STRETCH_MS, -(-window_ms // MAX_PER_WINDOW))
