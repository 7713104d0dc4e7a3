"""Sends the pages of pages.json to the two raw topics, and what was watched on them. Imports nothing of rillet.

    python producer.py 127.0.0.1:9092 for_sale.features for_sale.actions

What every byte means is written down in docs/wire.md.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import struct
import sys
import time
import uuid
from pathlib import Path

import fastavro
from confluent_kafka import Producer
from fastavro.schema import fingerprint, load_schema, to_parsing_canonical_form

HERE = Path(__file__).resolve().parent
SCHEMAS = HERE.parents[2] / "schemas" / "avsc"

#: as `rillet check-config --config examples/producers/rillet.toml` prints it
SPEC_HASH = 0xB5E7237EF57A94A
BINS = [2.5, 5.0, 10.0]
USER, INTERESTS, FILM, GENRES, PRICE_BAND = 1, 2, 16, 17, 18  # slot numbers


def fid(slot, value):
    return slot << 48 | value


def token(text):
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def packed(code, numbers):
    """Numbers as little-endian bytes: q int64, H uint16, f float32."""
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


class Codec:
    """Avro single-object encoding with one of the schemas."""

    def __init__(self, name):
        self.schema = load_schema(SCHEMAS / f"{name}.avsc")
        canonical = to_parsing_canonical_form(json.loads((SCHEMAS / f"{name}.avsc").read_text()))
        self.header = b"\xc3\x01" + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))

    def encode(self, record):
        out = io.BytesIO(self.header)
        out.seek(len(self.header))
        fastavro.schemaless_writer(out, self.schema, record)
        return out.getvalue()


def feature_event(request_id, time_ms, page):
    films = page["films"]
    item_fids, item_lengths = [], []
    for film in films:
        item_fids.append(fid(FILM, film["film"]))
        item_fids += [fid(GENRES, token(genre)) for genre in film["genres"]]
        item_fids.append(fid(PRICE_BAND, bisect.bisect_right(BINS, film["price"])))
        item_lengths += [1, len(film["genres"]), 1]
    interests = [fid(INTERESTS, token(interest)) for interest in page["interests"]]
    return {
        "request_id": request_id,
        "event_time_ms": time_ms,
        "spec_hash": SPEC_HASH,
        "context_fids": packed("q", [fid(USER, page["user"]), *interests]),
        "context_lengths": packed("H", [1, len(interests)]),
        "impression_ids": packed("q", [film["film"] for film in films]),
        "item_fids": packed("q", item_fids),
        "item_lengths": packed("H", item_lengths),
        "dense": packed("f", [film["rating"] for film in films]),
    }


def action_event(request_id, time_ms, film):
    return {"request_id": request_id, "event_time_ms": time_ms, "impression_id": film, "action": "watch"}


def main(servers, features, actions):
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    lost = []

    def send(topic, codec, record):
        producer.produce(
            topic,
            key=record["request_id"],
            value=codec.encode(record),
            timestamp=record["event_time_ms"],
            headers={"ingest_ms": str(time.time_ns() // 1_000_000)},
            on_delivery=lambda error, message: error and lost.append(error),
        )

    feature_codec, action_codec = Codec("feature_event"), Codec("action_event")
    for page in json.loads((HERE.parent / "pages.json").read_text("utf-8")):
        request_id, now_ms = uuid.uuid4().hex, time.time_ns() // 1_000_000
        send(features, feature_codec, feature_event(request_id, now_ms, page))
        if page["watched"] is not None:
            send(actions, action_codec, action_event(request_id, now_ms + 1, page["watched"]))
    producer.flush(30)
    if lost or len(producer):
        sys.exit(f"{len(lost) + len(producer)} records were not acknowledged: {lost[:1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
