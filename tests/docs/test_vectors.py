"""The vectors again, with nothing but the standard library: the page says all that another language needs."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from hashlib import blake2b, sha256
from math import exp
from pathlib import Path
from typing import Any

import pytest
from examples.producers.python import producer

from rillet.schemas import CODECS, ActionEvent, FeatureEvent, load_spec

ROOT = Path(__file__).resolve().parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "docs" / "vectors.json").read_text("utf-8"))
HASH: int = VECTORS["spec"]["hash"]
AT_MS = 1_700_000_000_000
_64 = (1 << 64) - 1


def _value(text: str) -> int:
    return int(sha256(text.encode()).hexdigest()[:12], 16)


def _fid(slot: int, value: int) -> int:
    return slot << 48 | value


def _packed(code: str, *numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


def _long(value: int) -> bytes:
    left, out = (value << 1 ^ value >> 63) & _64, b""
    while left > 0x7F:
        out, left = out + bytes([left & 0x7F | 0x80]), left >> 7
    return out + bytes([left])


def _bytes(data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return _long(len(data)) + data


NULL, SOME = _long(0), _long(1)


def _mix(x: int) -> int:
    x = x + 0x9E3779B97F4A7C15 & _64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _64
    return x ^ x >> 31


def test_tokens_fids_and_bins() -> None:
    assert [_value(one["text"]) for one in VECTORS["tokens"]] == [one["value"] for one in VECTORS["tokens"]]
    assert [_fid(one["slot"], one["value"]) for one in VECTORS["fids"]] == [one["fid"] for one in VECTORS["fids"]]
    for one in VECTORS["bins"]:
        assert bisect_right(one["edges"], one["number"]) == sum(e <= one["number"] for e in one["edges"]) == one["bin"]


def test_the_spec_hash() -> None:
    canonical = VECTORS["spec"]["canonical_json"]
    assert (
        int(sha256(canonical.encode()).hexdigest()[:15], 16) == HASH == load_spec(ROOT / VECTORS["spec"]["file"]).hash
    )
    assert json.dumps(json.loads(canonical), sort_keys=True, separators=(",", ":")) == canonical


def test_crosses() -> None:
    for one in VECTORS["crosses"]:
        pair = _mix(_mix(one["first"]) + one["second"] & _64)
        assert _fid(one["slot"], pair >> 16) == one["fid"]


def test_samples() -> None:
    kept = []
    for one in VECTORS["samples"]:
        text = f"{one['sampling_seed']}|{one['task']}|{one['request_id']}"
        request = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        assert f"{request:016x}" == one["request_hash"]
        kept.append((_mix(request ^ one["impression_id"]) >> 11) * 2.0**-53 < one["negative_rate"])
    assert kept == [one["kept"] for one in VECTORS["samples"]]
    assert len(set(kept)) == 2


def test_rates_by_score() -> None:
    for one in VECTORS["score_rates"]:
        p = 1 / (1 + exp(-round(min(max(one["served_logit"], -16), 16) * 16) / 16))
        rate = min(max(one["negative_rate"] / one["mean_score"] * p, one["floor"]), 1)
        assert struct.unpack("<f", struct.pack("<f", rate)) == (one["sampling_rate"],)


def _first_bytes(record: str) -> bytes:
    (line,) = (
        line for line in (ROOT / "docs" / "wire.md").read_text("utf-8").splitlines() if f"| `{record}` | `sch" in line
    )
    return bytes.fromhex(line.split("`")[-2])


CONTEXT = (_fid(1, 7), _fid(2, _value("drama")), _fid(2, _value("crime")))
ITEMS = (_fid(16, 17), _fid(17, _value("drama")), _fid(18, 1), _fid(16, 23), _fid(18, 2))


def _feature() -> bytes:
    return b"".join(
        (
            *(_first_bytes("FeatureEvent"), _bytes("r-1"), _long(AT_MS), _long(HASH), _bytes(""), _long(0)),
            *(_bytes(_packed("q", *CONTEXT)), SOME, _bytes(_packed("H", 1, 2))),
            *(_bytes(_packed("q", 17, 23)), _bytes(_packed("q", *ITEMS)), SOME, _bytes(_packed("H", 1, 1, 1, 1, 0, 1))),
            *(_bytes(_packed("f", 4.5, 3.25)), NULL, NULL),
        )
    )


def _action() -> bytes:
    event = (_first_bytes("ActionEvent"), _bytes("r-1"), _long(AT_MS + 2_000), _long(23), _bytes("watch"))
    return b"".join((*event, SOME, struct.pack("<d", 12.5), SOME, _bytes("a-1")))


def _example() -> bytes:
    times = (AT_MS, AT_MS + 2_000, AT_MS + 5, AT_MS + 2_007)
    return b"".join(
        (
            *(_first_bytes("ExampleBlock"), _long(HASH), _long(3), _long(1), _bytes("r-1"), _long(0)),
            *(_bytes(_packed("i", 0)), _bytes(_packed("q", 23)), _bytes(_packed("q", *CONTEXT)), SOME),
            *(_bytes(_packed("H", 1, 2)), _bytes(_packed("q", *ITEMS[3:])), SOME, _bytes(_packed("H", 1, 0, 1))),
            _bytes(_packed("f", 3.25)),
            *(_bytes(b"\1"), _bytes(b"\1"), _bytes(_packed("f", 1.0)), _bytes(b"\3")),
            *(_bytes(_packed("q", time)) for time in times),
            NULL,
        )
    )


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _delta() -> bytes:
    columns = (_packed("q", ITEMS[0]), _packed("f", 0.5, -0.25), _packed("q", ITEMS[-1]))
    return b"".join(
        (
            *(_first_bytes("DeltaBlock"), _bytes("films"), _bytes("embeddings"), _long(0), _long(2), _long(9)),
            *(_long(HASH), _long(2), *map(_bytes, columns)),
            *(_long(AT_MS + 2_000), _long(AT_MS + 2_007), _bytes(_packed("q", AT_MS + 2_007)), _long(0)),
            _long(_crc32c(b"".join(columns))),
        )
    )


@pytest.mark.parametrize(
    ("record", "made"),
    [("FeatureEvent", _feature), ("ActionEvent", _action), ("ExampleBlock", _example), ("DeltaBlock", _delta)],
)
def test_records(record: str, made: Any) -> None:
    assert made().hex() == VECTORS["records"][record]["value"]


def test_the_python_producer_sends_the_vectors() -> None:
    page = {
        "user": 7,
        "interests": ["drama", "crime"],
        "films": [
            {"film": 17, "genres": ["drama"], "price": 4.99, "rating": 4.5},
            {"film": 23, "genres": [], "price": 5.0, "rating": 3.25},
        ],
    }
    feature = producer.Codec("feature_event").encode(producer.feature_event("r-1", AT_MS, page))
    assert feature.hex() == VECTORS["records"]["FeatureEvent"]["value"]
    assert producer.Codec("action_event").header == CODECS[ActionEvent].header


def test_the_javascript_producer_has_the_present_constants() -> None:
    source = (ROOT / "examples" / "producers" / "node" / "producer.mjs").read_text("utf-8")
    assert f"SPEC_HASH = {HASH:#x}n" in source
    for kind in (FeatureEvent, ActionEvent):
        assert f'Buffer.from("{CODECS[kind].header.hex()}", "hex")' in source
