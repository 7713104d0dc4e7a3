"""Which requests of a recording are for the batch stage, and which are driven."""

from __future__ import annotations

import pytest

from rillet.demo.plan import Plan, live_events
from rillet.recordings import Recording
from rillet.recordings.synthetic import ShopConfig, generate_synthetic
from rillet.schemas import FeatureEvent


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    out = tmp_path_factory.mktemp("shop")
    generate_synthetic(out, requests=50, config=ShopConfig(users=10, items=12, gap_ms=60_000.0))
    return Recording(out)


def test_a_fifth_is_live_by_default_and_follows_the_batch_stage(recording: Recording) -> None:
    plan = Plan.of(recording)
    assert (plan.batch, plan.live) == (40, 10)
    features = list(recording.features())
    assert plan.live_span_ms == features[-1].event_time_ms - features[40].event_time_ms


def test_four_batch_requests_per_live_one_leave_the_rest_alone(recording: Recording) -> None:
    plan = Plan.of(recording, 5)
    assert (plan.batch, plan.live) == (20, 5)


def test_a_short_recording_gives_its_live_requests_first(recording: Recording) -> None:
    plan = Plan.of(recording, 45)
    assert (plan.batch, plan.live) == (5, 45)
    plan = Plan.of(recording, 100)
    assert (plan.batch, plan.live) == (0, 50)


def test_only_live_requests_are_driven_with_all_their_actions(recording: Recording) -> None:
    plan = Plan(20, 10, 0)
    events = list(live_events(recording, plan))
    driven = [event.request_id for event in events if isinstance(event, FeatureEvent)]
    assert driven == [event.request_id for event in recording.features()][20:30]
    actions = [event for event in events if not isinstance(event, FeatureEvent)]
    assert actions == [action for action in recording.actions() if action.request_id in set(driven)]
    assert len(actions) > 3
