"""Quality of stretches of request time: told once labels are complete, whatever the order of rows."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from rillet.schemas import LabelKind, Task
from rillet.schemas.spec import LabelMode
from rillet.trainer import Batch, CheckpointError, ServedQuality, TrainerConfig, TrainerError
from rillet.trainer.quality import auc
from rillet.trainer.served_quality import COMPLETE_KEPT, RECENT_REQUESTS

MINUTE = 60_000
TASK = Task("watch", "watch", window_ms=10 * MINUTE, labels="positives_first")
EVERY = TrainerConfig(quality_stretch_ms=MINUTE, quality_rows=1)
NEGATIVE, PROVISIONAL = LabelKind.NEGATIVE, LabelKind.PROVISIONAL
POSITIVE, CORRECTION = LabelKind.POSITIVE, LabelKind.CORRECTION


def rows(
    times_ms: list[int] | np.ndarray,
    kinds: list[LabelKind] | np.ndarray,
    logits: list[float] | np.ndarray,
    rate: float = 1.0,
) -> Batch:
    """A batch of one task; only the columns that quality reads say anything."""
    n = len(times_ms)
    times, kind = np.asarray(times_ms, np.int64), np.asarray(kinds, np.uint8)
    positive = np.isin(kind, [POSITIVE, CORRECTION, LabelKind.LATE_POSITIVE])
    return Batch(
        fids=np.empty(0, np.int64),
        lengths=None,
        dense=np.empty((n, 0), np.float32),
        labels=positive.astype(np.uint8)[:, None],
        mask=np.ones((n, 1), np.uint8),
        sampling_rate=np.full(n, rate, np.float32),
        label_kind=kind,
        feature_time_ms=times,
        served_logits=np.asarray(logits, np.float32)[:, None],
        action_time_ms=times,
        feature_ingest_ms=times,
        action_ingest_ms=times,
        positions={},
        pieces=[],
        numbers=np.arange(n),
    )


def part(batch: Batch, chosen: np.ndarray) -> Batch:
    """Some rows of a batch."""
    columns = ("dense", "labels", "mask", "sampling_rate", "label_kind", "feature_time_ms", "served_logits")
    return replace(batch, **{name: getattr(batch, name)[chosen] for name in columns})


def at(time_ms: int, kind: LabelKind = NEGATIVE, requests: int = RECENT_REQUESTS) -> Batch:
    """Rows without a score that tell what time it is: negatives of requests of this time and the next."""
    return rows(time_ms + np.arange(requests) % 2, [kind] * requests, [np.nan] * requests)


def test_a_stretch_is_told_once_negatives_of_later_requests_have_come() -> None:
    quality = ServedQuality([TASK], EVERY)
    quality.add(rows([5_000, 50_000], [POSITIVE, POSITIVE], [1.0, 2.0]))
    quality.add(rows([6_000, 7_000], [NEGATIVE, NEGATIVE], [0.0, 1.5]))
    quality.add(at(60 * MINUTE, POSITIVE))
    quality.add(at(2 * MINUTE - 1))
    assert quality.known(0) is None
    quality.add(at(2 * MINUTE))
    known = quality.known(0)
    assert known is not None
    assert (known.start_ms, known.end_ms, known.metrics.rows) == (0, MINUTE, 4)
    assert known.metrics.auc == 0.75


@pytest.mark.parametrize("mode", get_args(LabelMode))
def test_it_is_told_at_what_event_time_the_first_stretch_will_be(mode: LabelMode) -> None:
    quality = ServedQuality([replace(TASK, labels=mode)], EVERY)
    assert quality.first_known_ms(0) is None
    kind = PROVISIONAL if mode == "immediate" else NEGATIVE
    quality.add(rows([3 * MINUTE + 5_000], [kind], [1.0]))
    first_known_ms = quality.first_known_ms(0)
    assert first_known_ms == 15 * MINUTE
    # Provisional negatives come with their requests, others when the window of their requests closes.
    request_ms = first_known_ms if mode == "immediate" else first_known_ms - TASK.window_ms
    quality.add(at(request_ms - 1, kind))
    assert quality.known(0) is None
    quality.add(at(request_ms, kind))
    assert quality.known(0) is not None


def test_where_negatives_do_not_wait_for_the_window_their_stretch_does() -> None:
    quality = ServedQuality([replace(TASK, late="correct", negative_after_ms=MINUTE)], EVERY)
    quality.add(rows([1_000, 2_000, 3_000], [NEGATIVE] * 3, [1.0, 0.0, 0.5]))
    quality.add(rows([1_000], [LabelKind.LATE_POSITIVE], [1.0]))
    # The negatives of requests eleven minutes after the first come when these windows close.
    quality.add(at(11 * MINUTE - 1))
    assert quality.known(0) is None
    quality.add(at(11 * MINUTE))
    known = quality.known(0)
    assert known is not None
    assert (known.metrics.auc, known.metrics.base_rate) == (1.0, pytest.approx(1 / 3))


def test_where_rows_go_out_at_once_corrections_are_waited_for() -> None:
    quality = ServedQuality([replace(TASK, labels="immediate")], EVERY)
    quality.add(rows([1_000, 2_000, 3_000], [PROVISIONAL] * 3, [1.0, 0.0, 0.5]))
    quality.add(rows([1_000], [CORRECTION], [1.0]))
    quality.add(at(12 * MINUTE - 1, PROVISIONAL))
    assert quality.known(0) is None
    quality.add(at(12 * MINUTE, PROVISIONAL))
    known = quality.known(0)
    assert known is not None
    assert (known.metrics.auc, known.metrics.base_rate) == (1.0, pytest.approx(1 / 3))


@pytest.mark.parametrize("mode", get_args(LabelMode))
@pytest.mark.parametrize("ahead_ms", [9 * MINUTE, 24 * 60 * MINUTE])
def test_clients_whose_clocks_are_ahead_do_not_make_stretches_complete(mode: LabelMode, ahead_ms: int) -> None:
    # One request in fifty is stamped up to a day too late, and so are the actions on it.
    rng = np.random.default_rng(0)
    n = 40_000
    times, labels = np.sort(rng.integers(0, 40 * MINUTE, n)), rng.random(n) < 0.2
    delay = rng.integers(0, TASK.window_ms, n)
    stamped = times + np.where(rng.random(n) < 0.02, ahead_ms, 0)
    kinds = np.where(labels, POSITIVE, NEGATIVE)
    out_ms = times + np.where(labels & (mode == "positives_first"), delay, TASK.window_ms)
    if mode == "immediate":
        kinds = np.r_[np.full(n, PROVISIONAL), np.full(labels.sum(), CORRECTION)]
        out_ms, stamped = np.r_[times, (times + delay)[labels]], np.r_[stamped, stamped[labels]]
    order = np.argsort(out_ms, kind="stable")
    batch = rows(stamped[order], kinds[order], np.full(len(order), np.log(0.2 / 0.8)))
    quality = ServedQuality([replace(TASK, labels=mode)], replace(EVERY, quality_rows=3_000))
    told = []
    for chosen in np.array_split(np.arange(len(order)), 200):
        quality.add(part(batch, chosen))
        if (known := quality.known(0)) is not None:
            told.append(known)
    assert len(told) > 50
    for known in told:
        assert known.metrics.calibration == pytest.approx(1, abs=0.12)
        assert known.end_ms <= 40 * MINUTE
    assert quality.left_out_rows(0) < 0.03 * n
    assert len(quality.state()["0.stretches"]) <= 10 + 2 + COMPLETE_KEPT + 64


@pytest.mark.parametrize("mode", get_args(LabelMode))
def test_long_pages_of_a_client_whose_clock_is_ahead_close_nothing(mode: LabelMode) -> None:
    quality = ServedQuality([replace(TASK, labels=mode)], EVERY)
    kind = PROVISIONAL if mode == "immediate" else NEGATIVE
    quality.add(rows([1_000], [kind], [0.0]))
    for second in range(60):
        quality.add(rows([second * 1_000] * 10, [kind] * 10, [0.0] * 10))
    for request in range(4):  # of 500 candidates each, one after the other
        quality.add(rows([24 * 60 * MINUTE + request] * 500, [kind] * 500, [0.0] * 500))
    assert quality.known(0) is None


@pytest.mark.parametrize("mode", get_args(LabelMode))
def test_a_stretch_is_told_minutes_after_its_windows_at_one_row_per_second_too(mode: LabelMode) -> None:
    quality = ServedQuality([replace(TASK, labels=mode)], EVERY)
    kind = PROVISIONAL if mode == "immediate" else NEGATIVE
    for second in range(25 * 60):
        quality.add(rows([second * 1_000], [kind], [0.0]))
    known = quality.known(0)
    assert known is not None
    closed_ms = 25 * MINUTE - (TASK.window_ms if mode == "immediate" else 0)
    assert known.end_ms >= closed_ms - 4 * MINUTE


def test_stretches_of_wrong_clocks_do_not_push_out_those_of_the_present() -> None:
    quality = ServedQuality([TASK], EVERY)
    for minute in range(300):
        quality.add(at(minute * MINUTE, requests=8))
        quality.add(rows([(minute + 11) * MINUTE] * 8, [POSITIVE] * 8, [0.0] * 8))
        quality.add(rows([(minute + 24 * 60) * MINUTE], [POSITIVE], [0.0]))
    held = quality.state()["0.stretches"]
    assert set(range(280, 311)) <= set(held.tolist())
    assert len(held) <= 10 + 2 + COMPLETE_KEPT + 64


def test_positives_of_new_requests_are_not_mixed_with_negatives_of_older_ones() -> None:
    # Traffic triples: a window in order of training would see three times the positives that its negatives belong to.
    rng = np.random.default_rng(0)
    times = np.concatenate([rng.integers(0, 20 * MINUTE, 4_000), rng.integers(20 * MINUTE, 40 * MINUTE, 12_000)])
    labels = rng.random(len(times)) < 0.2
    out_ms = times + np.where(labels, rng.integers(0, TASK.window_ms, len(times)), TASK.window_ms)
    order = np.argsort(out_ms)
    quality = ServedQuality([TASK], EVERY)
    batch = rows(times[order], np.where(labels, POSITIVE, NEGATIVE)[order], np.full(len(times), np.log(0.2 / 0.8)))
    told = []
    for start in range(0, len(times), 100):
        quality.add(part(batch, np.arange(start, min(start + 100, len(times)))))
        known = quality.known(0)
        if known is not None and known.end_ms not in [end for end, _ in told]:
            told.append((known.end_ms, known.metrics))
    assert [end for end, _ in told] == [MINUTE * i for i in range(1, len(told) + 1)]
    assert len(told) >= 35
    for end_ms, metrics in told:
        inside = (times // MINUTE + 1) * MINUTE == end_ms
        assert metrics.rows == inside.sum()
        assert metrics.calibration == pytest.approx(0.2 / labels[inside].mean(), rel=1e-5)


def test_the_order_of_rows_within_what_is_held_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    n = 600
    kinds = np.where(rng.random(n) < 0.3, POSITIVE, NEGATIVE)
    batch = rows(rng.integers(0, 5 * MINUTE, n), kinds, np.round(rng.normal(size=n), 1))
    found = []
    for seed in range(3):
        quality = ServedQuality([TASK], replace(EVERY, quality_rows=10_000))
        order = np.random.default_rng(seed).permutation(n)
        for chosen in np.array_split(order, 7):
            quality.add(part(batch, chosen))
        quality.add(at(10 * MINUTE))
        known = quality.known(0)
        assert known is not None
        found.append(known)
    for other in found[1:]:
        assert other.metrics.auc == found[0].metrics.auc
        assert other.metrics.calibration == pytest.approx(found[0].metrics.calibration, rel=1e-12)
    labels = kinds == POSITIVE
    assert found[0].metrics.rows == n
    assert found[0].metrics.auc == pytest.approx(auc(batch.served_logits[:, 0], labels).value, abs=1e-4)


def test_figures_are_of_the_newest_stretches_with_enough_rows() -> None:
    quality = ServedQuality([TASK], replace(EVERY, quality_rows=5))
    for minute in range(4):
        times = [minute * MINUTE + i for i in range(3)]
        quality.add(rows(times, [POSITIVE, NEGATIVE, NEGATIVE], [1.0 if minute else -9.0, 0.0, 0.0]))
    quality.add(at(10 * MINUTE))
    known = quality.known(0)
    assert known is not None
    assert (known.start_ms, known.end_ms, known.metrics.rows) == (2 * MINUTE, 4 * MINUTE, 6)
    assert known.metrics.auc == 1.0


def test_rows_without_a_served_logit_are_counted_and_not_judged() -> None:
    quality = ServedQuality([TASK], EVERY)
    quality.add(rows([0, 1, 2], [POSITIVE, NEGATIVE, NEGATIVE], [np.nan] * 3))
    quality.add(at(10 * MINUTE))
    assert quality.known(0) is None
    assert quality.unscored_rows(0) == 3 + RECENT_REQUESTS
    assert quality.held_rows(0) == 0


@pytest.mark.parametrize(
    ("window_ms", "stretch_ms"),
    [
        (1_000, MINUTE),
        (10 * MINUTE, 75_000),
        (3 * 24 * 60 * MINUTE, 6 * 60 * MINUTE),
        (90 * 24 * 60 * MINUTE, 121_500_000),
    ],
)
def test_memory_is_bounded_for_windows_of_any_length(window_ms: int, stretch_ms: int) -> None:
    quality = ServedQuality([replace(TASK, window_ms=window_ms)], TrainerConfig())
    assert quality.stretch_ms(0) == stretch_ms
    most = 0
    for step in range(120):
        newest = step * stretch_ms
        quality.add(rows([newest], [POSITIVE], [0.0]))
        quality.add(at(max(0, newest - window_ms)))
        quality.add(rows([max(0, newest - window_ms)], [NEGATIVE], [1.0]))
        if step % 10 == 9:
            most = max(most, len(quality.state()["0.stretches"]))
    assert most <= -(-window_ms // stretch_ms) + 3 + COMPLETE_KEPT
    assert quality.left_out_rows(0) == 0


def test_windows_that_never_close_and_rows_that_come_too_late_are_counted() -> None:
    quality = ServedQuality([TASK], EVERY)
    for minute in range(200):
        quality.add(rows([minute * MINUTE], [POSITIVE], [0.0]))
    held = len(quality.state()["0.stretches"])
    assert held == 10 + 2 + COMPLETE_KEPT + 64
    assert quality.left_out_rows(0) == 200 - held
    quality.add(rows([0], [NEGATIVE], [0.0]))
    assert quality.left_out_rows(0) == 201 - held
    assert quality.held_rows(0) == held


def test_a_restored_one_goes_on_like_the_first() -> None:
    rng = np.random.default_rng(2)
    n = 2_000
    kinds = np.where(rng.random(n) < 0.3, POSITIVE, NEGATIVE)
    batch = rows(np.sort(rng.integers(0, 60 * MINUTE, n)), kinds, rng.normal(size=n))
    first, second = (ServedQuality([TASK], EVERY) for _ in range(2))
    for number, chosen in enumerate(np.array_split(np.arange(n), 20)):
        if number == 11:
            second.load_state({name: array.copy() for name, array in first.state().items()})
        for quality in (first, second):
            quality.add(part(batch, chosen))
    assert first.known(0) is not None
    assert first.known(0) == second.known(0)
    for name, array in first.state().items():
        np.testing.assert_array_equal(array, second.state()[name], err_msg=name)


@pytest.mark.parametrize(("before_ms", "after_ms"), [(MINUTE, 2 * MINUTE), (5 * MINUTE, 2 * MINUTE)])
def test_stretches_that_were_begun_under_another_length_are_never_told(before_ms: int, after_ms: int) -> None:
    first = ServedQuality([TASK], replace(EVERY, quality_stretch_ms=before_ms))
    first.add(rows([1_000, 20 * MINUTE + 1_000, 24 * 60 * MINUTE], [POSITIVE] * 3, [0.0] * 3))
    second = ServedQuality([TASK], replace(EVERY, quality_stretch_ms=after_ms))
    second.load_state(first.state())
    assert (second.held_rows(0), second.left_out_rows(0)) == (0, 3)
    again = ServedQuality([TASK], replace(EVERY, quality_stretch_ms=after_ms))
    again.load_state(second.state())
    for quality in (second, again):
        # of the two stretches that were begun, and of one that was not
        quality.add(rows([2_000, 20 * MINUTE + 2_000, 26 * MINUTE], [NEGATIVE] * 3, [0.0] * 3))
        quality.add(at(60 * MINUTE))
        known = quality.known(0)
        assert known is not None
        assert (known.start_ms, known.metrics.rows) == (26 * MINUTE, 1)
        assert quality.left_out_rows(0) == 5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace(TASK, labels="immediate"), TASK),
        (TASK, replace(TASK, labels="immediate")),
        (replace(TASK, window_ms=20 * MINUTE, labels="immediate"), replace(TASK, labels="immediate")),
    ],
)
def test_stretches_that_were_begun_under_other_labels_are_never_told(before: Task, after: Task) -> None:
    first, second = ServedQuality([before], EVERY), ServedQuality([after], EVERY)
    kind = PROVISIONAL if before.labels == "immediate" else NEGATIVE
    minutes = np.arange(30) * MINUTE
    first.add(rows(minutes, [kind] * 30, [0.0] * 30))
    first.add(at(30 * MINUTE, kind))
    second.load_state(first.state())
    # Actions on the requests of the last minutes are still to come.
    assert second.known(0) is None
    kind = PROVISIONAL if after.labels == "immediate" else NEGATIVE
    second.add(rows([29 * MINUTE, 33 * MINUTE, 33 * MINUTE], [kind, kind, POSITIVE], [0.0] * 3))
    second.add(at(50 * MINUTE, kind))
    known = second.known(0)
    assert known is not None
    assert (known.start_ms, known.metrics.rows) == (33 * MINUTE, 2)


def test_a_state_without_the_arrays_of_quality_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no array 0\.marks.*another version.*remove the checkpoints"):
        ServedQuality([TASK], EVERY).load_state({})


def test_rows_of_a_batch_are_counted_into_the_stretches_of_their_task() -> None:
    tasks = [replace(TASK, labels="immediate"), TASK]
    n = 512
    rng = np.random.default_rng(3)
    one = rows(rng.integers(0, 60 * MINUTE, n), np.where(rng.random(n) < 0.1, POSITIVE, NEGATIVE), rng.normal(size=n))
    task = rng.integers(0, 2, n)
    mask = np.eye(2, dtype=np.uint8)[task]
    batch = replace(one, mask=mask, labels=mask * one.labels, served_logits=np.repeat(one.served_logits, 2, axis=1))
    quality = ServedQuality(tasks, EVERY)
    quality.add(batch)
    quality.add(batch)
    kept = {name: array.copy() for name, array in quality.state().items()}
    assert len(kept["0.stretches"]) > 50
    for index in range(2):
        at_task = task == index
        assert kept[f"{index}.sums"][:, 2].sum() == 2 * at_task.sum()
        minutes, counts = np.unique(one.feature_time_ms[at_task] // MINUTE, return_counts=True)
        np.testing.assert_array_equal(kept[f"{index}.stretches"], minutes)
        np.testing.assert_array_equal(kept[f"{index}.sums"][:, 2], 2 * counts)


def test_stretches_that_are_too_short_for_the_window_are_refused() -> None:
    with pytest.raises(
        TrainerError, match=r"1000 makes 600 stretches of the label window of task watch.*set 9375 or more"
    ):
        ServedQuality([TASK], replace(EVERY, quality_stretch_ms=1_000))
