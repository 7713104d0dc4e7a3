"""What the trainer tells of quality: of what was served, up to when, and why it is absent."""

from __future__ import annotations

import numpy as np

from rillet.embeddings import TableConfig
from rillet.jobs.train_metrics import TrainMetrics
from rillet.trainer import ModelConfig, OnlineTrainer, TrainerConfig
from tests.trainer.blocks import RAGGED, later, make_block


def trainer_after(blocks: int, *, served: bool = True, rows: int = 200, closed: bool = False) -> OnlineTrainer:
    model, config = ModelConfig(dim=4, hidden=(8,)), TrainerConfig(batch_size=64, quality_rows=100)
    trainer = OnlineTrainer(RAGGED, model, TableConfig(initial_capacity=64), config)
    rng = np.random.default_rng(0)
    for offset in range(blocks):
        trainer.offer(0, offset, make_block(rng, rows, served=served), 0)
    if closed:
        trainer.offer(0, blocks, later(make_block(rng, 4_096, served=False), 10_000_000), 0)
    trainer.train(0, more=False, flush=True)
    return trainer


def metrics() -> TrainMetrics:
    return TrainMetrics([task.name for task in RAGGED.tasks])


def test_quality_is_told_with_the_time_up_to_which_it_is_known() -> None:
    trainer, told = trainer_after(3, closed=True), metrics()
    line = told.evaluate(trainer)
    known = trainer.quality.known(0)
    assert known is not None

    def gauge(name: str) -> float | None:
        return told.registry.get_sample_value(f"rillet_train_quality_{name}", {"task": "watch"})

    assert gauge("auc") == known.metrics.auc
    assert gauge("calibration") == known.metrics.calibration
    assert gauge("normalised_entropy") == known.metrics.normalised_entropy
    assert gauge("rows") == known.metrics.rows >= 100
    assert (gauge("start_timestamp_seconds"), gauge("end_timestamp_seconds")) == (1680, 2040)
    assert (
        f"watch as served 1970-01-01T00:28:00+00:00 to 1970-01-01T00:34:00+00:00: auc {known.metrics.auc:.3f}" in line
    )


def test_without_served_logits_there_is_no_quality_and_the_line_says_why() -> None:
    trainer, told = trainer_after(3, served=False), metrics()
    line = told.evaluate(trainer)
    assert line.endswith("like as served: unknown, rows carry no served logits")
    assert "auc" not in line
    assert told.registry.get_sample_value("rillet_train_quality_auc", {"task": "watch"}) is None
    unscored = told.registry.get_sample_value("rillet_train_quality_unscored_rows", {"task": "watch"})
    assert unscored is not None
    assert unscored > 100


def test_before_a_label_window_has_closed_the_line_says_so() -> None:
    line = metrics().evaluate(trainer_after(0))
    assert "watch as served: not known yet, no label window of a whole stretch of requests has closed" in line


def test_training_loss_is_told_once_and_under_its_own_name() -> None:
    trainer, told = trainer_after(3), metrics()
    line = told.evaluate(trainer)
    loss = told.registry.get_sample_value("rillet_train_loss")
    assert loss is not None
    assert line.startswith(f"training loss {loss:.4f}, ")
    assert "training loss" not in told.evaluate(trainer)
