"""Rows of many events in few blocks: the rows, and their order, of one block per event."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rillet.joiner import GatheringBuilder, Joiner, JoinerConfig
from rillet.joiner.blocks import BlockBuilder
from rillet.schemas import ExampleBlock, encode
from rillet.schemas.spec import LabelMode
from tests.joiner.support import SPEC, action, feature, with_labels
from tests.simulation.joiner_engine import MemoryState

END_MS = 1 << 62


def rows(blocks: list[ExampleBlock]) -> list[tuple[object, ...]]:
    """Every row with all of its columns, as plain values."""
    found: list[tuple[object, ...]] = []
    for block in blocks:
        n = len(block)
        names = [block.request_ids[request] for request in block.request_index]
        columns = {
            field.name: getattr(block, field.name)
            for field in fields(block)
            if field.name not in ("spec_hash", "bucket", "request_ids", "request_index")
            and not field.name.endswith(("_fids", "_lengths"))
        }
        flat = {
            name: np.asarray(column).reshape(n, -1).tolist() for name, column in columns.items() if column is not None
        }
        all_fids, all_lengths = block.row_fids()
        assert all_lengths is not None
        per_row = all_lengths.reshape(n, -1).sum(axis=1, dtype=np.int64)
        fids = [part.tolist() for part in np.split(all_fids, np.cumsum(per_row)[:-1])]
        lengths = all_lengths.reshape(n, -1).tolist()
        found += [
            (names[i], fids[i], lengths[i], [(name, values[i]) for name, values in flat.items()]) for i in range(n)
        ]
    return found


@pytest.mark.parametrize(
    "modes", [("immediate",), ("aligned",), ("positives_first",), ("immediate", "positives_first")], ids="+".join
)
def test_gathered_rows_are_those_of_one_block_per_event_in_the_same_order(
    tmp_path: Path, modes: tuple[LabelMode, ...]
) -> None:
    spec = with_labels(SPEC, *modes)
    given: list[list[ExampleBlock]] = []
    for name, builder in (("each", BlockBuilder(spec)), ("gathered", GatheringBuilder(spec, 1_000))):
        joiner, state, blocks = Joiner(spec, JoinerConfig(), tmp_path / name, builder), MemoryState(), []
        for number in range(6):
            events = [
                replace(feature(number, 1_000 * number), spec_hash=spec.hash),
                action(number, 0, "watch", 1_000 * number + 10),
                action(number, 1, "like", 1_000 * number + 20),
            ]
            # The actions of every other request wait for it.
            for event in events if number % 2 else events[::-1]:
                blocks += joiner.on_record(0, event.request_id.encode(), encode(event), 77, state)
        for at_ms in (100_000, END_MS):
            while (due_ms := joiner.next_due_ms(0, state)) is not None and due_ms <= at_ms:
                blocks += joiner.advance(0, at_ms, state)
        if isinstance(builder, GatheringBuilder):
            blocks += builder.gathered(0)
            assert builder.gathered(0) == []
        given.append(blocks)
    each, gathered = given
    assert rows(gathered) == rows(each)
    assert len(rows(each)) > 20
    assert len(gathered) < len(each) or modes == ("aligned",)
