"""Quix Streams: ``python -m peers.quix_streams SERVERS FEATURES ACTIONS EXAMPLES FOLDER WINDOW_MS GRACE_MS``.

The interval join as its documentation has it: a row for every action within the window after its impression. Ends once
nothing has come for some seconds.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from quixstreams import Application
from quixstreams.state.rocksdb import RocksDBOptions

#: the label of what it writes
POSITIVE = b"1"
_QUIET_S = 8.0


def main(servers: str, features: str, actions: str, examples: str, folder: str, window_ms: str, grace_ms: str) -> None:
    """Joins both topics up to their ends."""
    app = Application(
        broker_address=servers,
        consumer_group=examples,
        auto_offset_reset="earliest",
        commit_interval=5.0,
        processing_guarantee="exactly-once",
        state_dir=Path(folder) / "state",
        # Values stay bytes; the default would have them as JSON, which has none.
        rocksdb_options=RocksDBOptions(dumps=pickle.dumps, loads=pickle.loads),
    )
    shown = app.dataframe(app.topic(features, key_deserializer="str", value_deserializer="bytes"))
    acted = app.dataframe(app.topic(actions, key_deserializer="str", value_deserializer="bytes"))
    joined = shown.join_interval(
        acted,
        how="inner",
        on_merge=lambda event, action: event,
        grace_ms=int(window_ms) + int(grace_ms),
        # Both ends belong to Quix's interval, to ours the first alone.
        forward_ms=int(window_ms) - 1,
    )
    target = app.topic(examples, key_serializer="bytes", value_serializer="bytes")
    joined.to_topic(target, key=lambda value: POSITIVE)
    app.run(timeout=_QUIET_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
