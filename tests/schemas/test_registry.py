"""The specs that a service knows: whose records it takes, and what becomes of the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    RecordError,
    Slot,
    SpecError,
    SpecMismatchError,
    SpecRegistry,
)
from tests.schemas.specs import CHANGED, PLAIN

WIDER = replace(PLAIN, item=(*PLAIN.item, Slot("shop", 18, "id")))
REGISTRY = SpecRegistry(WIDER, [PLAIN])


def event_of(spec: FeatureSpec) -> FeatureEvent:
    fids = np.array([slot.slot << 48 | 5 for slot in spec.item])
    return FeatureEvent("r1", 1_700_000_000_000, spec.hash, np.array([1 << 48 | 7]), np.array([1]), fids)


def test_an_event_of_our_own_spec_is_the_same_object() -> None:
    event = event_of(WIDER)
    assert REGISTRY.event(event) is event
    action = ActionEvent("r1", 0, 1, "click")
    assert REGISTRY.event(action) is action


def test_an_event_of_a_known_spec_becomes_one_of_ours() -> None:
    converted = REGISTRY.event(event_of(PLAIN))
    WIDER.check_feature(converted)
    assert converted.item_fids.tolist() == [16 << 48 | 5, 18 << 48 | (1 << 48) - 1]


def test_an_event_of_an_unknown_spec_is_left_to_the_check_which_names_the_remedy() -> None:
    unknown = replace(event_of(PLAIN), spec_hash=99)
    assert REGISTRY.event(unknown) is unknown
    with pytest.raises(SpecMismatchError, match=r"0x63, ours is .* also_accepts of rillet.toml"):
        WIDER.check_feature(unknown)


def test_a_record_that_does_not_fit_the_spec_that_it_names_is_refused() -> None:
    wrong = replace(event_of(PLAIN), item_fids=np.array([18 << 48 | 5]))
    with pytest.raises(RecordError, match="item fids: value 0 is of slot 18, expected slot 16"):
        REGISTRY.event(wrong)


def test_blocks_likewise(block: ExampleBlock) -> None:
    converted = REGISTRY.block(block)
    WIDER.check_block(converted)
    assert REGISTRY.block(converted) is converted
    with pytest.raises(RecordError, match="labels"):
        REGISTRY.block(replace(block, labels=block.labels[:1]))


@pytest.fixture
def block() -> ExampleBlock:
    event, none = event_of(PLAIN), np.array([-1])
    return ExampleBlock(
        spec_hash=PLAIN.hash,
        bucket=0,
        request_ids=["r1"],
        request_index=np.zeros(1, np.int32),
        impression_ids=event.impression_ids,
        context_fids=event.context_fids,
        item_fids=event.item_fids,
        dense=np.empty(0, np.float32),
        labels=np.array([0, 0], np.uint8),
        mask=np.array([1, 0], np.uint8),
        sampling_rate=np.ones(1, np.float32),
        label_kind=np.ones(1, np.uint8),
        feature_time_ms=np.array([5]),
        action_time_ms=none,
        feature_ingest_ms=none,
        action_ingest_ms=none,
    )


def test_specs_that_contradict_each_other_are_refused_together() -> None:
    renamed = replace(PLAIN, item=(Slot("movie", 16, "id"),))
    with pytest.raises(SpecError, match=r"slot 16 was item.film .* now item.movie"):
        SpecRegistry(PLAIN, [WIDER, renamed])


def test_the_own_spec_may_be_named_among_the_others() -> None:
    registry = SpecRegistry(WIDER, [WIDER, PLAIN, PLAIN])
    assert registry.others == (PLAIN,)
    assert registry.find(PLAIN.hash) is PLAIN
    assert registry.find(WIDER.hash) is WIDER
    assert registry.find(99) is None


def test_the_specs_are_the_same_seen_from_another() -> None:
    other = REGISTRY.seen_from(PLAIN)
    assert other.current is PLAIN
    assert other.event(event_of(WIDER)).item_fids.tolist() == event_of(PLAIN).item_fids.tolist()


def test_every_changed_spec_can_be_known_beside_the_old_one() -> None:
    for spec in CHANGED.values():
        SpecRegistry(spec, [next(iter(CHANGED.values()))])
