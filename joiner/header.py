"""What a bucket knows of itself without its entries: how far its time is, which slices are open, and what is half done.

It is read when a bucket is first touched, with the actions that wait, and it is small: some tens of bytes, and 16 more for each
slice of requests that is open. For each of these slices and each task of which negatives were not sent, as after a drain that discards them, it is 20 more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

#: nothing is closed yet
NEVER_MS = -(1 << 62)
#: the watermark of the end of a bounded stream and of ``stop --drain`` (Flink's Long.MAX_VALUE)
END_OF_TIME_MS = (1 << 63) - 1

_HEAD = struct.Struct("<QqIII")
_SLICE = struct.Struct("<qII")
_WORK = struct.Struct("<BqII")
_DISCARDED = struct.Struct("<qIII")


class WorkKind(IntEnum):
    """What happens to a slice when its time has come, in the order in which it happens at one time."""

    #: the label windows of a task close
    CLOSE = 0
    #: its requests are forgotten
    FORGET = 1
    #: its waiting actions are given up
    GIVE_UP = 2


@dataclass(slots=True)
class Work:
    """Something that is done in steps and has begun."""

    kind: WorkKind
    slice_: int
    #: of a close, otherwise 0
    task: int
    #: numbers in the slice below this one are done
    done: int


class Discarded(NamedTuple):
    """Requests of a slice that were closed for a task without their negatives."""

    task: int
    #: numbers in the slice, from ``first``, below ``end``
    first: int
    end: int


@dataclass(slots=True)
class OpenSlice:
    """A slice with requests."""

    #: requests that are there; where it was read from the state there may be more, which :class:`Bucket` finds out
    count: int = 0
    #: requests below this number were closed for all tasks by a drain, ahead of their time
    drained: int = 0
    #: negatives that were not sent: a drain has discarded them, or our spec did not have their task then
    discarded: list[Discarded] = field(default_factory=list)
    #: whether ``count`` is all; not saved
    exact: bool = False

    def discard(self, task: int, first: int, end: int) -> None:
        """Notes that negatives are left out; those of one drain after the other are one part."""
        if first == end:
            return
        for at, part in enumerate(self.discarded):
            if (part.task, part.end) == (task, first):
                self.discarded[at] = part._replace(end=end)
                return
        self.discarded.append(Discarded(task, first, end))


@dataclass(slots=True)
class BucketHeader:
    """The header of one bucket.

    ``settings_digest`` stands for the settings that the state depends on: see :class:`KeptSettings`.
    """

    settings_digest: int
    #: the time of the bucket: all that was due before it is done, and at it all but ``work`` and what comes after it
    closed_ms: int = NEVER_MS
    work: Work | None = None
    slices: dict[int, OpenSlice] = field(default_factory=dict)
    #: slots of waiting actions, in use or not: none beyond them is
    slots: int = 0
    #: how many actions wait, by slice, and what they cost in memory, by estimate; not saved, it follows from what is in the slots
    waiting: dict[int, int] = field(default_factory=dict)
    waiting_bytes: int = 0

    def is_past(self, due_ms: int, slice_: int, task: int) -> bool:
        """Whether a close that is due at a time is done, or has begun."""
        work = self.work
        if due_ms != self.closed_ms or work is None or work.kind is not WorkKind.CLOSE:
            return due_ms <= self.closed_ms
        return (slice_, task) <= (work.slice_, work.task)

    def in_progress(self, kind: WorkKind, slice_: int, task: int = 0) -> Work | None:
        """The work on a slice, where it is what is being done."""
        work = self.work
        if work is not None and (work.kind, work.slice_, work.task) == (kind, slice_, task):
            return work
        return None

    def to_bytes(self) -> bytes:
        """The saved form."""
        slices, work = self.slices, self.work
        discarded = [_DISCARDED.pack(slice_, *part) for slice_, one in slices.items() for part in one.discarded]
        parts = [_HEAD.pack(self.settings_digest, self.closed_ms, self.slots, len(slices), len(discarded))]
        parts += [_SLICE.pack(slice_, one.count, one.drained) for slice_, one in slices.items()]
        parts += discarded
        # The work comes last, so that its presence follows from the length.
        if work is not None:
            parts.append(_WORK.pack(work.kind, work.slice_, work.task, work.done))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> BucketHeader:
        """Reads back :meth:`to_bytes`."""
        digest, closed_ms, slots, slices, discarded = _HEAD.unpack_from(data)
        first_discarded = _HEAD.size + slices * _SLICE.size
        found = _SLICE.iter_unpack(data[_HEAD.size : first_discarded])
        header = cls(digest, closed_ms, slots=slots)
        header.slices = {slice_: OpenSlice(count, drained) for slice_, count, drained in found}
        end = first_discarded + discarded * _DISCARDED.size
        for slice_, *part in _DISCARDED.iter_unpack(data[first_discarded:end]):
            header.slices[slice_].discarded.append(Discarded(*part))
        if len(data) > end:
            kind, slice_, task, done = _WORK.unpack_from(data, end)
            header.work = Work(WorkKind(kind), slice_, task, done)
        return header
