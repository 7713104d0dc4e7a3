"""Slots of kind history in the feature spec: read, written, refused, encoded and checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rillet.schemas import FeatureEvent, History, RecordError, SpecError, dump_spec, make_fids, parse_spec, token_values

TEXT = """
[spec]
name = "films"
[[context]]
name = "user"
slot = 1
kind = "id"
[[context]]
name = "tags"
slot = 2
kind = "id"
max_values = 2
[[context]]
name = "seen"
slot = 3
kind = "history"
of = "film"
action = "watch"
by = "user"
max_values = 1
max_age_ms = 60_000
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
name = "price"
slot = 17
kind = "number"
bins = [1.0, 5.0]
[[tasks]]
name = "watch"
action = "watch"
window_ms = 1000
"""
SPEC = parse_spec(TEXT)


def test_a_history_says_whose_and_of_what_it_is() -> None:
    seen, prices = SPEC.histories
    assert (seen.kind, seen.max_values, seen.history) == ("history", 1, History("film", "watch", "user", 60_000))
    assert prices.history == History("price", "buy", "user", 0)
    assert seen.ragged
    assert parse_spec(dump_spec(SPEC)) == SPEC
    plain = SPEC.without_histories()
    assert [slot.name for slot in plain.slots] == ["user", "tags", "film", "price"]
    assert len({SPEC.hash, plain.hash, parse_spec(TEXT.replace("60_000", "0")).hash}) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('of = "film"', 'of = "user"', r"context\[2\]\.of: 'user' is no item slot; these are: film, price"),
        ('of = "film"', 'of = "prices"', r"context\[2\]\.of: 'prices' is no item slot"),
        ('of = "film"', "", r"context\[2\]\.of: expected str, found nothing"),
        ('by = "user"', 'by = "film"', r"context\[2\]\.by: 'film' is no context slot with one value; these are: user$"),
        ('by = "user"', 'by = "tags"', r"context\[2\]\.by: 'tags' is no context slot with one value"),
        ('by = "user"', 'by = "seen"', r"context\[2\]\.by: 'seen' is no context slot with one value"),
        ('action = "watch"\nby', "by", r"context\[2\]\.action: expected str, found nothing"),
        ("max_values = 1\n", "max_values = 0\n", r"context\[2\]\.max_values: 0 is not in"),
        ("max_values = 1\n", "", r"context\[2\]\.max_values: expected int, found nothing"),
        ("60_000", "-1", r"context\[2\]\.max_age_ms: -1 is negative"),
        ('kind = "history"\nof = "film"', 'kind = "id"\nof = "film"', r"context\[2\]\.of: unknown key"),
        ("max_age_ms = 60_000", "bins = [1.0]", r"context\[2\]\.bins: unknown key"),
        (
            'kind = "token"',
            'kind = "history"\nof = "price"\naction = "a"\nby = "user"\nmax_values = 2',
            r"item\[0\]\.kind: a history is of whoever asks, so it is a context slot",
        ),
        # Before its other keys are asked for: there is no use in adding them one after the other.
        ('kind = "token"', 'kind = "history"', r"item\[0\]\.kind: a history is of whoever asks"),
    ],
)
def test_a_wrong_history_is_refused_by_its_path(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(TEXT.replace(old, new, 1))


def test_raw_values_are_hashed_and_binned_as_those_of_the_slot_that_it_is_of() -> None:
    fids, lengths = SPEC.encode_side(
        "context", {"user": [7, 8], "tags": [[], [1]], "seen": [["Heat"], []], "prices": [[0.5, 9], [2.0]]}
    )
    assert lengths is not None
    assert lengths.reshape(2, 4).tolist() == [[1, 0, 1, 2], [1, 1, 0, 1]]
    first = [make_fids(1, 7), make_fids(3, token_values(["Heat"]))[0], make_fids(4, 0), make_fids(4, 2)]
    assert fids.tolist() == [*first, make_fids(1, 8), make_fids(2, 1), make_fids(4, 1)]
    with pytest.raises(RecordError, match="context column seen: 2 values, max_values is 1"):
        SPEC.encode_side("context", {"user": [7], "tags": [[]], "seen": [["Heat", "Ran"]], "prices": [[]]})
    with pytest.raises(RecordError, match=r"context column seen: .* neither text nor an integer"):
        SPEC.encode_side("context", {"user": [7], "tags": [[]], "seen": [[0.5]], "prices": [[]]})
    with pytest.raises(ValueError, match=r"slot seen: .* as those of slot film: call spec\.value_slot\(slot\)\.fids"):
        SPEC.histories[0].fids([1])
    assert SPEC.value_slot(SPEC.histories[0]).fids(["Heat"]).tolist() == [first[1]]


def test_a_history_of_at_most_one_value_may_have_none() -> None:
    event = FeatureEvent(
        "r",
        5,
        SPEC.hash,
        make_fids(1, [7]),
        np.zeros(1, np.int64),
        np.concatenate([make_fids(16, [1]), make_fids(17, [1])]),
        np.array([1, 0, 0, 0], np.uint16),
    )
    SPEC.check_feature(event)
    seen = replace(
        event,
        context_fids=np.concatenate([event.context_fids, make_fids(3, [1, 2])]),
        context_lengths=np.array([1, 0, 2, 0], np.uint16),
    )
    with pytest.raises(RecordError, match="a slot has more values than its max_values"):
        SPEC.check_feature(seen)
    with pytest.raises(RecordError, match="a slot with one value per row has none"):
        SPEC.check_feature(replace(event, context_fids=event.context_fids[:0], context_lengths=np.zeros(4, np.uint16)))
