"""Ratings become pages: the rated film among films known by then, deterministic, in time order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rillet.recordings import DatasetError, Recording
from rillet.recordings.datasets import check_movielens
from rillet.recordings.histories import HistoryFiller
from rillet.recordings.movielens import CANDIDATES, convert_movielens, load_movielens, ml1m_spec, movielens_events
from rillet.schemas import ActionEvent, FeatureEvent, encode, slot_of, value_of

FILMS, USERS, RATINGS = 60, 8, 600


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of the same form."""
    folder = tmp_path_factory.mktemp("ml")
    rng = np.random.default_rng(1)
    films = [f"Film {i} (1990)\tFilm {i}\t{1950 + i}\t{'Comedy Drama' if i % 2 else 'War'}" for i in range(FILMS)]
    users = [f"1m_{i + 1}\t25\t{'MF'[i % 2]}\t{i}\t9{i}067" for i in range(USERS)]
    ratings = [
        f"1m_{rng.integers(1, USERS + 1)}\tFilm {min(FILMS - 1, int(rng.exponential(9)))} (1990)\t{rng.integers(1, 6)}\t{1000 + i // 7}"
        for i in rng.permutation(RATINGS)
    ]
    (folder / "ml-1m.item").write_text("\n".join(["item_id:token", *films]) + "\n")
    (folder / "ml-1m.user").write_text("\n".join(["user_id:token", *users]) + "\n")
    (folder / "ml-1m.inter").write_text("\n".join(["user_id:token", *ratings]) + "\n")
    return folder


def films_of(event: FeatureEvent) -> list[int]:
    assert event.item_lengths is not None
    starts = np.cumsum([0, *event.item_lengths.reshape(-1, 3).sum(axis=1, dtype=np.int64)])[:-1]
    return value_of(event.item_fids[starts]).tolist()


def test_each_rating_is_a_page_with_the_rated_film_watched(source: Path) -> None:
    data = load_movielens(source)
    spec = ml1m_spec()
    events = list(movielens_events(data))
    features = [event for event in events if isinstance(event, FeatureEvent)]
    watched = {e.request_id: e for e in events if isinstance(e, ActionEvent) and e.action == "watch"}
    liked = {e.request_id for e in events if isinstance(e, ActionEvent) and e.action == "like"}
    assert len(features) == len(watched) == RATINGS
    for number, event in enumerate(features):
        spec.check_feature(event)
        films = films_of(event)
        assert len(set(films)) == len(films)
        assert films[watched[event.request_id].impression_id] == data.film[number] + 1
        assert (event.request_id in liked) == (data.rating[number] >= 4)


def test_the_other_films_were_rated_before(source: Path) -> None:
    data = load_movielens(source)
    known: set[int] = set()
    for event in movielens_events(data):
        if isinstance(event, FeatureEvent):
            films = films_of(event)
            number = int(event.request_id.removeprefix("ml1m-"))
            rated = int(data.film[number]) + 1
            assert set(films) - {rated} <= known
            known.add(rated)


def test_pages_have_ten_films_once_enough_are_known(source: Path) -> None:
    sizes = [len(e.impression_ids) for e in movielens_events(load_movielens(source)) if isinstance(e, FeatureEvent)]
    assert sizes[0] == 1
    assert set(sizes[100:]) == {CANDIDATES}


def test_popular_films_are_shown_more_often(source: Path) -> None:
    data = load_movielens(source)
    shown = np.zeros(FILMS + 1, np.int64)
    for event in movielens_events(data):
        if isinstance(event, FeatureEvent):
            shown[films_of(event)] += 1
    popularity = np.bincount(data.film, minlength=FILMS)
    assert shown[1:][popularity > 30].mean() > 2 * shown[1:][(popularity > 0) & (popularity < 5)].mean()


def test_events_come_in_time_order_and_actions_within_their_windows(source: Path) -> None:
    events = list(movielens_events(load_movielens(source)))
    times = [event.event_time_ms for event in events]
    assert times == sorted(times)
    start = {e.request_id: e.event_time_ms for e in events if isinstance(e, FeatureEvent)}
    window = {task.actions[0]: task.window_ms for task in ml1m_spec().tasks}
    for event in events:
        if isinstance(event, ActionEvent):
            assert 0 < event.event_time_ms - start[event.request_id] < window[event.action]


def test_a_request_carries_the_films_that_its_user_watched_last_and_nothing_of_its_own(source: Path) -> None:
    watched: dict[int, list[int]] = {}
    shown: dict[str, tuple[int, list[int]]] = {}
    longest = 0
    for event in movielens_events(load_movielens(source)):
        if isinstance(event, FeatureEvent):
            user, films = int(value_of(event.context_fids[0])), films_of(event)
            shown[event.request_id] = user, films
            recent = event.context_fids[slot_of(event.context_fids) == 6]
            assert value_of(recent).tolist() == watched.get(user, [])
            longest = max(longest, len(recent))
        elif event.action == "watch":
            user, films = shown[event.request_id]
            film = films[event.impression_id]
            watched[user] = [film, *(other for other in watched.get(user, []) if other != film)][:20]
    assert longest == 20


def test_a_recording_filled_afterwards_equals_the_one_made_with_the_history(source: Path) -> None:
    data, spec = load_movielens(source), ml1m_spec()
    plain = list(movielens_events(data, spec=spec.without_histories()))
    filler = HistoryFiller(spec.without_histories(), spec)
    made = movielens_events(data)
    assert [encode(filler.take(event)) for event in plain] == [encode(event) for event in made]
    # Without its history the stream is what it was before there were any.
    assert all(len(event.context_fids) == 5 for event in plain if isinstance(event, FeatureEvent))


def test_the_seed_decides_everything(source: Path) -> None:
    data = load_movielens(source)
    once, again, other = ([encode(e) for e in movielens_events(data, seed=seed)] for seed in (5, 5, 6))
    assert once == again
    assert once != other


def test_fewer_requests_are_a_prefix_of_more(source: Path, tmp_path: Path) -> None:
    info = convert_movielens(source, tmp_path / "a", requests=50)
    assert info.requests == 50
    whole = convert_movielens(source, tmp_path / "b")
    assert whole.requests == RATINGS
    first, second = (Recording(tmp_path / name).features() for name in "ab")
    assert all(encode(a) == encode(b) for a, b in zip(first, second, strict=False))


def test_a_malformed_line_is_named(source: Path, tmp_path: Path) -> None:
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "ml-1m.user").write_text("header\n1m_1\t25\tM\t3\t12345\nbroken\n")
    with pytest.raises(DatasetError, match=r"ml-1m\.user, line 3"):
        load_movielens(tmp_path)


def test_other_files_than_the_known_ones_are_refused_by_checksum(source: Path) -> None:
    with pytest.raises(DatasetError, match=r"ml-1m\.inter: sha256"):
        check_movielens(source)
