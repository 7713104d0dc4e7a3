"""What the command line names; of the standard library alone, as every start of `rillet` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rillet.schemas.spec import LabelMode

#: when a peer learns a row: once its window is closed, or a positive as soon as it comes
PEER_LABELS: tuple[LabelMode, ...] = ("aligned", "positives_first")

#: of `rillet bench joiner`, in the order in which they run
CONTESTANTS = (
    "ours",
    "flink-sql",
    "flink-sql-heap",
    "plain-pyflink",
    "quixstreams",
    "passthrough",
    "ours-process",
)
