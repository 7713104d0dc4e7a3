"""Quality as served, by stretches of event time: how good were the answers to the requests of 12:00 to 12:05?

Rows are counted into the stretch of their *request's* time, with the logit that was served then. A stretch is told once
its label windows have closed, since before that it has its positives and not yet its negatives (or, in mode ``immediate``,
not yet its corrections). Predictions made while training are no quality: see ``docs/quality.md``.

Memory is bounded: a histogram per stretch, about a window's worth of them open and ``COMPLETE_KEPT`` complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rillet.schemas import LabelKind, Task
from rillet.schemas.arrays import Bools, Float64s, Int64s
from rillet.trainer.batch import Batch
from rillet.trainer.config import TrainerConfig
from rillet.trainer.errors import CheckpointError, TrainerError
from rillet.trainer.evaluation import BINS, SUMS, Metrics, ScoredRows, ScoreHistogram
from rillet.trainer.recent_times import RecentTimes

State = dict[str, npt.NDArray[np.generic]]

#: complete stretches that are held for the figures; rows of older ones are left out
COMPLETE_KEPT = 16
#: stretches that are held beyond those and the window's, for a joiner that closes windows late
_LATE_KEPT = 64
#: stretches of one label window at most
MAX_PER_WINDOW = 64
#: requests whose times tell what time it is for a task: many against the wrong clocks among them, and few enough to come
#: within minutes where there is little traffic
RECENT_REQUESTS = 128
#: of those so many must be of requests after a stretch before it can be complete
_REACHED_SHARE = 0.75
_MIN_STRETCH_MS = 60_000
_DEFAULT_PER_WINDOW = 8
#: a three-day window is told four times a day rather than every nine hours
_LONG_STRETCH_MS = 6 * 3_600_000
#: rows of either class below which figures are noise: the standard error of an AUC is some 0.05 then
FEWEST_OF_A_CLASS = 30


@dataclass(frozen=True, slots=True)
class KnownQuality:
    """Figures of the newest complete stretches of one task.

    :param start_ms: of the oldest stretch that was needed for enough rows; event time of requests, inclusive.
    :param end_ms: of the newest complete stretch, exclusive: how far quality is known.
    """

    metrics: Metrics
    start_ms: int
    end_ms: int

    @property
    def enough(self) -> bool:
        """Whether there are rows enough of either class for the figures to say anything."""
        rows, positives = self.metrics.rows, self.metrics.positives
        return min(positives, rows - positives) >= FEWEST_OF_A_CLASS


class ServedQuality:
    """Quality of all tasks, fed with every batch that is trained on.

    The order of rows does not matter, as long as a row comes while its stretch is held.
    """

    def __init__(self, tasks: Sequence[Task], config: TrainerConfig) -> None:
        """
        :raises TrainerError: stretches so short that a label window has too many of them.
        """
        self._tasks = [_TaskQuality(task, config) for task in tasks]

    def add(self, batch: Batch) -> None:
        """Counts a batch. Rows without a served logit are not judged, only counted."""
        taught = batch.mask != 0
        judged = taught & np.isfinite(batch.served_logits)
        # All tasks' rows are scored at once: this runs with every step.
        at, tasks = np.nonzero(judged)
        rows = ScoredRows.of(
            batch.served_logits[judged], batch.labels[judged], batch.label_kind[at], batch.sampling_rate[at]
        )
        times = batch.feature_time_ms[at]
        for column, task in enumerate(self._tasks):
            task.add(batch, taught[:, column], rows, times, (tasks == column).nonzero()[0])

    def known(self, task: int) -> KnownQuality | None:
        """The newest figures of a task; None until a stretch is complete."""
        return self._tasks[task].known()

    def first_known_ms(self, task: int) -> int | None:
        """Event time at which the oldest stretch that is held becomes complete; None while none is held."""
        return self._tasks[task].first_known_ms

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
        return {
            f"{index}.{name}": array for index, task in enumerate(self._tasks) for name, array in task.state().items()
        }

    def load_state(self, state: State) -> None:
        """Goes on from :meth:`state`.

        A task whose stretches had another length, or whose labels were complete at another time, starts with those that
        begin after all rows that were held.

        :raises CheckpointError: an array of it is missing.
        """
        for index, task in enumerate(self._tasks):
            prefix = f"{index}."
            try:
                task.load_state({k.removeprefix(prefix): array for k, array in state.items() if k.startswith(prefix)})
            except KeyError as error:
                raise CheckpointError(
                    f"the checkpoint has no array {prefix}{error.args[0]} of quality: it was written by another version"
                    " of rillet; restore it with that version, or remove the checkpoints to start anew"
                ) from error


class _TaskQuality:
    """The stretches of one task. A stretch is numbered by its start over its length."""

    def __init__(self, task: Task, config: TrainerConfig) -> None:
        immediate = task.labels == "immediate"
        #: rows of this kind come in order of request time, this long before the labels of their requests are complete
        self._clock_kind = LabelKind.PROVISIONAL if immediate else LabelKind.NEGATIVE
        # A row of the clock's kind comes when labels are awaited for so long still.
        self._open_ms = task.window_ms if immediate else task.window_ms - task.closes_ms
        self._window_ms = task.window_ms
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
        self._counts: Float64s = np.zeros((0, 2, BINS))
        self._sums: Float64s = np.zeros((0, SUMS))
        #: places in those of the stretches that are held, and places that are free
        self._held: dict[int, int] = {}
        self._free: list[int] = []
        self._index()
        #: the oldest stretch that rows are still taken for
        self._oldest = 0
        #: stretches that rows were already counted for under another length, window or label mode: never told, since they
        #: would be incomplete
        self._begun: Int64s = np.empty(0, np.int64)
        #: times of the newest requests with rows of the clock's kind, and of any kind
        self._clock, self._recent = RecentTimes(RECENT_REQUESTS), RecentTimes(RECENT_REQUESTS)
        self.unscored_rows = 0
        self.left_out_rows = 0

    def add(self, batch: Batch, taught: Bools, rows: ScoredRows, times_ms: Int64s, chosen: Int64s) -> None:
        """Counts those of the scored rows that are of this task.

        :param taught: bool[n], the rows of the batch that teach it.
        :param times_ms: request times of the scored rows, int64[m].
        :param chosen: which of the scored rows, int64[k].
        """
        self._clock.add(batch.feature_time_ms[taught & (batch.label_kind == self._clock_kind)])
        self._recent.add(batch.feature_time_ms[taught])
        self.unscored_rows += int(np.count_nonzero(taught)) - len(chosen)
        stretches = times_ms[chosen] // self.stretch_ms
        # The rows of a batch are spread over few stretches or many: nothing is done per stretch unless one is new.
        at = np.searchsorted(self._numbers, stretches)
        grown = bool((self._numbers[at] != stretches).any())
        if grown:
            usable = (stretches >= self._oldest) & ~np.isin(stretches, self._begun)
            self.left_out_rows += int(np.count_nonzero(~usable))
            chosen, stretches = chosen[usable], stretches[usable]
            for stretch in set(stretches.tolist()).difference(self._held):
                self._held[stretch] = self._place()
            self._index()
            at = np.searchsorted(self._numbers, stretches)
        places = self._places[at]
        cells = places * (2 * BINS) + rows.bins[chosen]
        counts = self._counts.reshape(-1)
        np.add.at(counts, cells, rows.negative[chosen])
        np.add.at(counts, cells + BINS, rows.positive[chosen])
        for column, of_rows in enumerate(rows.sums):
            self._sums[:, column] += np.bincount(places, of_rows[chosen], len(self._sums))
        if grown:
            self._forget()
            self._index()

    @property
    def held_rows(self) -> int:
        """Rows in all stretches that are held."""
        return sum(self._held_rows(stretch) for stretch in self._held)

    @property
    def first_known_ms(self) -> int | None:
        """When the window of the oldest stretch has closed and a stretch of slack is over; see :meth:`_complete`."""
        return (min(self._held) + 2) * self.stretch_ms + self._window_ms if self._held else None

    def known(self) -> KnownQuality | None:
        """Figures of the newest complete stretches that have enough rows, or of all that are held."""
        total = ScoreHistogram()
        first = last = None
        for stretch in reversed(self._complete()):
            place = self._held[stretch]
            total.merge(ScoreHistogram(self._counts[place], self._sums[place]))
            first, last = stretch, stretch if last is None else last
            if total.rows >= self._rows:
                break
        if first is None or last is None:
            return None
        return KnownQuality(total.metrics(), first * self.stretch_ms, (last + 1) * self.stretch_ms)

    def state(self) -> State:
        """Everything, as arrays."""
        held = sorted(self._held)
        places = [self._held[stretch] for stretch in held]
        return {
            "stretches": np.array(held, np.int64),
            "counts": self._counts[places],
            "sums": self._sums[places],
            "begun": self._begun[self._begun >= self._oldest],
            "clock": self._clock.times(),
            "recent": self._recent.times(),
            "marks": np.array([self.stretch_ms, self._oldest, self.unscored_rows, self.left_out_rows]),
            "closing": np.array([self._clock_kind, self._window_ms, self._open_ms]),
        }

    def load_state(self, state: State) -> None:
        """Goes on from :meth:`state`.

        :raises KeyError: the name of an array that is missing.
        """
        stretch_ms, oldest, unscored_rows, left_out_rows = state["marks"].tolist()
        held, sums = np.array(state["stretches"], np.int64), np.array(state["sums"], np.float64)
        counts, begun = np.array(state["counts"], np.float64), np.array(state["begun"], np.int64)
        self._clock, self._recent = RecentTimes(RECENT_REQUESTS), RecentTimes(RECENT_REQUESTS)
        self._clock.add(np.array(state["clock"], np.int64))
        self._recent.add(np.array(state["recent"], np.int64))
        self.unscored_rows, self.left_out_rows = unscored_rows, left_out_rows
        self._free = []
        if stretch_ms == self.stretch_ms and state["closing"].tolist() == [
            self._clock_kind,
            self._window_ms,
            self._open_ms,
        ]:
            self._oldest, self._begun, self._counts, self._sums = oldest, begun, counts, sums
            self._held = {stretch: place for place, stretch in enumerate(held.tolist())}
            self._index()
            return
        self._held, self._counts, self._sums = {}, np.zeros((0, 2, BINS)), np.zeros((0, SUMS))
        self._index()
        self.left_out_rows += int(sums[:, 2].sum())
        self._oldest = -(-oldest * stretch_ms // self.stretch_ms)
        first = np.concatenate((held, begun)) * stretch_ms // self.stretch_ms
        most = -(-stretch_ms // self.stretch_ms) + 1
        last = ((np.concatenate((held, begun)) + 1) * stretch_ms - 1) // self.stretch_ms
        self._begun = np.unique(np.minimum(first[:, None] + np.arange(most), last[:, None]))

    def _complete(self) -> list[int]:
        """Held stretches whose label windows have closed, oldest first.

        The close of a window is seen by the negatives that it brings; where they do not wait for it, by those of requests
        that were later by as much. Most of the newest must be past the stretch: single rows may have any time,
        since clocks of clients are wrong by up to a day. Beside that there is a stretch of slack, for rows that other
        partitions bring later.
        """
        known_ms = self._clock.reached_ms(_REACHED_SHARE) - self._open_ms - self.stretch_ms
        return sorted(stretch for stretch in self._held if (stretch + 1) * self.stretch_ms <= known_ms)

    def _forget(self) -> None:
        complete = self._complete()
        for stretch in complete[:-COMPLETE_KEPT]:
            self._drop(stretch)
            self._oldest = max(self._oldest, stretch + 1)
        excess = len(self._held) - self._limit
        if excess <= 0:
            return
        # Memory is bounded even where windows do not close for long past their time, or requests lie far in the future.
        held = sorted(self._held)
        present = self._recent.reached_ms(0.5) // self.stretch_ms
        ahead = {stretch for stretch in held if stretch > present + self._limit - COMPLETE_KEPT}
        for stretch in [*sorted(ahead, reverse=True), *(s for s in held if s not in ahead)][:excess]:
            self.left_out_rows += 0 if stretch in complete else self._held_rows(stretch)
            self._drop(stretch)
            if stretch not in ahead:
                self._oldest = max(self._oldest, stretch + 1)

    def _index(self) -> None:
        """Brings up to date by what places are looked up: stretches, ascending, with one that never comes at the end."""
        held = sorted(self._held)
        self._numbers: Int64s = np.array([*held, np.iinfo(np.int64).max], np.int64)
        self._places: Int64s = np.array([self._held[stretch] for stretch in held] + [0], np.int64)

    def _held_rows(self, stretch: int) -> int:
        return int(self._sums[self._held[stretch], 2])

    def _place(self) -> int:
        if not self._free:
            size = len(self._sums)
            self._free = list(range(2 * size + 7, size - 1, -1))
            self._counts = np.concatenate((self._counts, np.zeros((size + 8, 2, BINS))))
            self._sums = np.concatenate((self._sums, np.zeros((size + 8, SUMS))))
        return self._free.pop()

    def _drop(self, stretch: int) -> None:
        place = self._held.pop(stretch)
        self._counts[place] = 0
        self._sums[place] = 0
        self._free.append(place)


def _default_stretch_ms(window_ms: int) -> int:
    short = min(window_ms // _DEFAULT_PER_WINDOW, _LONG_STRETCH_MS)
    return max(short, _MIN_STRETCH_MS, -(-window_ms // MAX_PER_WINDOW))
