"""Cross fids against a plain double loop, the same in training's rows and in serving's requests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.embeddings import CrossColumns, TableInputError
from rillet.schemas import Cross, FeatureSpec, Slot, Task, make_fids
from rillet.schemas.arrays import Int64s, UInt16s
from tests.embeddings import twins

PAIR = FeatureSpec(
    "pair",
    (Slot("user", 1, "id"),),
    (Slot("film", 16, "id"),),
    (),
    (Task("watch", "watch", 1),),
    crosses=(Cross("user_film", 40, ("user", "film"), 1),),
)


@pytest.mark.parametrize(
    ("user", "film", "expected"),
    [
        (0, 0, 0x0028_C110_534D_F360),
        (1, 2, 0x0028_8DE9_4874_1656),
        (2, 1, 0x0028_AD3E_4190_6702),
        (2**48 - 1, 2**48 - 1, 0x0028_D75A_7CA6_696B),
    ],
)
def test_the_fid_of_a_pair_never_changes(user: int, film: int, expected: int) -> None:
    """Vectors: another value would make every model that was trained with crosses worthless."""
    fids, lengths = CrossColumns.of_examples(PAIR).add(pair(user, film), None, 1)
    assert lengths is None
    assert fids[:2].tolist() == pair(user, film).tolist()
    assert fids[2] == expected


def pair(user: int, film: int) -> Int64s:
    return np.concatenate([make_fids(1, [user]), make_fids(16, [film])])


def test_the_order_of_the_two_slots_tells_pairs_apart() -> None:
    turned = replace(PAIR, crosses=(replace(PAIR.crosses[0], slots=("film", "user")),))
    one, other = (CrossColumns.of_examples(spec).add(pair(3, 4), None, 1)[0][2] for spec in (PAIR, turned))
    assert one != other


def test_pairs_of_many_values_do_not_collide() -> None:
    users, films = np.meshgrid(np.arange(700), np.arange(700))
    rows = np.stack([make_fids(1, users.reshape(-1)), make_fids(16, films.reshape(-1))], axis=1).reshape(-1)
    fids, _ = CrossColumns.of_examples(PAIR).add(rows, None, users.size)
    assert len(np.unique(fids[2::3])) == users.size


@dataclass(frozen=True)
class Requests:
    """Requests of a random spec: the packed columns of either side, and each row as its slots' fids."""

    spec: FeatureSpec
    counts: Int64s
    context: tuple[Int64s, UInt16s | None]
    items: tuple[Int64s, UInt16s | None]
    #: what a plain double loop gives: per row and segment
    rows: list[list[list[int]]]


@st.composite
def requests(draw: st.DrawFn) -> Requests:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    contexts = draw(st.integers(0, len(widths) - 1))
    slots = tuple(Slot(f"s{n}", n + 1, "id", width) for n, width in enumerate(widths))
    crosses = []
    for number in range(draw(st.integers(0, 3))):
        left, right = rng.choice(len(slots), 2, replace=False)
        limit = int(rng.integers(1, widths[left] * widths[right] + 2))
        crosses.append(Cross(f"c{number}", 100 + number, (f"s{left}", f"s{right}"), limit))
    tasks = (Task("t", "t", 1),)
    spec = FeatureSpec("any", slots[:contexts], slots[contexts:], (), tasks, crosses=tuple(crosses))

    def cell(slot: Slot) -> list[int]:
        count = 1 if slot.max_values == 1 else int(rng.integers(0, slot.max_values + 1))
        return make_fids(slot.slot, rng.integers(0, 2**48, count)).tolist()

    counts = rng.integers(1, 4, draw(st.integers(1, 3)))
    contexts_of = [{slot.name: cell(slot) for slot in spec.context} for _ in counts]
    candidates = [[{slot.name: cell(slot) for slot in spec.item} for _ in range(count)] for count in counts]

    def pack(side: tuple[Slot, ...], cells: list[dict[str, list[int]]]) -> tuple[Int64s, UInt16s | None]:
        values = [values for row in cells for values in row.values()]
        lengths = np.array([len(one) for one in values], np.uint16)
        fids = np.array([fid for one in values for fid in one], np.int64)
        return fids, lengths if any(slot.max_values > 1 for slot in side) else None

    rows = [
        twins.row_with_crosses(spec, context | candidate)
        for context, of_one in zip(contexts_of, candidates, strict=True)
        for candidate in of_one
    ]
    items = pack(spec.item, [candidate for of_one in candidates for candidate in of_one])
    return Requests(spec, counts, pack(spec.context, contexts_of), items, rows)


def segments_of(columns: CrossColumns, packed: tuple[Int64s, UInt16s | None], rows: int) -> list[dict[int, list[int]]]:
    """Per row: the fids of each column, by the segment of a model's input that it is."""
    fids, lengths = packed
    width = len(columns.segments)
    if not width:
        return [{} for _ in range(rows)]
    ends = np.cumsum(np.ones(rows * width, np.int64) if lengths is None else lengths.astype(np.int64))
    assert (int(ends[-1]), len(ends)) == (len(fids), rows * width)
    cells = [part.tolist() for part in np.split(fids, ends[:-1])]
    return [dict(zip(columns.segments, cells[i : i + width], strict=True)) for i in range(0, rows * width, width)]


@settings(max_examples=150, deadline=None)
@given(requests())
def test_a_row_that_is_trained_on_has_every_pair_in_order_up_to_the_limit(case: Requests) -> None:
    flat = [cell for row in case.rows for cell in row[: len(case.spec.slots)]]
    lengths = np.array([len(cell) for cell in flat], np.uint16) if case.spec.ragged else None
    columns = CrossColumns.of_examples(case.spec)
    packed = columns.add(np.array([fid for cell in flat for fid in cell], np.int64), lengths, len(case.rows))
    assert columns.segments == list(range(case.spec.segments))
    assert segments_of(columns, packed, len(case.rows)) == [dict(enumerate(row)) for row in case.rows]


@settings(max_examples=150, deadline=None)
@given(requests())
def test_a_request_that_is_served_has_the_fids_of_the_rows_that_are_trained_on(case: Requests) -> None:
    of_context, of_candidates = CrossColumns.of_context(case.spec), CrossColumns.of_candidates(case.spec)
    context = segments_of(of_context, of_context.add(*case.context, len(case.counts)), len(case.counts))
    candidates = segments_of(
        of_candidates, of_candidates.add_sharing(*case.items, case.counts, *case.context), len(case.rows)
    )
    served = [
        context[request] | candidate
        for request, candidate in zip(np.repeat(np.arange(len(case.counts)), case.counts), candidates, strict=True)
    ]
    assert served == [dict(enumerate(row)) for row in case.rows]


def test_without_crosses_nothing_is_copied() -> None:
    fids, lengths = pair(1, 2), np.ones(2, np.uint16)
    made = CrossColumns.of_examples(replace(PAIR, crosses=())).add(fids, lengths, 1)
    assert made[0] is fids
    assert made[1] is lengths


@pytest.mark.parametrize(
    ("fids", "lengths", "rows"),
    [
        (pair(1, 2), None, 2),
        (pair(1, 2), np.ones(3, np.uint16), 1),
        (pair(1, 2), np.array([2, 2], np.uint16), 1),
        (pair(1, 2), np.ones(2, np.uint16), 2),
        (pair(1, 2).astype(np.float64), None, 1),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(fids: Int64s, lengths: UInt16s | None, rows: int) -> None:
    """The kernels trust the lengths: what does not add up would be read beyond the end."""
    with pytest.raises(TableInputError):
        CrossColumns.of_examples(PAIR).add(fids, lengths, rows)
