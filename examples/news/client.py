"""Asks for scores over the Open Inference Protocol, with the standard library alone. Imports nothing of rillet.

    python client.py

scores the articles of one page. The site logs its pages itself, as JSON (producer.py), so each request says
``"log": false``: the server does not log it once more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any
from urllib.request import Request, urlopen

from producer import ARTICLES, READER, make_page

SERVER = "http://127.0.0.1:8500"
MODEL = "news"
# As in news.spec.toml: the numbers of the slots in their order, how many values each may have, the tasks in their order.
READER_ID, COUNTRY, FOLLOWS, ARTICLE, SECTION, TAGS = 1, 2, 3, 16, 17, 18
MAX_FOLLOWS, MAX_TAGS = 4, 3
TASKS = ("click", "subscribe")


# A feature is 15 bits of slot and 48 bits of value. Text is hashed; slots with several values are filled up with 0.
def fid(slot: int, value: int) -> int:
    return slot << 48 | value


def tokens(slot: int, texts: list[str], max_values: int = 1) -> list[int]:
    hashes = [int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) for text in texts]
    return [fid(slot, value) for value in hashes] + [0] * (max_values - len(hashes))


def row(reader: dict[str, Any], article: dict[str, Any]) -> list[int]:
    """The features of one article for one reader, in the order of the slots."""
    return [
        fid(READER_ID, reader["id"]),
        *tokens(COUNTRY, [reader["country"]]),
        *tokens(FOLLOWS, reader["follows"], MAX_FOLLOWS),
        *tokens(ARTICLE, [article["id"]]),
        *tokens(SECTION, [article["section"]]),
        *tokens(TAGS, article["tags"], MAX_TAGS),
    ]


def score(page: dict[str, Any], server: str = SERVER) -> dict[str, list[float]]:
    """For each task the probabilities of the page's articles, in their order."""
    articles = page["articles"]
    rows = [row(page["reader"], article) for article in articles]
    body = {
        "parameters": {"log": False},
        "inputs": [
            {"name": "fids", "datatype": "INT64", "shape": [len(rows), len(rows[0])], "data": rows},
            {
                "name": "dense",
                "datatype": "FP32",
                "shape": [len(rows), 1],
                "data": [article["age_days"] for article in articles],
            },
        ],
        "outputs": [{"name": "scores"}],
    }
    request = Request(  # noqa: S310  an address of our own
        f"{server}/v2/models/{MODEL}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=1) as answer:  # noqa: S310
        (scores,) = json.load(answer)["outputs"]
    # One row per article, one column per task, row after row.
    return {task: scores["data"][column :: len(TASKS)] for column, task in enumerate(TASKS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=SERVER)
    scores = score(make_page(READER, ARTICLES), parser.parse_args().server)
    for number, article in enumerate(ARTICLES):
        print(f"{article['id']:12}", *(f"{task} {scores[task][number]:.4f}" for task in TASKS), sep="  ")


if __name__ == "__main__":
    main()
