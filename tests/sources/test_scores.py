"""Scores of another ranker become the served logits of a request."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rillet.schemas import FeatureEvent, RecordError, decode_as
from rillet.sources import SourcesConfig
from rillet.sources.config import ScoreKind
from tests.sources.support import IMPRESSIONS, PAGES, SPEC, as_json, features_of, impression, page

NAN = math.nan


def scored(value: Any, kind: ScoreKind = "probability", of: SourcesConfig = PAGES, **scores: str) -> FeatureEvent:
    sources = replace(of, features=replace(of.features, scores=scores or {"click": "score"}, score_kind=kind))
    event = decode_as(FeatureEvent, features_of(sources).native(None, as_json(value)).value or b"")
    SPEC.check_feature(event)
    return event


def with_scores(*scores: Any, name: str = "score") -> dict[str, Any]:
    """A page whose candidates have these scores; ... for none."""
    articles = [
        article | ({} if score is ... else {name: score})
        for article, score in zip(page()["articles"], scores, strict=True)
    ]
    return page(articles=articles)


def test_probabilities_become_logits_of_their_task_and_a_missing_one_is_none() -> None:
    logits = scored(with_scores(0.25, None, ...)).served_logits
    assert logits is not None
    np.testing.assert_allclose(logits, np.array([math.log(1 / 3), *[NAN] * 5], np.float32))


def test_logits_are_taken_as_they_are_for_each_task_named() -> None:
    record = with_scores(-1.5, 0, 2)
    record["articles"][1]["of"] = {"like": 7}
    logits = scored(record, "logit", like="of.like", click="score").served_logits
    assert logits is not None
    np.testing.assert_array_equal(logits.reshape(3, 2), np.array([[-1.5, NAN], [0, 7], [2, NAN]], np.float32))


def test_certain_probabilities_have_finite_logits() -> None:
    logits = scored(with_scores(0, 1, 0.5)).served_logits
    assert logits is not None
    np.testing.assert_allclose(logits[::2], [-16.118, 16.118, 0], atol=1e-3)


def test_a_page_without_any_score_was_scored_by_nobody() -> None:
    assert scored(page()).served_logits is None


def test_an_impression_without_a_page_has_its_score_beside_it() -> None:
    logits = scored(impression(score=0.5), of=IMPRESSIONS).served_logits
    assert logits is not None
    np.testing.assert_array_equal(logits, np.array([0, NAN], np.float32))


@pytest.mark.parametrize(
    ("kind", "score", "message"),
    [
        ("probability", 1.5, 'articles.1.score: 1.5 is no probability; is score_kind "logit" meant?'),
        ("probability", -0.1, 'articles.1.score: -0.1 is no probability; is score_kind "logit" meant?'),
        ("probability", NAN, 'articles.1.score: nan is no probability; is score_kind "logit" meant?'),
        ("probability", "0.5", "articles.1.score: '0.5' is no number"),
        ("probability", True, "articles.1.score: True is no number"),
        ("logit", math.inf, "articles.1.score: inf is no logit"),
        ("logit", 1e300, "articles.1.score: 1e+300 is no logit"),
        ("logit", [1], "articles.1.score: [1] is no number"),
    ],
)
def test_what_is_no_score_is_refused_with_its_place(kind: ScoreKind, score: Any, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        scored(with_scores(0.5, score, 0.5), kind)
    assert str(caught.value) == message


def test_an_integer_beyond_all_floats_is_refused() -> None:
    with pytest.raises(RecordError, match=r"articles.0.score: 10.*0 is no logit$"):
        scored(with_scores(10**400, 0, 0), "logit")
