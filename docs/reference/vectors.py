"""Test vectors of everything that crosses a topic: ``docs/vectors.json``, and the tables of it in docs/wire.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rillet.embeddings import CrossColumns
from rillet.joiner.sampling import choose, request_hash, score_rates
from rillet.schemas import (
    ActionEvent,
    Cross,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    Freshness,
    LabelKind,
    Record,
    Slot,
    dead_letter,
    encode,
    encode_dead_letter,
    load_spec,
    make_fids,
    token_values,
)
from rillet.schemas.negative_rates import RateByScore
from rillet.sync.blocks import TableShard, build_block

SPEC_FILE = Path(__file__).resolve().parents[2] / "examples" / "producers" / "films.spec.toml"
TOKENS = ("", "comedy", "Comedy", "42", "réalité", "日本")
NUMBERS = (-1.0, 2.4, 2.5, 5.0, 9.99, 10.0, 1e9)
AT_MS = 1_700_000_000_000


@cache
def vectors() -> dict[str, Any]:
    """All vectors as JSON values; bytes in hexadecimal digits."""
    spec = load_spec(SPEC_FILE)
    return {
        "tokens": [
            {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest(), "value": int(value)}
            for text, value in zip(TOKENS, token_values(TOKENS), strict=True)
        ],
        "fids": [
            {
                "slot": slot,
                "value": value,
                "fid": int(make_fids(slot, value)),
                "fid_hex": f"{int(make_fids(slot, value)):016x}",
            }
            for slot, value in ((1, 7), (16, 17), (17, int(token_values(["comedy"])[0])), (32767, (1 << 48) - 1))
        ],
        "bins": _bins(spec),
        "spec": {
            "file": "examples/producers/films.spec.toml",
            "canonical_json": spec.canonical_json,
            "sha256": hashlib.sha256(spec.canonical_json.encode()).hexdigest(),
            "hash": spec.hash,
            "hash_hex": f"{spec.hash:#x}",
        },
        "records": {type(record).__name__: _record(key, record) for key, record in _records(spec)},
        "dead_letter": json.loads(_letter()),
        "crosses": [_cross(spec, film) for film in (17, 23)],
        "samples": [_sample(7, "watch", "r-1", impression, 0.5) for impression in range(6)],
        "score_rates": [_score_rate(logit) for logit in (-20.0, -3.0, -2.84375, -2.84374, 0.03125, 1.5, 16.0)],
    }


def as_json() -> str:
    """The file."""
    return json.dumps(vectors(), indent=2, ensure_ascii=False) + "\n"


def section(name: str) -> str:
    """One section of docs/wire.md."""
    return SECTIONS[name](vectors())


def _bins(spec: FeatureSpec) -> list[dict[str, Any]]:
    (slot,) = (one for one in spec.item if one.kind == "number")
    bins = (slot.fids(list(NUMBERS)) & ((1 << 48) - 1)).tolist()
    return [{"edges": list(slot.bins), "number": n, "bin": b} for n, b in zip(NUMBERS, bins, strict=True)]


def _records(spec: FeatureSpec) -> list[tuple[str, Record]]:
    context, context_lengths = spec.encode_side("context", {"user": [7], "interests": [["drama", "crime"]]})
    item, item_lengths = spec.encode_side(
        "item", {"film": [17, 23], "genres": [["drama"], []], "price_band": [4.99, 5.0]}
    )
    feature = FeatureEvent(
        request_id="r-1",
        event_time_ms=AT_MS,
        spec_hash=spec.hash,
        context_fids=context,
        context_lengths=context_lengths,
        impression_ids=np.array([17, 23]),
        item_fids=item,
        item_lengths=item_lengths,
        dense=np.array([4.5, 3.25], np.float32),
    )
    action = ActionEvent("r-1", AT_MS + 2_000, impression_id=23, action="watch", value=12.5, action_id="a-1")
    # The second film, which was watched.
    first = int(item_lengths[: len(spec.item)].sum())
    example = ExampleBlock(
        spec_hash=spec.hash,
        bucket=3,
        request_ids=["r-1"],
        request_index=np.array([0], np.int32),
        impression_ids=np.array([23]),
        context_fids=context,
        context_lengths=context_lengths,
        item_fids=item[first:],
        item_lengths=item_lengths[len(spec.item) :],
        dense=np.array([3.25], np.float32),
        labels=np.array([1], np.uint8),
        mask=np.array([1], np.uint8),
        sampling_rate=np.array([1.0], np.float32),
        label_kind=np.array([LabelKind.CORRECTION], np.uint8),
        feature_time_ms=np.array([AT_MS]),
        action_time_ms=np.array([AT_MS + 2_000]),
        feature_ingest_ms=np.array([AT_MS + 5]),
        action_ingest_ms=np.array([AT_MS + 2_007]),
    )
    delta = build_block(
        TableShard("films", spec.model_hash),
        epoch=2,
        sequence=9,
        dim=2,
        fids=item[:1],
        rows=np.array([[0.5, -0.25]], np.float32),
        tombstones=item[-1:],
        freshness=Freshness(AT_MS + 2_000, AT_MS + 2_007, np.array([AT_MS + 2_007]), 0),
    )
    return [("r-1", feature), ("r-1", action), ("3", example), ("embeddings|0", delta)]


def _record(key: str, record: Record) -> dict[str, Any]:
    return {"key": key, "value": encode(record).hex()}


def _letter() -> bytes:
    return encode_dead_letter(
        dead_letter(
            "spec_hash: written under feature spec 0x1, ours is 0x2 (films)",
            "features",
            1,
            42,
            key=b"r-1",
            value=b"\xc3\x01",
            now_ms=AT_MS + 9,
            max_bytes=1_000,
            timestamp_ms=AT_MS,
            headers=[("ingest_ms", str(AT_MS + 5).encode())],
        )
    )


def _cross(spec: FeatureSpec, film: int) -> dict[str, Any]:
    user, other = Slot("user", 1, "id"), Slot("film", 16, "id")
    crossed = FeatureSpec("crossed", (user,), (other,), (), spec.tasks, crosses=(Cross("x", 40, ("user", "film"), 1),))
    pair = np.concatenate([user.fids([7]), other.fids([film])])
    fids, _ = CrossColumns.of_examples(crossed).add(pair, np.array([1, 1], np.uint16), 1)
    return {"first": int(pair[0]), "second": int(pair[1]), "slot": 40, "fid": int(fids[-1])}


def _sample(seed: int, task: str, request: str, impression: int, rate: float) -> dict[str, Any]:
    hashed = request_hash(seed, task, request)
    kept = choose(np.array([hashed], np.uint64), np.array([impression]), np.float32(rate))
    return {
        "sampling_seed": seed,
        "task": task,
        "request_id": request,
        "impression_id": impression,
        "negative_rate": rate,
        "request_hash": f"{hashed:016x}",
        "kept": bool(kept[0]),
    }


def _score_rate(logit: float) -> dict[str, Any]:
    by_score = RateByScore(mean_score=0.08, floor=0.02)
    rates = np.array(score_rates(0.1, by_score), np.float32)
    return {
        "negative_rate": 0.1,
        "mean_score": by_score.mean_score,
        "floor": by_score.floor,
        "served_logit": logit,
        "sampling_rate": float(rates[round(min(max(logit, -16.0), 16.0) * 16) + 256]),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(head), "|".join("---" for _ in head), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _hex(text: str) -> str:
    """A dump that can be read: 32 bytes per line."""
    return "\n".join(text[at : at + 64] for at in range(0, len(text), 64))


def _record_section(name: str) -> Callable[[dict[str, Any]], str]:
    def made(all_: dict[str, Any]) -> str:
        one = all_["records"][name]
        return f"Key `{one['key']}`, value:\n\n```\n{_hex(one['value'])}\n```"

    return made


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tokens": lambda v: _table(
        ("text", "SHA-256 begins with", "value"),
        [(f"`{t['text']}`" if t["text"] else "(empty)", f"`{t['sha256'][:12]}`", t["value"]) for t in v["tokens"]],
    ),
    "fids": lambda v: _table(
        ("slot", "value", "fid", "in hexadecimal digits"),
        [(f["slot"], f["value"], f["fid"], f"`{f['fid_hex']}`") for f in v["fids"]],
    ),
    "bins": lambda v: _table(("number", "bin"), [(b["number"], b["bin"]) for b in v["bins"]]),
    "spec": lambda v: (
        f"```json\n{v['spec']['canonical_json']}\n```\n\n"
        f"Its SHA-256 begins with `{v['spec']['sha256'][:15]}`: the hash is {v['spec']['hash']}, or `{v['spec']['hash_hex']}`."
    ),
    "crosses": lambda v: _table(
        ("first fid", "second fid", "slot", "fid of the pair"),
        [(c["first"], c["second"], c["slot"], c["fid"]) for c in v["crosses"]],
    ),
    "dead letter": lambda v: f"```json\n{json.dumps(v['dead_letter'], indent=1)}\n```",
    **{name: _record_section(name) for name in ("FeatureEvent", "ActionEvent", "ExampleBlock", "DeltaBlock")},
}
