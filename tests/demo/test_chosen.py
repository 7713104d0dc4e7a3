"""The settings that were chosen for the demo's data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.demo.chosen import chosen_table
from rillet.embeddings import TableConfig
from rillet.recordings import Recording
from rillet.recordings.synthetic import generate_synthetic


def test_tastes_that_change_are_followed_faster_than_those_that_do_not() -> None:
    films, shop, unknown = (chosen_table(name) for name in ("MovieLens-1M", "synthetic", "monday"))
    assert unknown == TableConfig()
    assert shop.accumulator_half_life_s < films.accumulator_half_life_s
    assert films.learning_rate == pytest.approx(0.07)


def test_a_recording_of_ours_is_known_by_the_name_that_it_has(tmp_path: Path) -> None:
    generate_synthetic(tmp_path, requests=10)
    assert chosen_table(Recording(tmp_path).info.dataset) != TableConfig()
