"""What is due next in a bucket, and what it is followed by: works are done one after the other, each in steps.

The order is by time, at one time closes before what is forgotten and that before what is given up, and then by slice and
task. It depends on the open slices alone, so that a header needs to say only how far it has come.
"""

from __future__ import annotations

from bisect import bisect_left

from rillet.joiner.header import BucketHeader, Work, WorkKind
from rillet.joiner.slices import SliceSchedule


def next_work(header: BucketHeader, schedule: SliceSchedule) -> tuple[int, Work] | None:
    """When something is due next, and what; work that has begun first. None where nothing is open."""
    if header.work is not None:
        return header.closed_ms, header.work
    found: list[tuple[int, WorkKind, int, int]] = []
    if header.slices:
        ordered = sorted(header.slices)
        for task in range(len(schedule.closes_ms)):
            at = bisect_left(ordered, schedule.first_after(header.closed_ms, task))
            if at < len(ordered):
                found.append((schedule.close_ms(ordered[at], task), WorkKind.CLOSE, ordered[at], task))
        found.append((schedule.expiry_ms(ordered[0]), WorkKind.FORGET, ordered[0], 0))
    if header.waiting:
        first = min(header.waiting)
        found.append((schedule.waiting_expiry_ms(first), WorkKind.GIVE_UP, first, 0))
    if not found:
        return None
    due_ms, kind, slice_, task = min(found)
    return due_ms, begun(header, kind, slice_, task)


def begun(header: BucketHeader, kind: WorkKind, slice_: int, task: int = 0) -> Work:
    """Work of which nothing is done yet."""
    return Work(kind, slice_, task, header.slices[slice_].drained if kind is WorkKind.CLOSE else 0)


def next_close_at_once(header: BucketHeader, schedule: SliceSchedule, done: Work) -> Work | None:
    """The close that follows at the same time on one that is done, None where none does."""
    found = []
    for task in range(len(schedule.closes_ms)):
        slice_ = schedule.close_at(header.closed_ms, task)
        if slice_ in header.slices and (slice_, task) > (done.slice_, done.task):
            found.append((slice_, task))
    return begun(header, WorkKind.CLOSE, *min(found)) if found else None
