"""Recordings of the two raw topics: their format, two sources of them, recording and replaying."""

from jobs.recordings.errors import DatasetError, RecordingError
from jobs.recordings.format import Event, Recording, RecordingInfo, RecordingWriter

__all__ = ["DatasetError", "Event", "Recording", "RecordingError", "RecordingInfo", "RecordingWriter"]
