"""What the trainer tells Prometheus: quality of what was served and up to when, training loss, speed and lag."""

from __future__ import annotations

import math

from rillet.pipelines.train_metrics import TrainMetrics
from tests.pipelines.train_parts import trainer_after
from tests.trainer.blocks import RAGGED


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
