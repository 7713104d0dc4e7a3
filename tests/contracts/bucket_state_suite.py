"""What every implementation of :class:`rillet.joiner.BucketState` has to do, as data: calls, and what they give.

Data, so that the same suite runs in this process and inside a Flink task. Buckets are told apart by the
caller: a state object is of one bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rillet.joiner import BucketState


@dataclass(frozen=True)
class Step:
    """One call on the state of a bucket; ``result`` is what a call that reads has to give."""

    bucket: int
    method: str
    arguments: tuple[Any, ...] = ()
    result: Any = None
    #: the behaviour that a wrong result breaks
    rule: str = ""


#: slices this far apart share a list state in Flink
_APART = 32
_SHARING = (3, 3 + _APART, 3 + 2 * _APART, 3 - _APART)


def _steps() -> list[Step]:
    steps: list[Step] = []

    def call(bucket: int, method: str, *arguments: Any) -> None:
        steps.append(Step(bucket, method, arguments))

    def reads(rule: str, bucket: int, name: str, slice_: int, *entries: bytes) -> None:
        steps.append(Step(bucket, "read", (name, slice_), list(entries), rule))

    steps.append(Step(1, "load_header", (), None, "a bucket never seen has no header"))
    reads("a slice never written is empty", 1, "features", 7)
    call(1, "clear", "features", 7, ())
    call(1, "save_header", b"one")
    call(1, "save_header", b"\0two\xff")
    steps.append(Step(1, "load_header", (), b"\0two\xff", "the header last saved is loaded, byte by byte"))
    steps.append(Step(2, "load_header", (), None, "a header is of one bucket"))

    entries = [b"a", b"", b"\xc3\x01\0\xff", b"a", bytes(range(256)) * 400]
    for entry in entries:
        call(1, "append", "features", 7, entry)
    reads("entries come back in the order they were added, repeated and empty ones too", 1, "features", 7, *entries)
    reads("reading takes nothing away", 1, "features", 7, *entries)
    reads("a list is of one bucket", 2, "features", 7)
    reads("features and waiting are two lists", 1, "waiting", 7)
    call(1, "append", "waiting", 7, b"w")
    call(1, "clear", "features", 7, ())
    reads("a cleared list is empty", 1, "features", 7)
    reads("clearing one list of a slice keeps the other", 1, "waiting", 7, b"w")
    call(1, "append", "features", 7, b"again")
    reads("a cleared list can be used again", 1, "features", 7, b"again")

    for slice_ in _SHARING:
        call(2, "append", "features", slice_, b"first of %d" % slice_)
    for slice_ in _SHARING:
        call(2, "append", "features", slice_, b"second of %d" % slice_)
    call(2, "clear", "features", _SHARING[1], (_SHARING[0], _SHARING[2], _SHARING[3]))
    reads("a cleared slice is empty among many", 2, "features", _SHARING[1])
    for slice_ in (_SHARING[0], _SHARING[2], _SHARING[3]):
        kept = (b"first of %d" % slice_, b"second of %d" % slice_)
        reads("clearing a slice keeps those that are alive", 2, "features", slice_, *kept)
    for slice_ in range(100, 100 + 3 * _APART):
        call(3, "append", "waiting", slice_, b"%d" % slice_)
    for slice_ in range(100, 100 + 3 * _APART, 2):
        call(3, "clear", "waiting", slice_, tuple(range(slice_ + 1, 100 + 3 * _APART)))
    for slice_ in (101, 101 + _APART, 99 + 3 * _APART):
        reads("many slices are kept apart", 3, "waiting", slice_, b"%d" % slice_)
    reads("a slice cleared among many is empty", 3, "waiting", 100)

    for bucket, watermark_ms in ((1, 500), (1, 500), (2, 500), (1, 400), (1, -5)):
        call(bucket, "wake_at", watermark_ms)
    return steps


STEPS = _steps()
#: (bucket, watermark) of every wake-up that was asked for
WAKE_UPS = [(1, -5), (1, 400), (1, 500), (2, 500)]


def perform(step: Step, state: BucketState) -> Any:
    """Makes the call of a step; lists are read to their end."""
    result = getattr(state, step.method)(*step.arguments)
    return list(result) if step.method == "read" else result


def broken_rules(results: list[Any], wake_ups: list[tuple[int, int]]) -> list[str]:
    """The rules that an implementation breaks, empty for a good one.

    :param results: of every step, in order.
    :param wake_ups: (bucket, watermark) of every wake-up.
    """
    broken = [step.rule for step, result in zip(STEPS, results, strict=True) if step.rule and result != step.result]
    if sorted(wake_ups) != WAKE_UPS:
        broken.append("every time that was asked for wakes its bucket once")
    return broken


def run_suite(make: Callable[[], Any]) -> list[str]:
    """Runs the suite in this process.

    :param make: a state of a fresh bucket, with its ``wake_ups``.
    """
    states = {bucket: make() for bucket in (1, 2, 3)}
    results = [perform(step, states[step.bucket]) for step in STEPS]
    return broken_rules(results, [(bucket, at) for bucket, state in states.items() for at in state.wake_ups])
