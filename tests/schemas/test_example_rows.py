"""Fids of rows split into contexts and items, and joined again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rillet.schemas import FeatureSpec, make_fids, parse_spec
from rillet.schemas.arrays import Int64s, UInt16s
from rillet.schemas.example_rows import cut_requests, join_rows, split_rows


def spec_of(context: list[int], item: list[int]) -> FeatureSpec:
    """Slots with so many values at most."""
    slots = [("context", most) for most in context] + [("item", most) for most in item]
    text = "".join(
        f'[[{side}]]\nname = "s{at}"\nslot = {at + 1}\nkind = "id"\nmax_values = {most}\n'
        for at, (side, most) in enumerate(slots)
    )
    return parse_spec(f'[spec]\nname = "rows"\n{text}[[tasks]]\nname = "t"\naction = "a"\nwindow_ms = 1000\n')


SPECS = [spec_of([1, 1], [1]), spec_of([1, 3], [1, 1]), spec_of([2], [1, 3]), spec_of([], [1, 2]), spec_of([1], [2])]


def rows_of(spec: FeatureSpec, rng: np.random.Generator, n: int) -> tuple[Int64s, UInt16s]:
    """Random rows of few values, so that neighbours are often alike."""
    lengths = [0 if slot.ragged else 1 for slot in spec.slots] * n
    most = [slot.max_values for slot in spec.slots] * n
    lengths = [int(rng.integers(low, high + 1)) for low, high in zip(lengths, most, strict=True)]
    slots = np.repeat([slot.slot for slot in spec.slots] * n, lengths)
    fids = [make_fids(int(slot), rng.integers(1, 3, 1)) for slot in slots]
    return np.concatenate([np.empty(0, np.int64), *fids]), np.array(lengths, np.uint16)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SPECS), st.integers(0, 12), st.integers(0, 500))
def test_rows_that_were_split_are_the_same_when_they_are_joined(spec: FeatureSpec, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fids, lengths = rows_of(spec, rng, n)
    request = rng.integers(0, 2, n)
    split = split_rows(spec, ["a", "b"], request, fids, lengths if spec.ragged else None)
    index, names = split.pop("request_index"), split.pop("request_ids")
    found, found_lengths = join_rows(**split, request=index, requests=len(names))
    assert found.tolist() == fids.tolist()
    assert [names[at] for at in index] == ["ab"[at] for at in request]
    if spec.ragged and n:
        assert found_lengths is not None
        assert found_lengths.tolist() == lengths.tolist()
    # No request stands beside another of the same name and context.
    of_context = lengths.reshape(n, -1)[:, : len(spec.context)] if n else lengths.reshape(0, len(spec.context))
    ends = np.cumsum(lengths.reshape(n, -1).sum(axis=1)) if n else []
    parts = [part.tolist() for part in np.split(fids, ends)][:n]
    keys = [(request[i], of_context[i].tolist(), parts[i][: of_context[i].sum()]) for i in range(n)]
    assert len(names) == sum(i == 0 or keys[i] != keys[i - 1] for i in range(n))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SPECS), st.integers(1, 12), st.integers(0, 500), st.data())
def test_rows_that_were_cut_have_the_contexts_that_they_had(
    spec: FeatureSpec, n: int, seed: int, data: st.DataObject
) -> None:
    fids, lengths = rows_of(spec, np.random.default_rng(seed), n)
    split = split_rows(spec, ["a"], np.zeros(n, np.int64), fids, lengths if spec.ragged else None)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    index = split["request_index"][start:stop]
    requests = len(split["request_ids"])
    needed, context, context_lengths = cut_requests(split["context_fids"], split["context_lengths"], requests, index)
    none, item_slots = np.empty(0, np.int64), None
    whole, _ = join_rows(split["context_fids"], split["context_lengths"], none, item_slots, index, requests)
    cut, _ = join_rows(context, context_lengths, none, item_slots, index - needed.start, needed.stop - needed.start)
    assert cut.tolist() == whole.tolist()
