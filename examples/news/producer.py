"""The site's log: pages and what readers do on them, as JSON. Imports nothing of rillet.

    python producer.py

sends one page and one click.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

BROKER = "127.0.0.1:9092"
READER = {"id": 7, "country": "FR", "follows": ["football", "cycling"]}
ARTICLES = [
    {"id": "sport-3", "section": "sport", "tags": ["football"], "age_days": 0.25},
    {"id": "science-8", "section": "science", "tags": ["space", "climate"], "age_days": 1.5},
    {"id": "politics-1", "section": "politics", "tags": [], "age_days": 0.1},
]


def make_page(reader: dict[str, Any], articles: list[dict[str, Any]]) -> dict[str, Any]:
    """A page as the site logs it: an id of its own, the time, who reads it, what is on it."""
    shown_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"page_id": uuid.uuid4().hex, "shown_at": shown_at, "reader": reader, "articles": articles}


class SiteLog:
    """Sends pages and events. ``close`` waits for what is on its way, and raises if any of it was lost."""

    def __init__(self, broker: str = BROKER, pages: str = "news.pages", events: str = "news.events") -> None:
        self._producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 5})
        self._pages, self._events = pages, events
        self._lost: list[KafkaError] = []

    def page(self, page: dict[str, Any]) -> None:
        """A page was shown."""
        self._send(self._pages, page)

    def event(self, kind: str, page_id: str, article: str) -> None:
        """A reader did something with an article of a page: ``CLICK`` or ``SUBSCRIBE``."""
        self._send(self._events, {"type": kind, "page_id": page_id, "article": article, "at": round(time.time(), 3)})

    def close(self) -> None:
        left = self._producer.flush(30)
        if left or self._lost:
            raise RuntimeError(f"{left + len(self._lost)} records were not written: {self._lost[:1]}")

    def _send(self, topic: str, record: dict[str, Any]) -> None:
        self._producer.produce(topic, json.dumps(record), key=record["page_id"], on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._lost.append(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default=BROKER)
    site = SiteLog(parser.parse_args().broker)
    page = make_page(READER, ARTICLES)
    site.page(page)
    site.event("CLICK", page["page_id"], "sport-3")
    site.close()
    print(f"sent page {page['page_id']} and a click on sport-3")


if __name__ == "__main__":
    main()
