"""Scores are what the table and the program say, whatever shares the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import Cross, FeatureSpec, make_fids
from rillet.serving.errors import ProgramError, ScoringError
from rillet.serving.features import RequestLayout, ScoreRequest
from rillet.serving.predictor import Predictor, check_logits
from rillet.serving.program import DenseProgram
from rillet.serving.protocol import InferRequest
from tests.embeddings.twins import row_with_crosses
from tests.serving.helpers import WIDTH, Dense, Linear, demo_spec, empty_table, exported, program, request_tensor

#: of every kind: two context slots, two item slots, one of each in either order, ragged with a limit
CROSSES = (
    Cross("age_genres", 40, ("age", "genres"), 6),
    Cross("user_age", 41, ("user", "age"), 1),
    Cross("genres_film", 42, ("genres", "film"), 2),
    Cross("film_user", 43, ("film", "user"), 1),
)


def _requests(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[ScoreRequest]]:
    rng = np.random.default_rng(seed)
    layout = RequestLayout(demo_spec(), 100)
    tensors = [request_tensor(rng, int(rng.integers(1, 12)), users=50, films=80) for _ in range(count)]
    return tensors, [layout.parse(InferRequest("r", {}, {"fids": tensor}, None, False), 0, "") for tensor in tensors]


@pytest.mark.parametrize("crosses", [(), CROSSES, CROSSES[1:2]])
def test_pooled_rows_reach_the_program_segment_by_segment(crosses: tuple[Cross, ...]) -> None:
    """Against a plain loop over requests, rows, slots and crosses, with known and unknown fids."""
    spec, table = replace(demo_spec(), crosses=crosses), empty_table()
    tensors, requests = _requests(7)
    segments = [cell for tensor in tensors for row in tensor for cell in _segments(spec, row)]
    known = np.unique([fid for cell in segments for fid in cell])[1::2]
    values = np.random.default_rng(1).normal(size=(len(known), WIDTH)).astype(np.float32)
    table.upsert(known, values)
    rows_of = {int(fid): row for fid, row in zip(known, values, strict=True)}
    seen: list[np.ndarray] = []

    def keep(embeddings: np.ndarray, dense: np.ndarray) -> np.ndarray:
        seen.append(embeddings.copy())
        return np.zeros((len(embeddings), 2), np.float32)

    Predictor(spec).score(table, keep, requests)
    expected = []
    for cell in segments:
        vectors = [rows_of.get(fid, np.zeros(WIDTH, np.float32)) for fid in cell]
        expected.append(np.mean(vectors, axis=0) if vectors else np.zeros(WIDTH))
    assert seen[0].shape[1] == spec.segments
    np.testing.assert_allclose(seen[0].reshape(-1, WIDTH), np.array(expected), rtol=1e-5, atol=1e-6)


def _segments(spec: FeatureSpec, row: np.ndarray) -> list[list[int]]:
    columns, at = {}, 0
    for slot in spec.slots:
        columns[slot.name] = [int(fid) for fid in row[at : at + slot.max_values] if fid]
        at += slot.max_values
    return row_with_crosses(spec, columns)


def test_crosses_of_the_context_are_looked_up_once_per_request() -> None:
    spec = replace(demo_spec(), crosses=CROSSES[1:2])
    _, requests = _requests(4)
    predictor = Predictor(spec)
    predictor.score(empty_table(), program(Linear(2), spec), requests)
    assert predictor.fids == sum(5 + 1 + len(request.item_fids) for request in requests)


def test_a_request_gets_the_same_logits_alone_and_in_a_batch() -> None:
    spec, table = demo_spec(), empty_table()
    tensors, requests = _requests(6)
    fids = np.unique(np.concatenate([tensor.reshape(-1) for tensor in tensors]))[1:]
    table.upsert(fids, np.random.default_rng(2).normal(size=(len(fids), WIDTH)).astype(np.float32))
    dense = program(Dense(8, 0, 2), spec)
    predictor = Predictor(spec)
    together = predictor.score(table, dense, requests)
    assert [len(logits) for logits in together] == [request.rows for request in requests]
    for logits, request in zip(together, requests, strict=True):
        np.testing.assert_allclose(logits, predictor.score(table, dense, [request])[0], rtol=1e-4, atol=1e-5)


def test_unknown_fids_are_counted() -> None:
    spec, table = demo_spec(), empty_table()
    _, requests = _requests(1)
    table.upsert(make_fids(1, np.arange(50)), np.zeros((50, WIDTH), np.float32))
    predictor = Predictor(spec)
    predictor.score(table, program(Linear(2), spec), requests)
    assert predictor.fids == 5 + len(requests[0].item_fids)
    assert predictor.unknown_fids == predictor.fids - 1


def test_a_logit_that_is_not_finite_is_an_error_not_an_answer() -> None:
    _, requests = _requests(5)
    bad = requests[0].rows + requests[1].rows - 1  # the last row of the second one

    def broken(embeddings: np.ndarray, dense: np.ndarray) -> np.ndarray:
        logits = np.arange(2 * len(embeddings), dtype=np.float32).reshape(-1, 2)
        logits[bad, 1] = np.inf
        return logits

    answers = Predictor(demo_spec()).score(empty_table(), broken, requests)
    with pytest.raises(ScoringError, match="not finite"):
        check_logits(answers[1])
    for at in (0, 2, 3, 4):
        start = 2 * sum(request.rows for request in requests[:at])
        expected = np.arange(start, start + 2 * requests[at].rows).reshape(-1, 2)
        np.testing.assert_array_equal(check_logits(answers[at]), expected, "the others of the batch have theirs")


def test_weights_are_swapped_whole_or_not_at_all() -> None:
    dense = program(Linear(2), demo_spec())
    embeddings, none = np.zeros((3, 8, WIDTH), np.float32), np.zeros((3, 0), np.float32)
    dense.load_weights({"bias": np.array([1.0, 2.0], np.float32)})
    np.testing.assert_array_equal(dense(embeddings, none), [[1, 2]] * 3)
    for wrong in (
        {"bias": np.zeros(3, np.float32)},
        {"bias": np.array([0.0, np.nan], np.float32)},
        {"bias": np.zeros(2, np.float32), "more": np.zeros(2, np.float32)},
        {},
    ):
        with pytest.raises(ProgramError, match="dense weights"):
            dense.load_weights(wrong)
        np.testing.assert_array_equal(dense(embeddings, none), [[1, 2]] * 3)


def test_a_program_of_another_shape_or_none_at_all_is_refused_at_load() -> None:
    spec = demo_spec()
    shapes = {"segments": 8, "embedding_width": WIDTH, "dense_width": 0, "tasks": 2}
    with pytest.raises(ProgramError, match="does not load"):
        DenseProgram(b"not a program", **shapes)
    dense = exported(Dense(8, 0, 2), spec)
    with pytest.raises(ProgramError, match="does not take embeddings"):
        DenseProgram(dense, **{**shapes, "segments": 9})
    with pytest.raises(ProgramError, match="gives"):
        DenseProgram(dense, **{**shapes, "tasks": 3})
