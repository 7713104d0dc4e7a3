"""A model in a backtest: batches are cut and weights go out when they would live."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest

from rillet.backtest.scorers import ModelScorer
from rillet.jobs.config import RilletConfig
from rillet.joiner import JoinerConfig
from rillet.joiner.simulated import SimulatedJoin
from rillet.schemas import ExampleBlock
from rillet.trainer.config import ModelConfig, TrainerConfig
from tests.backtest.events import SPEC, action, request


@pytest.fixture
def blocks() -> list[ExampleBlock]:
    join = SimulatedJoin(SPEC, JoinerConfig(), lateness_ms=0, commit_ms=0, directory=Path("/nonexistent"))
    for at in range(6):
        join.take(request(str(at), 100 * at))
        join.take(action(str(at), 100 * at + 1))
    return [block for _, block in join.visible(1 << 62)]


def scorer_of(**trainer: int) -> ModelScorer:
    settings = {"batch_size": 4, "max_wait_ms": 1_000} | trainer
    config = RilletConfig(
        spec=Path("a"),
        model=ModelConfig(dim=2, hidden=(4,)),
        trainer=TrainerConfig(**settings),  # type: ignore[arg-type]
    )
    return ModelScorer(SPEC, config)


def test_rows_that_have_waited_are_trained_on_before_the_next_ones_come(blocks: list[ExampleBlock]) -> None:
    scorer = scorer_of()
    scorer.learn(0, blocks[0])
    scorer.learn(500, blocks[1])
    assert scorer.trainer.counters.batches == 0
    scorer.learn(1_000, blocks[2])
    assert (scorer.trainer.counters.batches, scorer.trainer.counters.rows) == (1, 2)
    assert scorer.trainer.waiting_rows == 1
    scorer.publish(1_999, dense=True)
    assert scorer.trainer.waiting_rows == 1, "it has not waited for long enough"
    scorer.publish(2_000, dense=True)
    assert scorer.trainer.waiting_rows == 0


def test_weights_learned_since_their_last_publication_go_out_even_if_no_row_was_learned_since_the_last_one(
    blocks: list[ExampleBlock],
) -> None:
    scorer = scorer_of(batch_size=1)
    event = request("z", 9_000, [1, 2])
    for _ in range(11):  # so old that one row more does not make it publish out of turn
        scorer.learn(0, blocks[0])
    scorer.publish(5, dense=True)
    before = scorer.score([event])
    scorer.learn(6, blocks[1])
    scorer.publish(10, dense=False)
    rows_only = scorer.score([event])
    assert not np.array_equal(before, rows_only)
    scorer.publish(20, dense=True)
    assert not np.array_equal(rows_only, scorer.score([event])), "the network learned from that row as well"


def test_nothing_is_served_that_was_not_published(blocks: list[ExampleBlock]) -> None:
    scorer = scorer_of(batch_size=1)
    event = request("z", 9_000, [1, 2])
    before = scorer.score([event])
    for block in blocks:
        scorer.learn(0, block)
    np.testing.assert_array_equal(scorer.score([event]), before)


def test_what_was_published_is_forgotten_at_the_end(blocks: list[ExampleBlock]) -> None:
    memory = fsspec.filesystem("memory")
    held = set(memory.find("/"))
    scorer = scorer_of(batch_size=1)
    for at, block in enumerate(blocks):
        scorer.learn(at, block)
        scorer.publish(at, dense=True)
    assert set(memory.find("/")) > held
    scorer.close()
    assert set(memory.find("/")) == held
