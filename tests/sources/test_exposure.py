"""Which candidates of a page were exposed, where the source says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rillet.schemas import FeatureEvent, RecordError, decode_as
from tests.sources.support import PAGES, SPEC, as_json, features_of, page


def exposed(*found: Any) -> FeatureEvent:
    """A page whose candidates say this of their exposure; ... for nothing."""
    articles = [
        article | ({} if one is ... else {"in_view": one})
        for article, one in zip(page()["articles"], found, strict=True)
    ]
    sources = replace(PAGES, features=replace(PAGES.features, exposed="in_view"))
    event = decode_as(FeatureEvent, features_of(sources).native(None, as_json(page(articles=articles))).value or b"")
    SPEC.check_feature(event)
    return event


def test_true_and_false_are_taken_as_they_are() -> None:
    event = exposed(True, False, True)
    assert event.exposed is not None
    assert event.exposed.tolist() == [1, 0, 1]
    assert len(event.shown().impression_ids) == 2


def test_a_source_that_does_not_say_leaves_it_open() -> None:
    event = decode_as(FeatureEvent, features_of(PAGES).native(None, as_json(page())).value or b"")
    assert event.exposed is None
    assert event.shown() is event


@pytest.mark.parametrize(("value", "problem"), [(..., "is missing"), (None, "is"), (1, "is neither true nor false")])
def test_what_is_neither_is_refused_with_its_path(value: Any, problem: str) -> None:
    with pytest.raises(RecordError, match=rf"articles\.1\.in_view: .*{problem}"):
        exposed(True, value, False)
