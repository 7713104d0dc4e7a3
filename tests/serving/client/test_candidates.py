"""Raw features and packed columns become the tensor that the server unpacks to the same columns; mistakes are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rillet.schemas import FeatureEvent, RecordError, make_fids, token_values
from rillet.serving.client import CandidateEncoder, Candidates
from tests.serving.helpers import demo_spec

SPEC = demo_spec(dense=True)
USER = {"user": 7, "age": 3, "gender": "F", "occupation": 2, "zip": "94110"}
FILMS = {"film": [17, 23], "year": [1990, 1991], "genres": [["War", "Drama"], []]}
NUMBERS = {"price": [1.5, 2], "age_days": np.array([3, 4])}


def _encode(**changes: Any) -> Candidates:
    given: dict[str, Any] = {"context": USER, "items": FILMS, "dense": NUMBERS, "impression_ids": [170, 230]}
    return CandidateEncoder(SPEC).from_features(**{**given, **changes})


def test_raw_features_stand_in_the_columns_of_the_spec() -> None:
    films = _encode()
    tokens = token_values(["F", "94110", "War", "Drama"])
    context = [make_fids(1, 7), make_fids(2, 3), make_fids(3, tokens[0]), make_fids(4, 2), make_fids(5, tokens[1])]
    genres = make_fids(18, tokens[2:]).tolist()
    assert films.fids.tolist() == [
        [*context, make_fids(16, 17), make_fids(17, 1990), *genres, 0, 0, 0, 0],
        [*context, make_fids(16, 23), make_fids(17, 1991), 0, 0, 0, 0, 0, 0],
    ]
    assert films.dense is not None
    assert films.dense.tolist() == [[1.5, 3], [2, 4]]
    assert films.impression_ids.tolist() == [170, 230]
    assert films.tasks == ("watch", "like")
    assert len(films) == 2


def test_candidates_are_numbered_when_they_have_no_ids() -> None:
    assert _encode(impression_ids=None).impression_ids.tolist() == [0, 1]
    assert Candidates(np.ones((3, 2), np.int64)).impression_ids.tolist() == [0, 1, 2]


def test_a_feature_event_and_its_packed_columns_give_the_same_candidates_as_its_features() -> None:
    encoder = CandidateEncoder(SPEC)
    context_fids, context_lengths = SPEC.encode_side("context", {name: [value] for name, value in USER.items()})
    item_fids, item_lengths = SPEC.encode_side("item", FILMS)
    dense = np.array([[1.5, 3], [2, 4]], np.float32)
    columns: dict[str, Any] = {
        "context_fids": context_fids,
        "context_lengths": context_lengths,
        "item_fids": item_fids,
        "item_lengths": item_lengths,
        "impression_ids": np.array([170, 230]),
    }
    event = FeatureEvent("r", 1, SPEC.hash, dense=dense.reshape(-1), **columns)
    wanted = _encode()
    for films in (encoder.from_packed(dense=dense, **columns), encoder.from_event(event)):
        for name in ("fids", "dense", "impression_ids"):
            np.testing.assert_array_equal(getattr(films, name), getattr(wanted, name))


def test_raw_features_become_the_event_that_a_recording_holds() -> None:
    encoder = CandidateEncoder(SPEC)
    given: dict[str, Any] = {"context": USER, "items": FILMS, "dense": NUMBERS, "impression_ids": [170, 230]}
    event = encoder.feature_event("r1", 1_700_000_000_000, **given)
    assert (event.request_id, event.event_time_ms, event.spec_hash) == ("r1", 1_700_000_000_000, SPEC.hash)
    SPEC.check_feature(event)
    films, wanted = encoder.from_event(event), _encode()
    for name in ("fids", "dense", "impression_ids"):
        np.testing.assert_array_equal(getattr(films, name), getattr(wanted, name))
    assert event.exposed is None
    hidden = encoder.feature_event("r1", 1_700_000_000_000, **given, exposed=[True, False]).exposed
    assert hidden is not None
    assert hidden.tolist() == [1, 0]
    with pytest.raises(RecordError, match="exposed: 3 values, expected 2"):
        encoder.feature_event("r1", 1_700_000_000_000, **given, exposed=[True, False, True])
    with pytest.raises(RecordError, match="context column age is missing"):
        encoder.feature_event("r1", 1_700_000_000_000, **given | {"context": {"user": 7}})
    with pytest.raises(RecordError, match="event_time_ms: -1 is before 1970"):
        encoder.feature_event("r1", -1, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": {**USER, "hat": 1}}, "context column hat is not in the feature spec; it has user, age"),
        ({"context": {"user": 7}}, "context column age is missing"),
        ({"items": {**FILMS, "year": [1990]}}, "item column year has 1 rows, the others 2"),
        ({"items": {**FILMS, "film": [17, -1]}}, "item column film: an id of slot 16"),
        ({"items": {**FILMS, "colour": ["red", "blue"]}}, "item column colour is not in the feature spec"),
        ({"items": {"film": [], "year": [], "genres": []}, "dense": {"price": [], "age_days": []}}, "no impressions"),
        ({"dense": {"price": [1, 2]}}, "dense column age_days is missing"),
        ({"dense": {"price": [1, 2], "age_days": [1]}}, "dense column age_days has 1 rows, price has 2"),
        ({"dense": {"price": [1, np.inf], "age_days": [1, 1]}}, "dense: a number is not finite"),
        ({"dense": {"price": ["a", "b"], "age_days": [1, 1]}}, "dense column price: expected float32"),
        ({"impression_ids": [1, 1]}, "an id stands twice"),
        ({"impression_ids": [1.5, 2]}, "impression_ids: expected int64 values, found float64"),
        ({"impression_ids": np.array([1, 2**63], np.uint64)}, "does not fit in int64"),
    ],
)
def test_features_that_do_not_fit_the_spec_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        _encode(**{"impression_ids": None, **changes})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fids": np.zeros((0, 3), np.int64)}, "fids: there are no candidates"),
        ({"fids": [1, 2]}, "fids: 1 dimensions, expected 2"),
        ({"fids": [[1.0]]}, "fids: expected int64 values, found float64"),
        ({"fids": [[1], [2, 3]]}, "fids: "),
        ({"fids": [[1]], "dense": [1.0]}, "dense: 1 dimensions, expected 2"),
        ({"fids": [[1]], "impression_ids": [1, 2]}, "impression_ids: 2 rows, fids has 1"),
    ],
)
def test_tensors_of_another_kind_or_shape_are_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Candidates(**arrays)


def test_tensors_are_sent_as_they_are_whatever_their_memory_looks_like() -> None:
    fids = np.arange(24, dtype=">i8").reshape(4, 6)[::2, ::-2]
    films = Candidates(fids, dense=np.array([[1], [2]], np.float64))
    assert films.fids.tobytes() == fids.astype("<i8").tobytes()
    assert films.dense is not None
    assert (films.dense.dtype, films.fids.dtype) == (np.dtype("<f4"), np.dtype("<i8"))
