"""Which publication a request is scored by, to the millisecond, and how intervals are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.backtest.delays import Delays, parse_interval, show_interval
from rillet.jobs.config import RilletConfig
from rillet.jobs.errors import ConfigError
from rillet.operators.flink_config import FlinkConfig
from rillet.sync.config import PublisherConfig


@given(
    publish=st.integers(1, 12),
    dense=st.integers(0, 40),
    apply=st.integers(0, 15),
    gaps=st.lists(st.integers(0, 60), min_size=1, max_size=12),
)
def test_every_request_is_scored_by_the_rows_and_weights_that_a_live_publisher_would_have_brought(
    publish: int, dense: int, apply: int, gaps: list[int]
) -> None:
    start, delays = 1_000, Delays(0, publish, dense, apply)
    # A live publisher, interval by interval: weights go out with a publication once their interval is over.
    live, dense_from = [(start, False)], start
    for moment in range(start + publish, start + sum(gaps) + publish, publish):
        of_weights = moment - dense_from >= dense
        dense_from = moment if of_weights else dense_from
        live.append((moment, of_weights))
    now = published = start
    weights: int | None = None
    for gap in gaps:
        now += gap
        for moment, of_weights in delays.publications(start, published, now):
            published = moment
            weights = moment if of_weights else weights
        served = [(moment, of_weights) for moment, of_weights in live if moment + apply < now]
        assert published == (served[-1][0] if served else start)
        assert weights == max((moment for moment, of_weights in served if of_weights), default=None)


def test_a_request_at_the_moment_of_a_publication_is_scored_by_what_was_published_before() -> None:
    delays = Delays(commit_ms=0, publish_ms=10, dense_ms=10)
    assert delays.publications(0, 0, 10) == []
    assert delays.publications(0, 0, 11) == [(10, True)]
    applied_later = Delays(commit_ms=0, publish_ms=10, dense_ms=10, apply_ms=3)
    assert applied_later.publications(0, 0, 13) == []
    assert applied_later.publications(0, 0, 14) == [(10, True)]


def test_without_an_interval_everything_before_the_request_is_published() -> None:
    assert Delays(0, 0, 0).publications(0, 0, 7) == [(6, True)]
    assert Delays(0, 0, 5).publications(0, 0, 7) == [(5, True), (6, False)]
    assert Delays(0, 0, 0).publications(0, 6, 7) == [], "two requests of one millisecond are scored alike"


def test_intervals_are_those_of_the_configuration_times_the_speed() -> None:
    config = RilletConfig(
        spec=Path("a"),
        flink=FlinkConfig(checkpoint_interval_ms=2_000),
        publisher=PublisherConfig(sparse_interval_s=3.0, dense_interval_s=9.0),
    )
    assert Delays.of(config) == Delays(2_000, 3_000, 9_000)
    assert Delays.of(config, speed=100) == Delays(200_000, 300_000, 900_000)


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="publish_ms: -1 is negative"):
        Delays(0, -1, 0)


@given(st.integers(0, 10**10))
def test_an_interval_is_read_back_as_it_was_shown(ms: int) -> None:
    assert parse_interval(show_interval(ms)) == ms


@pytest.mark.parametrize("text", ["10", "", "ten", "-1s", "1 min", "1s2m"])
def test_an_interval_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write a number and its unit"):
        parse_interval(text)
