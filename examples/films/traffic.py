"""Forty simulated users of two tastes, to watch the model learn: run it beside `rillet up`.

    python -m examples.films.traffic --seconds 300

Users with an even number like dramas, the others comedies: a film of the liked shelf is watched with probability 0.70,
another with 0.05. Every ten seconds a line says what the server answered for either kind, beside the truth. A model that
knows nothing answers 0.02; after a minute the columns are near 0.70 and 0.05.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from examples.films.client import CONFIG, now_ms

from rillet.connectors.producers import EventProducer
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import ActionEvent
from rillet.serving.client import CandidateEncoder, Client, Histories

USERS, FILMS, PAGE = 40, 50, 6
LIKED, OTHER = 0.70, 0.05
SHELVES = ("drama", "comedy")
REPORT_S = 10.0


class Users:
    """Who asks next, what is on the page, and what is watched: a few seconds after the page was shown."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        #: (when, request id, user, film), the next one first
        self._watching: list[tuple[float, str, int, int]] = []

    def page(self) -> tuple[int, list[int]]:
        """A user and the films on the page."""
        films = self._rng.choice(FILMS, PAGE, replace=False) + 1
        return int(self._rng.integers(USERS)), films.tolist()

    def watch(self, now_s: float, request_id: str, user: int, films: Sequence[int]) -> None:
        """Decides which films of a page will be watched, and when."""
        for film in films:
            if self._rng.random() < (LIKED if likes(user, film) else OTHER):
                heapq.heappush(self._watching, (now_s + float(self._rng.uniform(1, 8)), request_id, user, film))

    def watched(self, now_s: float) -> list[tuple[str, int, int]]:
        """Request, user and film of everything that has been watched by now."""
        found = []
        while self._watching and self._watching[0][0] <= now_s:
            found.append(heapq.heappop(self._watching)[1:])
        return found


def shelf(film: int) -> str:
    """The shelf that a film stands on."""
    return SHELVES[film % 2]


def likes(user: int, film: int) -> bool:
    """Whether the film stands on the shelf that the user likes."""
    return film % 2 == user % 2


def drive(
    config: RilletConfig, seconds: float, requests_per_s: float, seed: int, show: Callable[[str], None] = print
) -> None:
    """Asks, watches and reports for so many seconds."""
    spec = config.load_spec()
    users, encoder, histories = Users(seed), CandidateEncoder(spec), Histories(spec)
    scores: dict[bool, list[float]] = {True: [], False: []}
    start = time.monotonic()
    asked, reported_s = 0, 0.0
    with (
        Client(f"http://{config.serving.host}:{config.serving.port}", config.model.name) as client,
        EventProducer(config.kafka.connection, config.kafka.topics.actions) as actions,
    ):
        while (now := time.monotonic() - start) < seconds:
            for request_id, user, film in users.watched(now):
                watched = ActionEvent(request_id, now_ms(), film, "watch")
                actions.submit(watched)
                histories.record("watch", watched.event_time_ms, context={"user": user}, item={"film": film})
            if now - reported_s >= REPORT_S:
                show(_line(now, asked, scores))
                scores, reported_s = {True: [], False: []}, now
            if now < asked / requests_per_s:
                time.sleep(0.005)
                continue
            user, films = users.page()
            page = encoder.from_features(
                context=histories.context({"user": user}, now_ms()),
                items={"film": films, "shelf": [shelf(film) for film in films]},
                impression_ids=films,
            )
            answer = client.score(page, timeout_ms=1_000)
            for film, probability in zip(films, answer.task("watch").tolist(), strict=True):
                scores[likes(user, film)].append(probability)
            users.watch(now, answer.request_id, user, films)
            asked += 1


def _line(now_s: float, asked: int, scores: dict[bool, list[float]]) -> str:
    liked, other = (float(np.mean(scores[kind])) if scores[kind] else float("nan") for kind in (True, False))
    return f"{now_s:6.0f} s {asked:7,} requests   liked {liked:.3f} ({LIKED:.2f})   other {other:.3f} ({OTHER:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=CONFIG, help="the configuration that `rillet up` was given")
    given = parser.parse_args()
    drive(load_config(given.config), given.seconds, given.rate, given.seed)


if __name__ == "__main__":
    main()
