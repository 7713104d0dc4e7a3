"""What an application does: asks for scores of the films on a page, shows them, reports what was watched."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from rillet.connectors.producers import EventProducer
from rillet.jobs.config import load_config
from rillet.schemas import ActionEvent, FeatureSpec

CONFIG = Path(__file__).with_name("rillet.toml")


def infer_request(spec: FeatureSpec, request_id: str, user: int, films: dict[int, str]) -> dict[str, Any]:
    """The body of an Open Inference Protocol request; ``films`` maps a film's id to the shelf that it stands on.

    A row a film; a column a value, in the order of the spec: user, film, shelf.
    """
    (user_slot,), (film_slot, shelf_slot) = spec.context, spec.item
    columns = [
        user_slot.fids([user] * len(films)),
        film_slot.fids(list(films)),
        shelf_slot.fids(list(films.values())),
    ]
    rows = [[int(fid) for fid in row] for row in zip(*columns, strict=True)]
    return {
        "id": request_id,
        "inputs": [
            {"name": "fids", "datatype": "INT64", "shape": [len(rows), len(columns)], "data": rows},
            {"name": "impression_ids", "datatype": "INT64", "shape": [len(rows)], "data": list(films)},
        ],
    }


def main() -> None:
    config = load_config(CONFIG)
    spec = config.load_spec()
    films = {17: "drama", 23: "comedy", 42: "drama"}
    request_id = uuid.uuid4().hex

    body = json.dumps(infer_request(spec, request_id, user=7, films=films)).encode()
    url = f"http://{config.serving.host}:{config.serving.port}/v2/models/{config.model.name}/infer"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
        outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
    for film, score in zip(films, outputs["scores"], strict=True):
        print(f"film {film}: {score:.4f}")

    actions = EventProducer(config.kafka.connection, config.kafka.topics.actions)
    actions.start()
    actions.submit(ActionEvent(request_id, time.time_ns() // 1_000_000, impression_id=42, action="watch"))
    actions.flush()
    actions.close()
    print("reported: film 42 was watched")


if __name__ == "__main__":
    main()
