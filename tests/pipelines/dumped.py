"""The records of a topic, the first of which are dumped into files, and a batch stage over them."""

from __future__ import annotations

from dataclasses import replace

from rillet.pipelines.batch_stage import BatchOptions, BatchStage
from rillet.trainer import RawRecord
from tests.pipelines.train_parts import encoded_blocks
from tests.trainer.blocks import RAGGED

#: the topic of all tests: records of both partitions in turn, of which the first ones are dumped
VALUES = encoded_blocks(14, rows=37)
RECORDS = [RawRecord(number % 2, number // 2, value) for number, value in enumerate(VALUES)]
DUMPED = 8


def batch_stage(url: str, **changed: int) -> BatchStage:
    stage = BatchStage.planned(BatchOptions(url), None, {}, RAGGED, topic="examples", seed=0)
    assert stage is not None
    return replace(stage, plan=replace(stage.plan, chunk_rows=50, **changed))
