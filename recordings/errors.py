"""What recordings raise.

RilletError
├── RecordingError   a recording is missing, damaged or inconsistent, or cannot be written there
└── DatasetError     a public data set could not be fetched, or its files are not the expected ones
"""

from __future__ import annotations

from rillet.schemas import RilletError


class RecordingError(RilletError):
    """A recording cannot be read or written; the message names the file and what is wrong with it."""


class DatasetError(RilletError):
    """A data set cannot be fetched or is not what it should be."""
