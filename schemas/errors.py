"""The root of rillet's exceptions and the ones raised by ``schemas``.

RilletError
├── SpecError            a feature spec that cannot be used (names file and key)
└── RecordError          a record that cannot be used
    ├── DecodeError      the bytes are no record of a known schema
    ├── SpecMismatchError     written under another feature spec than ours
    ├── TimeUnitError    an event time in another unit than milliseconds
    └── FutureTimeError  an event time too long after the record entered its topic

Every package derives its own tree from :class:`RilletError`, so that a command can turn whatever is
the user's to mend into one line and let everything else surface as a bug.
"""

from __future__ import annotations

from typing import Any


class RilletError(Exception):
    """Something the user or operator can mend; the message says what, where and how.

    It goes from one process to another as it is, whatever arguments it was made of.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[RilletError], arguments: tuple[object, ...]) -> RilletError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


class SpecError(RilletError):
    """The feature spec is malformed or inconsistent."""


class RecordError(RilletError):
    """One record is unusable; the stream it came from goes on."""


class DecodeError(RecordError):
    """The bytes do not decode to a record of a known schema."""


class SpecMismatchError(RecordError):
    """The record was written under a feature spec with another hash: ``found``."""

    def __init__(self, message: str, found: int) -> None:
        super().__init__(message)
        self.found = found


class TimeUnitError(RecordError):
    """The event time is none that can be meant, and is one in another unit."""


class FutureTimeError(RecordError):
    """The event time lies too long after the record entered its topic."""
