"""What an application does: asks for scores of the films on a page, shows them, reports what was watched."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rillet.connectors.producers import EventProducer
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import ActionEvent
from rillet.serving.client import CandidateEncoder, Client, Histories, Scores

CONFIG = Path(__file__).with_name("rillet.toml")
#: what is on the page: a film's id, and the shelf that it stands on
FILMS = {17: "drama", 23: "comedy", 42: "drama"}


def score(client: Client, encoder: CandidateEncoder, histories: Histories, user: int, films: dict[int, str]) -> Scores:
    """Scores the films for one user. Features go by the names in the spec; the impression id is the film's."""
    page = encoder.from_features(
        context=histories.context({"user": user}, at_ms=now_ms()),  # with the films that the user watched last
        items={"film": list(films), "shelf": list(films.values())},
        impression_ids=list(films),
    )
    return client.score(page, timeout_ms=100)


def report_watched(config: RilletConfig, histories: Histories, request_id: str, user: int, film: int) -> None:
    """Sends an action under the id of the request that showed the film, and puts the film into the user's history."""
    watched = ActionEvent(request_id, now_ms(), impression_id=film, action="watch")
    with EventProducer(config.kafka.connection, config.kafka.topics.actions) as actions:
        actions.submit(watched)
    histories.record("watch", watched.event_time_ms, context={"user": user}, item={"film": film})


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="the configuration that `rillet up` was given")
    config = load_config(parser.parse_args(arguments).config)
    spec = config.load_spec()
    encoder, histories = CandidateEncoder(spec), Histories(spec)
    with Client(f"http://{config.serving.host}:{config.serving.port}", config.model.name) as client:
        scores = score(client, encoder, histories, user=7, films=FILMS)
    for film, probability in zip(FILMS, scores.task("watch"), strict=True):
        print(f"film {film}: {probability:.4f}")
    report_watched(config, histories, scores.request_id, user=7, film=42)
    print("reported: film 42 was watched")


if __name__ == "__main__":
    main()
