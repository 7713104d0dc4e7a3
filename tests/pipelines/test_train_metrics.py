"""What the trainer tells Prometheus: quality of what was served and up to when, training loss, speed and lag."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rillet.pipelines.train_metrics import TrainMetrics
from rillet.sync import Publication
from tests.pipelines.train_parts import trainer_after
from tests.trainer.blocks import RAGGED, make_block


def metrics() -> TrainMetrics:
    return TrainMetrics([task.name for task in RAGGED.tasks])


def test_quality_is_told_with_the_time_up_to_which_it_is_known() -> None:
    trainer, told = trainer_after(3, closed=True), metrics()
    told.evaluate(trainer)
    known = trainer.quality.known(0)
    assert known is not None

    def gauge(name: str) -> float | None:
        return told.registry.get_sample_value(f"rillet_train_quality_{name}", {"task": "watch"})

    assert gauge("auc") == known.metrics.auc
    assert gauge("calibration") == known.metrics.calibration
    assert gauge("normalised_entropy") == known.metrics.normalised_entropy
    assert gauge("rows") == known.metrics.rows >= 100
    assert (gauge("start_timestamp_seconds"), gauge("end_timestamp_seconds")) == (1680, 2040)


def test_failures_to_publish_in_a_row_are_counted_until_one_publication_is_acknowledged() -> None:
    told = metrics()

    def counts() -> tuple[float | None, float | None]:
        sample = told.registry.get_sample_value
        return sample("rillet_train_publish_failures_total"), sample("rillet_train_publish_failures_in_a_row")

    assert counts() == (0, 0)
    for _ in range(2):
        told.publish_failed()
    assert counts() == (2, 2)
    told.published(Publication(epoch=1, blocks=1, rows=1, tombstones=0, bytes=9))
    assert counts() == (2, 0)


def test_figures_of_a_handful_of_rows_are_not_told() -> None:
    trainer, told = trainer_after(1, rows=40, closed=True), metrics()
    told.evaluate(trainer)
    known = trainer.quality.known(0)
    assert known is not None
    assert not known.enough
    for figure in ("auc", "normalised_entropy", "calibration"):
        assert math.isnan(told.registry.get_sample_value(f"rillet_train_quality_{figure}", {"task": "watch"}) or 0)
    positives = told.registry.get_sample_value("rillet_train_quality_positives", {"task": "watch"})
    assert positives == known.metrics.positives > 0


def test_it_is_told_when_quality_will_be_known_until_it_is() -> None:
    told, first = metrics(), "rillet_train_quality_first_known_timestamp_seconds"
    told.evaluate(trainer_after(0))
    assert math.isnan(told.registry.get_sample_value(first, {"task": "watch"}) or 0)
    warming = trainer_after(0)
    block = make_block(np.random.default_rng(0), 50)
    warming.offer(0, 0, replace(block, feature_time_ms=np.full(50, 1_200_000)), 0)
    warming.train(0, more=False, flush=True)
    told.evaluate(warming)
    first_ms = warming.quality.first_known_ms(0)
    assert first_ms is not None
    assert told.registry.get_sample_value(first, {"task": "watch"}) == first_ms / 1000
    told.evaluate(trainer_after(3, closed=True))
    assert math.isnan(told.registry.get_sample_value(first, {"task": "watch"}) or 0)


def test_no_example_has_no_time() -> None:
    told, gauge = metrics(), "rillet_train_newest_event_timestamp_seconds"
    assert math.isnan(told.registry.get_sample_value(gauge) or 0)  # also before the first turn
    told.update(trainer_after(0))
    assert math.isnan(told.registry.get_sample_value(gauge) or 0)


def test_without_served_logits_there_is_no_quality_and_the_rows_are_counted() -> None:
    trainer, told = trainer_after(3, served=False), metrics()
    told.evaluate(trainer)
    assert told.registry.get_sample_value("rillet_train_quality_auc", {"task": "watch"}) is None
    unscored = told.registry.get_sample_value("rillet_train_quality_unscored_rows", {"task": "watch"})
    assert unscored is not None
    assert unscored > 100


def test_training_loss_is_told_once_and_its_gauge_keeps_the_last_one() -> None:
    trainer, told = trainer_after(3), metrics()
    assert math.isnan(told.registry.get_sample_value("rillet_train_loss") or 0)
    loss = told.evaluate(trainer)
    assert loss is not None
    assert told.evaluate(trainer) is None
    assert told.registry.get_sample_value("rillet_train_loss") == loss


def test_speed_and_lag_are_gauges() -> None:
    told = metrics()
    told.measured(1234.5, 17)
    assert told.registry.get_sample_value("rillet_train_rows_per_second") == 1234.5
    assert told.registry.get_sample_value("rillet_train_lag_records") == 17
