"""MovieLens-1M as a stream of requests: each rating becomes a page of ten films on which one was watched.

The page holds the rated film and nine others, drawn from the films rated before with weights of the square
root of their popularity so far. ``watch`` always follows, ``like`` when the rating is 4 or 5. The same seed
gives the same stream. It is not a log of what was shown: MovieLens has none, so the negatives are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rillet.recordings.errors import DatasetError
from rillet.recordings.format import Event, RecordingInfo, RecordingWriter
from rillet.recordings.histories import HistoryFiller
from rillet.recordings.known_truth import Generated, in_time_order
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, parse_spec
from rillet.schemas.arrays import Int64s, UInt16s

CANDIDATES = 10
LIKE_RATING = 4
#: Popularity is frozen for this many requests, so that drawing is done in arrays.
_BLOCK_REQUESTS = 512
#: Draws a page; what is left after removing repetitions is nearly always nine.
_DRAWS = 32
_WATCH_DELAY_MS = (2_000, 30_000)
_LIKE_DELAY_MS = (5_000, 120_000)


@dataclass(frozen=True, slots=True)
class MovieLens:
    """The three files as columns; films and users are numbered by their lines.

    Ratings are in time order (ties in file order), times spread over their second so that they are
    non-decreasing milliseconds.
    """

    user: Int64s
    film: Int64s
    rating: Int64s
    time_ms: Int64s
    user_fids: Int64s
    film_fids: Int64s
    film_lengths: UInt16s
    film_start: Int64s


def ml1m_spec() -> FeatureSpec:
    """The feature spec of the converted data, with the history of films that a user watched last."""
    return parse_spec(resources.files("rillet.recordings").joinpath("specs", "movielens.toml").read_text("utf-8"))


def load_movielens(directory: Path) -> MovieLens:
    """Reads ``ml-1m.inter``, ``.user`` and ``.item``.

    :raises DatasetError: a file is missing or malformed; the message names file and line.
    """
    spec = ml1m_spec().without_histories()
    users = _rows(directory / "ml-1m.user", 5)
    films = _rows(directory / "ml-1m.item", 4)
    user_ids = [int(row[0].removeprefix("1m_")) for row in users]
    user_fids, _ = spec.encode_side(
        "context",
        {
            "user": user_ids,
            "age": [int(row[1]) for row in users],
            "gender": [row[2] for row in users],
            "occupation": [int(row[3]) for row in users],
            "zip_prefix": [row[4][:3] for row in users],
        },
    )
    film_fids, lengths = spec.encode_side(
        "item",
        {
            "film": np.arange(1, len(films) + 1),
            "year": [int(row[2]) for row in films],
            "genres": [row[3].split() for row in films],
        },
    )
    if lengths is None:
        raise DatasetError("ml1m.spec.toml: no item slot is ragged")
    film_lengths = lengths.reshape(len(films), -1)
    film_start = np.concatenate(([0], np.cumsum(film_lengths.sum(axis=1, dtype=np.int64))))

    user_number = {row[0]: number for number, row in enumerate(users)}
    film_number = {row[0]: number for number, row in enumerate(films)}
    ratings = _rows(directory / "ml-1m.inter", 4)
    try:
        columns = np.array([(user_number[u], film_number[f], int(r), int(t)) for u, f, r, t in ratings], np.int64).T
    except (KeyError, ValueError) as error:
        raise DatasetError(f"{directory / 'ml-1m.inter'}: unknown or malformed value {error}") from error
    user, film, rating, seconds = columns[:, np.argsort(columns[3], kind="stable")]
    # Several ratings share a second; the k-th of n is put at k/n of it.
    _, first, count = np.unique(seconds, return_index=True, return_counts=True)
    within = np.arange(len(seconds)) - np.repeat(first, count)
    time_ms = seconds * 1000 + within * 1000 // np.repeat(count, count)
    return MovieLens(
        user, film, rating, time_ms, user_fids.reshape(len(users), -1), film_fids, film_lengths, film_start
    )


def movielens_events(
    data: MovieLens, *, requests: int | None = None, seed: int = 0, spec: FeatureSpec | None = None
) -> Iterator[Event]:
    """The ratings as feature and action events in event time order.

    The first requests have fewer than ten films, while fewer are known.

    :param requests: how many ratings to use, from the first on; None for all 1,000,209.
    :param spec: :func:`ml1m_spec`, or one with other histories or tasks; None for the former.
    :raises SpecError: the spec has other columns.
    """
    plain = ml1m_spec().without_histories()
    # Actions follow within minutes, in which there are at most some thousands of requests.
    filler = HistoryFiller(plain, spec or ml1m_spec(), max_requests=100_000)
    return (filler.take(event) for event, _ in in_time_order(_requests(data, plain.hash, requests, seed)))


def _requests(data: MovieLens, spec_hash: int, requests: int | None, seed: int) -> Iterator[Generated]:
    """Requests without histories."""
    total = len(data.user) if requests is None else min(requests, len(data.user))
    rng = np.random.default_rng(seed)
    popularity = np.zeros(len(data.film_lengths), np.int64)
    start = 0
    while start < total:
        # Small blocks at the beginning, where each rating changes much of what is known.
        # A block is drawn whole even if it is not used whole: fewer requests are a prefix of more.
        stop = min(len(data.user), start + min(_BLOCK_REQUESTS, max(1, start // 2)))
        pages = _draw_pages(rng, popularity, data.film[start:stop])
        watch_after = rng.integers(*_WATCH_DELAY_MS, stop - start).tolist()
        like_after = rng.integers(*_LIKE_DELAY_MS, stop - start).tolist()
        times, ratings = data.time_ms[start:stop].tolist(), data.rating[start:stop].tolist()
        users, films = data.user[start:stop].tolist(), data.film[start:stop].tolist()
        fids, fid_ends, lengths = _encode_pages(data, pages)
        fid_at = page_at = 0
        for index, page in enumerate(pages[: total - start]):
            time_ms = times[index]
            request_id = f"ml1m-{start + index:07d}"
            page_end = page_at + len(page)
            fid_end = int(fid_ends[page_end - 1])
            feature = FeatureEvent(
                request_id=request_id,
                event_time_ms=time_ms,
                spec_hash=spec_hash,
                context_fids=data.user_fids[users[index]],
                context_lengths=np.ones(data.user_fids.shape[1], np.uint16),
                impression_ids=np.arange(len(page)),
                item_fids=fids[fid_at:fid_end],
                item_lengths=lengths[page_at:page_end].reshape(-1),
            )
            fid_at, page_at = fid_end, page_end
            place = page.index(films[index])
            watched = time_ms + watch_after[index]
            todo = [(watched, "watch")]
            if ratings[index] >= LIKE_RATING:
                todo.append((watched + like_after[index], "like"))
            rating = float(ratings[index])
            yield feature, [ActionEvent(request_id, at, place, action, rating) for at, action in todo], None
        popularity += np.bincount(data.film[start:stop], minlength=len(popularity))
        start = stop


def convert_movielens(
    source: Path, out: Path, *, requests: int | None = None, seed: int = 0, spec: FeatureSpec | None = None
) -> RecordingInfo:
    """Writes the recording of the first ``requests`` ratings (None: all) into ``out``.

    :param spec: see :func:`movielens_events`.
    :raises DatasetError: the files are not MovieLens-1M.
    :raises RecordingError: ``out`` cannot be written.
    """
    data = load_movielens(source)
    spec = spec or ml1m_spec()
    with RecordingWriter(out, spec, "MovieLens-1M") as writer:
        writer.source = {"generator": "movielens", "seed": seed, "candidates": CANDIDATES}
        for event in movielens_events(data, requests=requests, seed=seed, spec=spec):
            writer.write(event)
    return writer.info()


def _rows(path: Path, width: int) -> list[list[str]]:
    try:
        lines = path.read_text("utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    rows = [line.split("\t") for line in lines if line]
    for number, row in enumerate(rows, 2):
        if len(row) != width:
            raise DatasetError(f"{path}, line {number}: {len(row)} columns, expected {width}")
    return rows


def _draw_pages(rng: np.random.Generator, popularity: Int64s, rated: Int64s) -> list[list[int]]:
    """A page of distinct film numbers for each rated film, which is among them at a random place."""
    known = np.flatnonzero(popularity)
    n = len(rated)
    places = rng.random(n)
    if not len(known):
        return [[int(film)] for film in rated]
    weights = np.sqrt(popularity[known])
    cumulative = np.cumsum(weights)
    if len(known) > 2 * _DRAWS:
        drawn = known[np.searchsorted(cumulative, rng.random((n, _DRAWS)) * cumulative[-1], side="right")]
    else:
        # Hardly any film is known: all of them, in random order.
        drawn = known[np.argsort(rng.random((n, len(known))), axis=1)]
    pages = []
    for film, draws, place in zip(rated.tolist(), drawn.tolist(), places.tolist(), strict=True):
        others = dict.fromkeys(draws)
        others.pop(film, None)
        page = list(others)[: CANDIDATES - 1]
        page.insert(int(place * (len(page) + 1)), film)
        pages.append(page)
    return pages


def _encode_pages(data: MovieLens, pages: list[list[int]]) -> tuple[Int64s, Int64s, UInt16s]:
    """Item fids of all pages one after the other, the end of each film's in them, and their lengths."""
    films = np.array([film for page in pages for film in page], np.int64)
    begin = data.film_start[films]
    sizes = data.film_start[films + 1] - begin
    ends = np.cumsum(sizes)
    index = np.arange(ends[-1]) + np.repeat(begin - (ends - sizes), sizes)
    return data.film_fids[index], ends, data.film_lengths[films]
