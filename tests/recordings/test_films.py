"""The films scenario: labels follow the rates that it writes down, traffic follows its curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rillet.recordings import Recording
from rillet.recordings.films import FilmsConfig, film_events, films_spec, generate_films
from rillet.recordings.known_truth import read_truth
from rillet.schemas import ActionEvent, FeatureEvent, encode, load_spec

ROOT = Path(__file__).resolve().parents[2]


def test_its_spec_is_that_of_the_example_and_changes_in_the_task_only() -> None:
    example = load_spec(ROOT / "examples" / "films" / "films.spec.toml").without_histories()
    assert films_spec(window_ms=example.tasks[0].window_ms) == example
    changed = films_spec(window_ms=1_000, negative_rate=0.25, labels="aligned")
    task = changed.tasks[0]
    assert (task.window_ms, task.negative_rate, task.labels) == (1_000, 0.25, "aligned")
    assert (changed.context, changed.item) == (example.context, example.item)


def test_films_are_watched_at_their_true_rates_and_after_the_page(tmp_path: Path) -> None:
    generate_films(tmp_path / "films", requests=1_000, seed=2)
    recording, truth = Recording(tmp_path / "films"), read_truth(tmp_path / "films")[:, 0]
    shown = [(event, film) for event in recording.features() for film in event.impression_ids.tolist()]
    times = {event.request_id: event.event_time_ms for event, _ in shown}
    watched = {(action.request_id, action.impression_id) for action in recording.actions()}
    labels = np.array([(event.request_id, film) in watched for event, film in shown])
    assert len(labels) == len(truth) == pytest.approx(5_700, rel=0.03)
    for rate in (0.70, 0.05):
        chosen = np.isclose(truth, rate)
        deviation = np.sqrt(rate * (1 - rate) / chosen.sum())
        assert abs(labels[chosen].mean() - rate) < 4 * deviation
    delays_ms = [action.event_time_ms - times[action.request_id] for action in recording.actions()]
    assert 1_000 <= min(delays_ms) < max(delays_ms) <= 8_000


def test_traffic_rises_to_its_peak_and_falls_again() -> None:
    config = FilmsConfig(requests_per_s=2.0, peak=3.0, ramp_start_s=200.0, ramp_s=200.0)
    assert [config.traffic(at) for at in (0, 200, 300, 400, 500, 600, 900)] == [2, 2, 4, 6, 4, 2, 2]
    events = film_events(2_400, config=config)
    times = np.array([event.event_time_ms for event, _ in events if isinstance(event, FeatureEvent)]) - config.start_ms
    counts, _ = np.histogram(times, [0, 200_000, 400_000, 600_000])
    assert counts == pytest.approx([400, 800, 800], rel=0.15)


def test_events_are_in_time_order_and_the_seed_decides_everything() -> None:
    once, again, other = ([event for event, _ in film_events(80, seed=seed)] for seed in (1, 1, 2))
    assert [encode(event) for event in once] == [encode(event) for event in again]
    assert [encode(event) for event in once] != [encode(event) for event in other]
    times = [event.event_time_ms for event in once]
    assert times == sorted(times)
    assert any(isinstance(event, ActionEvent) for event in once)


@pytest.mark.parametrize(("field", "value"), [("users", 0), ("liked_rate", 1.5), ("slowest_ms", 10)])
def test_an_impossible_scenario_is_refused_by_field(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        FilmsConfig(**{field: value})  # type: ignore[arg-type]
