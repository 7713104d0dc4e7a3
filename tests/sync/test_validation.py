"""What a record may do, by its bytes and those before it; the rest is seen from a replica."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import ActionEvent, DeltaBlock, DenseRef, EpochClaim, Record, encode
from rillet.sync import Incident
from rillet.sync.blocks import build_block
from rillet.sync.fence import Fence
from rillet.sync.validation import Validation, validate
from tests.sync.fakes import DIM, MODEL_HASH, TABLE_SHARD

#: after sequence 6 of epoch 5
FENCE = Fence(5, 7)


def block(epoch: int, sequence: int) -> DeltaBlock:
    return build_block(
        TABLE_SHARD, epoch=epoch, sequence=sequence, dim=DIM, fids=np.array([1]), rows=np.ones((1, DIM), np.float32)
    )


def check(record: Record) -> Validation:
    return validate(encode(record), TABLE_SHARD, DIM, FENCE)


def test_a_claim_moves_the_fence_and_is_not_applied_whatever_its_spec() -> None:
    for model_hash in (MODEL_HASH, MODEL_HASH + 1):
        assert check(EpochClaim("m", 0, 6, model_hash, "w")) == Validation(fence=Fence(6, 1))


def test_a_claim_of_an_epoch_that_is_held_already_is_refused() -> None:
    result = check(EpochClaim("m", 0, 5, MODEL_HASH, "late"))
    assert (result.incident, result.fence, result.rows_missing) == (Incident.DUPLICATE, None, False)


@pytest.mark.parametrize("record", [block(5, 7), DenseRef("m", 0, 5, 7, MODEL_HASH, 1, "p", "s", 0)])
def test_the_next_block_and_the_next_dense_reference_are_applied(record: DeltaBlock | DenseRef) -> None:
    result = check(record)
    assert type(result.record) is type(record)
    assert (result.incident, result.fence) == (None, Fence(5, 8))


def test_a_block_after_a_gap_is_applied_and_the_gap_told() -> None:
    result = check(block(5, 9))
    assert result.record is not None
    assert (result.incident, result.rows_missing, result.fence) == (Incident.GAP, True, Fence(5, 10))
    assert "sequence 9, where sequence 7 was expected" in result.detail


def test_a_damaged_block_keeps_its_place_in_the_sequence() -> None:
    result = check(replace(block(5, 7), crc32c=1))
    assert result.record is None
    assert (result.incident, result.rows_missing, result.fence) == (Incident.BAD_BLOCK, True, Fence(5, 8))


def test_a_record_of_another_topic_is_no_delta() -> None:
    result = check(ActionEvent("r", 1, 2, "click"))
    assert (result.incident, result.rows_missing) == (Incident.UNDECODABLE, True)
    assert result.detail == "ActionEvent does not belong in the delta log"
