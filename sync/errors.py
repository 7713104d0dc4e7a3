"""What ``sync`` raises.

RilletError
└── SyncError
    ├── LogUnavailableError       the log did not acknowledge or answer in time; what was sent may still arrive
    ├── PositionOutOfRangeError   a position before the log's begin (truncated) or past its end (recreated)
    ├── FencedError               a newer writer has taken over: this one has to stop
    ├── BlockError                one block of the log is damaged
    ├── StoreUnavailableError     the object store cannot be read or written
    ├── CorruptArtifactError      a file of a base or a dense blob is missing, torn or altered
    └── BaseNotFoundError         no base fits
        └── OtherSpecBaseError        there are bases, all of other feature specs, crosses or transforms
"""

from __future__ import annotations

from rillet.schemas import RilletError


class SyncError(RilletError):
    """The root of what this package raises."""


class LogUnavailableError(SyncError):
    """The delta log did not acknowledge or answer in time. What was appended may or may not be in it."""


class PositionOutOfRangeError(SyncError):
    """A reader asked for a position that the log does not hold."""

    def __init__(self, position: int, begin: int, end: int) -> None:
        self.position = position
        self.begin = begin
        self.end = end
        super().__init__(
            f"position {position} is not in the delta log, which holds {begin}..{end}: "
            + (
                "its retention is shorter than the age of the reader's base; start from a newer base"
                if position < begin
                else "the log was recreated since; start from a base written after that"
            )
        )


class FencedError(SyncError):
    """A writer with a newer epoch is at work; all readers refuse whatever this one appends."""


class BlockError(SyncError):
    """A block's checksum or shape is wrong."""


class StoreUnavailableError(SyncError):
    """The object store failed; trying again later may help."""


class CorruptArtifactError(SyncError):
    """A stored file is not what was written: missing, cut short or altered. Trying again does not help."""


class BaseNotFoundError(SyncError):
    """No base in the store fits what was asked."""


class OtherSpecBaseError(BaseNotFoundError):
    """The store has bases of the model, and none is of the reader's feature spec, crosses and transforms."""
