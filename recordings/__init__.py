"""Recordings of the two raw topics: their format, two sources of them, recording and replaying."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rillet.recordings.errors import DatasetError, RecordingError
    from rillet.recordings.format import Event, Recording, RecordingInfo, RecordingWriter

__all__ = ["DatasetError", "Event", "Recording", "RecordingError", "RecordingInfo", "RecordingWriter"]


def __getattr__(name: str) -> Any:
    # The commands of this room lie beside the format: their --help must not load NumPy and Avro.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "errors" if name.endswith("Error") else "format"
    return getattr(import_module(f"{__name__}.{module}"), name)
