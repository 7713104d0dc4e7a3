"""Requests of another feature spec than the server's: read as its own, answered in the request's columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rillet.schemas import DenseFeature, FeatureSpec, Slot, SpecRegistry, Task, make_fids
from rillet.serving.client import CandidateEncoder
from rillet.serving.errors import InvalidRequestError
from rillet.serving.protocol import InferRequest
from rillet.serving.request_specs import RequestSpecs

OLD = FeatureSpec(
    "films",
    (Slot("user", 1, "id"),),
    (Slot("film", 16, "id"), Slot("genres", 18, "token", 3)),
    (DenseFeature("price"),),
    (Task("watch", "watch", 1_000), Task("like", "like", 1_000)),
)
#: a slot, a dense feature and a task more; the slots and tasks in another order
NEW = replace(
    OLD,
    item=(*OLD.item[::-1], Slot("shop", 20, "id")),
    dense=(DenseFeature("age"), DenseFeature("price")),
    tasks=(Task("share", "share", 1_000), *OLD.tasks[::-1]),
)
SERVER = RequestSpecs(SpecRegistry(OLD, [NEW]), 100)
NEW_SERVER = RequestSpecs(SpecRegistry(NEW, [OLD]), 100)
RAW = {"film": [5, 6], "genres": [["a"], ["b", "c"]], "shop": [1, 2]}
NUMBERS = {"price": [1.0, 2.0], "age": [3.0, 4.0]}


def _request(spec: FeatureSpec, **parameters: Any) -> InferRequest:
    candidates = CandidateEncoder(spec).from_features(
        context={"user": 7},
        items={slot.name: RAW[slot.name] for slot in spec.item},
        dense={name: NUMBERS[name] for name in spec.dense_names},
    )
    assert candidates.dense is not None
    return InferRequest("r1", parameters, {"fids": candidates.fids, "dense": candidates.dense}, None, False)


def _parsed(specs: RequestSpecs, spec: FeatureSpec) -> Any:
    request = _request(spec, spec_hash=f"{spec.hash:#x}")
    return specs.of(request.parameters).parse(request, 1_000, "new")


def test_an_old_server_reads_what_it_knows_of_a_new_clients_request() -> None:
    ours, theirs = _parsed(SERVER, OLD), _parsed(SERVER, NEW)
    for name in ("context_fids", "item_fids", "item_lengths", "dense"):
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
    # It is logged as it was served.
    OLD.check_feature(theirs.to_event(OLD, np.zeros((2, 2), np.float32), "films", 1))


def test_a_new_server_reads_an_old_clients_request_without_what_is_new() -> None:
    theirs = _parsed(NEW_SERVER, OLD)
    assert theirs.dense.tolist() == [0, 1, 0, 2]
    assert theirs.item_lengths.tolist() == [1, 1, 1, 2, 1, 1]
    assert theirs.item_fids[[2, -1]].tolist() == make_fids(20, [(1 << 48) - 1] * 2).tolist()
    NEW.check_feature(theirs.to_event(NEW, np.zeros((2, 3), np.float32), "films", 1))


def test_the_answer_has_the_tasks_of_the_request() -> None:
    logits = np.array([[1, 2], [3, 4]], np.float32)
    spec = SERVER.of({"spec_hash": f"{NEW.hash:#x}"})
    np.testing.assert_array_equal(spec.columns(logits), [[np.nan, 2, 1], [np.nan, 4, 3]])
    assert spec.missing_tasks == ["share"]
    back = NEW_SERVER.of({"spec_hash": f"{OLD.hash:#x}"})
    assert back.columns(np.array([[9, 2, 1]], np.float32)).tolist() == [[1, 2]]
    assert back.missing_tasks == []


def test_a_request_without_a_spec_is_of_the_servers_own() -> None:
    logits = np.zeros((2, 2), np.float32)
    for parameters in ({}, {"spec_hash": None}, {"spec_hash": f"{OLD.hash:#x}"}, {"spec_hash": f"{OLD.hash:X}"}):
        assert SERVER.of(parameters) is SERVER.ours
    assert SERVER.ours.columns(logits) is logits
    assert SERVER.ours.missing_tasks == []


@pytest.mark.parametrize("value", ["0x5", "no", 5, "", [1]])
def test_an_unknown_spec_is_refused_with_what_is_known(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"parameters\.spec_hash") as refused:
        SERVER.of({"spec_hash": value})
    if value == "0x5":
        assert f"takes {OLD.hash:#x}, {NEW.hash:#x}: name that spec's file in also_accepts" in str(refused.value)


def test_what_is_accepted_besides_is_told() -> None:
    assert SERVER.also_accepted == [NEW]
