"""Small recordings written by hand for the tests of the backtest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rillet.recordings import Event, Recording, RecordingWriter
from rillet.schemas import ActionEvent, FeatureEvent, FeatureSpec, parse_spec
from rillet.schemas.fid import make_fids

SPEC = parse_spec(
    """
    [spec]
    name = "hand"
    [[context]]
    name = "user"
    slot = 1
    kind = "id"
    [[context]]
    name = "hour"
    slot = 2
    kind = "number"
    bins = [6.0, 18.0]
    [[item]]
    name = "tags"
    slot = 16
    kind = "id"
    max_values = 3
    [[item]]
    name = "item"
    slot = 17
    kind = "id"
    [[tasks]]
    name = "click"
    action = "click"
    window_ms = 1000
    labels = "positives_first"
    [[tasks]]
    name = "buy"
    action = "buy"
    window_ms = 5000
    labels = "positives_first"
    """
)


def request(
    name: str,
    time_ms: int,
    items: Iterable[int] = (1, 2),
    *,
    user: int = 1,
    hour: int = 0,
    tags: Iterable[int] = (),
    served: list[float] | None = None,
    spec: FeatureSpec = SPEC,
) -> FeatureEvent:
    """A request for some items, all with the same tags; impression ids are the items'.

    :param served: logits [items x tasks].
    """
    items, tags = list(items), list(tags)
    row = np.concatenate([make_fids(16, np.array(tags, np.int64)), np.zeros(1, np.int64)])
    fids = np.tile(row, len(items)).reshape(len(items), -1)
    fids[:, -1] = make_fids(17, np.array(items))
    return FeatureEvent(
        request_id=name,
        event_time_ms=time_ms,
        spec_hash=spec.hash,
        context_fids=np.concatenate([make_fids(1, np.array([user])), make_fids(2, np.array([hour]))]),
        context_lengths=None,
        impression_ids=np.array(items, np.int64),
        item_fids=fids.reshape(-1),
        item_lengths=np.tile(np.array([len(tags), 1], np.uint16), len(items)),
        dense=np.empty(0, np.float32),
        served_logits=None if served is None else np.array(served, np.float32),
    )


def action(name: str, time_ms: int, item: int = 1, kind: str = "click") -> ActionEvent:
    """An action on an item of a request."""
    return ActionEvent(name, time_ms, item, kind)


def write_recording(folder: Path, events: Iterable[Event]) -> Recording:
    """A recording of events in the order given."""
    with RecordingWriter(folder, SPEC, "hand") as writer:
        for event in events:
            writer.write(event)
    return Recording(folder)
