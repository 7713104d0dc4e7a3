"""Recordings of the two raw topics: their format, two sources of them, recording and replaying."""

from rillet.recordings.errors import DatasetError, RecordingError
from rillet.recordings.format import Event, Recording, RecordingInfo, RecordingWriter

__all__ = ["DatasetError", "Event", "Recording", "RecordingError", "RecordingInfo", "RecordingWriter"]
