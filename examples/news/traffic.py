"""Sixty simulated readers of known taste, to watch the model learn: run it beside `rillet up`.

    python traffic.py --seconds 240

Each reader likes one section of three. A liked article is clicked with probability 0.60 in its first day and 0.30 later,
any other with 0.05; a liked one makes the reader subscribe with probability 0.15, any other with 0.01. Every ten seconds
a line says what the server answered on average for each kind of article, below the truth.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

import client
import producer

TAGS = {
    "politics": ["election", "parliament", "budget"],
    "sport": ["football", "tennis", "cycling"],
    "science": ["space", "climate", "medicine"],
}
SECTIONS = list(TAGS)
READERS, ARTICLES_OF_SECTION, PAGE = 60, 20, 6
REPORT_S = 10.0
#: (task, kind of article) to probability, in the order of the printed columns
TRUTH = {
    ("click", "liked, new"): 0.60,
    ("click", "liked, old"): 0.30,
    ("click", "other"): 0.05,
    ("subscribe", "liked"): 0.15,
    ("subscribe", "other"): 0.01,
}
#: seconds from the page to the action, at most
THINKING_S = {"click": 5.0, "subscribe": 20.0}


class Report(NamedTuple):
    """What the server answered since the last report, on average; the keys are those of ``TRUTH``."""

    seconds: float
    pages: int
    scores: dict[tuple[str, str], float]


class Readers:
    """Who comes next, what is on the page, what is done with it and when."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._readers = [self._reader(number) for number in range(1, READERS + 1)]
        self._articles = [
            self._article(section, number) for section in SECTIONS for number in range(1, ARTICLES_OF_SECTION + 1)
        ]
        #: (when, kind of event, page, article), the next one first
        self._coming: list[tuple[float, str, str, str]] = []

    def page(self) -> dict[str, Any]:
        """A page for a reader who comes now."""
        return producer.make_page(self._random.choice(self._readers), self._random.sample(self._articles, PAGE))

    def look(self, now_s: float, page: dict[str, Any]) -> None:
        """Decides what the reader will do with the page, and when."""
        for article in page["articles"]:
            for task in client.TASKS:
                if self._random.random() < TRUTH[task, kind_of(task, page["reader"], article)]:
                    when = now_s + self._random.uniform(0.5, THINKING_S[task])
                    heapq.heappush(self._coming, (when, task.upper(), page["page_id"], article["id"]))

    def events(self, now_s: float) -> Iterator[tuple[str, str, str]]:
        """Kind, page and article of what has been done by now."""
        while self._coming and self._coming[0][0] <= now_s:
            yield heapq.heappop(self._coming)[1:]

    def _reader(self, number: int) -> dict[str, Any]:
        topics = TAGS[liked_section(number)]
        follows = self._random.sample(topics, self._random.randint(0, 2))
        return {"id": number, "country": self._random.choice(["FR", "IE", "JP"]), "follows": follows}

    def _article(self, section: str, number: int) -> dict[str, Any]:
        tags = self._random.sample(TAGS[section], self._random.randint(0, 2))
        age_days = round(self._random.uniform(0, 2), 2)
        return {"id": f"{section}-{number}", "section": section, "tags": tags, "age_days": age_days}


def liked_section(reader_id: int) -> str:
    """The section that a reader likes."""
    return SECTIONS[reader_id % len(SECTIONS)]


def kind_of(task: str, reader: dict[str, Any], article: dict[str, Any]) -> str:
    """What the truth depends on."""
    if article["section"] != liked_section(reader["id"]):
        return "other"
    if task == "subscribe":
        return "liked"
    return "liked, new" if article["age_days"] < 1 else "liked, old"


def drive(site: producer.SiteLog, server: str, seconds: float, pages_per_s: float, seed: int = 0) -> Iterator[Report]:
    """Shows pages and reports what readers do, for so many seconds; a report every ten of them."""
    readers = Readers(seed)
    scores: dict[tuple[str, str], list[float]] = {key: [] for key in TRUTH}
    start = time.monotonic()
    pages, reported_s = 0, 0.0
    while (now := time.monotonic() - start) < seconds:
        for kind, page_id, article_id in readers.events(now):
            site.event(kind, page_id, article_id)
        if now - reported_s >= REPORT_S:
            yield Report(now, pages, {key: fmean(values) if values else float("nan") for key, values in scores.items()})
            scores, reported_s = {key: [] for key in TRUTH}, now
        if now < pages / pages_per_s:
            time.sleep(0.005)
            continue
        page = readers.page()
        for task, answered in client.score(page, server).items():
            for article, probability in zip(page["articles"], answered, strict=True):
                scores[task, kind_of(task, page["reader"], article)].append(probability)
        site.page(page)
        readers.look(now, page)
        pages += 1


def header() -> list[str]:
    """The lines above the reports: what the columns are, and the truth."""
    names = [f"{task}: {kind}" for task, kind in TRUTH]
    return [_line("", "pages", names), _line("truth", "", [f"{value:.2f}" for value in TRUTH.values()])]


def line(report: Report) -> str:
    """A report as a line."""
    return _line(f"{report.seconds:.0f} s", f"{report.pages:,}", [f"{value:.2f}" for value in report.scores.values()])


def _line(time_: str, pages: str, values: list[str]) -> str:
    return f"{time_:>6}{pages:>8}" + "".join(f"{value:>19}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--rate", type=float, default=10.0, help="pages per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broker", default=producer.BROKER)
    parser.add_argument("--server", default=client.SERVER)
    given = parser.parse_args()
    site = producer.SiteLog(given.broker)
    print(*header(), sep="\n", flush=True)
    try:
        for report in drive(site, given.server, given.seconds, given.rate, given.seed):
            print(line(report), flush=True)
    finally:
        site.close()


if __name__ == "__main__":
    main()
