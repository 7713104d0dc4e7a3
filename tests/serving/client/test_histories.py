"""An application's own histories: raw values go in by what users did, and come back as context of their requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rillet.schemas import RecordError, make_fids, parse_spec, token_values
from rillet.serving.client import CandidateEncoder, Histories
from rillet.serving.features import RequestLayout
from rillet.serving.protocol import InferRequest

SPEC = parse_spec(
    """
    [spec]
    name = "films"
    [[context]]
    name = "user"
    slot = 1
    kind = "token"
    [[context]]
    name = "recent_films"
    slot = 2
    kind = "history"
    of = "film"
    action = "watch"
    by = "user"
    max_values = 2
    [[context]]
    name = "bought_genre"
    slot = 3
    kind = "history"
    of = "genres"
    action = "buy"
    by = "user"
    max_values = 1
    [[context]]
    name = "prices"
    slot = 4
    kind = "history"
    of = "price"
    action = "buy"
    by = "user"
    max_values = 3
    [[item]]
    name = "film"
    slot = 16
    kind = "token"
    [[item]]
    name = "genres"
    slot = 17
    kind = "token"
    max_values = 3
    [[item]]
    name = "price"
    slot = 18
    kind = "number"
    bins = [1.0, 5.0]
    [[tasks]]
    name = "watch"
    action = "watch"
    window_ms = 1000
    """
)
HEAT = {"film": "Heat", "genres": ["Crime", "Drama"], "price": 0.5}
RAN = {"film": "Ran", "genres": [], "price": 0.7}
CLUE = {"film": "Clue", "genres": ["Comedy"], "price": 9}
ANN: dict[str, Any] = {"user": "ann"}
#: when the tests begin, epoch ms
T0 = 1_700_000_000_000


def test_what_a_user_did_comes_back_as_raw_values_newest_first() -> None:
    histories = Histories(SPEC)
    for time_ms, item in ((10, HEAT), (20, RAN), (30, HEAT), (25, CLUE)):
        histories.record("watch", T0 + time_ms, context=ANN, item=item)
        histories.record("buy", T0 + time_ms, context=ANN, item=item)
    histories.record("watch", T0 + 5, context={"user": "bob"}, item=CLUE)
    histories.record("like", T0 + 40, context=ANN, item=RAN)
    # Prices of one bin are one value: the one that was put in last.
    assert histories.context(ANN, at_ms=T0 + 31) == ANN | {
        "recent_films": ["Heat", "Clue"],
        "bought_genre": ["Crime"],
        "prices": [0.5, 9],
    }
    assert histories.context({"user": "carl"}, T0 + 31) == {
        "user": "carl",
        "recent_films": [],
        "bought_genre": [],
        "prices": [],
    }


def test_an_action_is_visible_later_than_its_time_and_not_at_it() -> None:
    histories = Histories(SPEC)
    histories.record("watch", T0 + 10, context=ANN, item=HEAT)
    assert [histories.context(ANN, T0 + at_ms)["recent_films"] for at_ms in (9, 10, 11)] == [[], [], ["Heat"]]


def test_the_server_logs_the_histories_that_the_application_sent() -> None:
    histories = Histories(SPEC)
    encoder, layout = CandidateEncoder(SPEC), RequestLayout(SPEC, 10)
    lengths = []
    for time_ms in (1, 2, 3):
        films = encoder.from_features(
            context=histories.context(ANN, T0 + time_ms),
            items={"film": ["Heat", "Clue"], "genres": [["Crime"], []], "price": [1, 2]},
        )
        assert films.fids.shape == (2, SPEC.width)
        request = layout.parse(InferRequest("r", {}, {"fids": films.fids}, None, False), time_ms, "new")
        event = request.to_event(SPEC, np.zeros((2, 1), np.float32), "films", 1)
        SPEC.check_feature(event)
        assert event.context_lengths is not None
        lengths.append(event.context_lengths.tolist())
        np.testing.assert_array_equal(encoder.from_event(event).fids, films.fids)
        histories.record("watch", T0 + time_ms, context=ANN, item=(HEAT, CLUE)[time_ms % 2])
    assert lengths == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 2, 0, 0]]
    assert event.context_fids[1:].tolist() == make_fids(2, token_values(["Heat", "Clue"])).tolist()


def test_keys_are_bounded_and_what_is_dropped_is_counted() -> None:
    histories = Histories(SPEC, max_keys=2)
    for user in "abc":
        histories.record("watch", T0 + 1, context={"user": user}, item=HEAT)
    assert [len(histories.context({"user": user}, T0 + 2)["recent_films"]) for user in "abc"] == [0, 1, 1]
    assert histories.dropped_keys == 1


def test_wrong_values_are_named_and_nothing_of_the_action_is_kept() -> None:
    histories = Histories(SPEC)
    for context, item, message in (
        ({}, HEAT, "context column user is missing"),
        ({"user": 0.5}, HEAT, "context column user: .*0.5 is neither text nor an integer"),
        (ANN, {"film": "Heat", "genres": ["Crime"]}, "item column price is missing"),
        (ANN, HEAT | {"price": float("nan")}, "item column price: .*not finite"),
        (ANN, HEAT | {"genres": "Crime"}, "item column genres: .*a sequence of values"),
        (ANN, HEAT | {"genres": 7}, "item column genres: "),
    ):
        with pytest.raises(RecordError, match=message):
            histories.record("buy", T0 + 1, context=context, item=item)
    assert histories.context(ANN, T0 + 2)["bought_genre"] == []
    with pytest.raises(RecordError, match="context column user is missing"):
        histories.context({}, T0 + 2)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (1_700_000_000, "1700000000 is no time in milliseconds since 1970: 1700000000 is one in seconds"),
        (1_700_000_000_000_000, "1700000000000000 is no time in milliseconds since 1970"),
        (0, "0 is no time in milliseconds since 1970"),
        (1_700_000_000_000.5, "1700000000000.5 is no integer"),
        (True, "True is no integer"),
        ("1700000000000", "'1700000000000' is no integer"),
    ],
)
def test_times_that_are_no_integers_of_milliseconds_are_refused(time: Any, message: str) -> None:
    histories = Histories(SPEC)
    histories.record("watch", np.int64(T0), context=ANN, item=HEAT)
    for action in ("watch", "like"):
        with pytest.raises(RecordError, match=f"^time_ms: {message}"):
            histories.record(action, time, context=ANN, item=RAN)
    with pytest.raises(RecordError, match=f"^at_ms: {message}"):
        histories.context(ANN, time)
    assert histories.context(ANN, np.int64(T0 + 1))["recent_films"] == ["Heat"]


def test_actions_that_no_history_asks_for_are_counted() -> None:
    histories = Histories(SPEC)
    for action in ("watch", "wacth", "like"):
        histories.record(action, T0, context=ANN, item=HEAT)
    assert histories.ignored_actions == 2


def test_a_spec_without_histories_or_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="films has no slot of kind history"):
        Histories(SPEC.without_histories())
    with pytest.raises(ValueError, match="max_keys: 0 is below 1"):
        Histories(SPEC, max_keys=0)


def test_threads_share_it() -> None:
    histories = Histories(SPEC, max_keys=3)

    def work(number: int) -> None:
        for time_ms in range(200):
            user = {"user": (number + time_ms) % 5}
            histories.record("watch", T0 + time_ms, context=user, item={"film": time_ms % 7})
            assert len(set(histories.context(user, T0 + time_ms + 1)["recent_films"])) <= 2

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    histories.record("watch", T0 + 1_000, context=ANN, item=HEAT)
    assert histories.context(ANN, T0 + 1_001)["recent_films"] == ["Heat"]
