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


def _steps() -> list[Step]:
    steps: list[Step] = []

    def call(bucket: int, method: str, *arguments: Any) -> None:
        steps.append(Step(bucket, method, arguments))

    def gives(rule: str, bucket: int, key: str, value: bytes | None) -> None:
        steps.append(Step(bucket, "get", (key,), value, rule))

    steps.append(Step(1, "load_header", (), None, "a bucket never seen has no header"))
    gives("an entry never put is not there", 1, "r/7/0", None)
    call(1, "save_header", b"one")
    call(1, "save_header", b"\0two\xff")
    steps.append(Step(1, "load_header", (), b"\0two\xff", "the header last saved is loaded, byte by byte"))
    steps.append(Step(2, "load_header", (), None, "a header is of one bucket"))

    entries = {
        "r/7/0": b"a",
        "r/7/00": b"another",
        "p/": b"",
        "p/r\u00e4t\u3042\U0001f600": b"\xc3\x01\0\xff",
        "p/a b\n/c\0d": bytes(range(256)) * 400,
        "r/-7/4294967295": b"b",
    }
    for key, value in entries.items():
        call(1, "put", key, value)
    for key, value in entries.items():
        gives("an entry comes back by its key, byte by byte", 1, key, value)
        gives("an entry is of one bucket", 2, key, None)
    call(1, "put", "r/7/0", b"again")
    gives("a later put replaces an entry", 1, "r/7/0", b"again")
    call(1, "remove", "r/7/0")
    gives("a removed entry is not there", 1, "r/7/0", None)
    gives("removing an entry keeps the others", 1, "r/7/00", b"another")
    call(1, "put", "r/7/0", b"new")
    gives("a removed entry can be put again", 1, "r/7/0", b"new")
    steps.append(Step(1, "load_header", (), b"\0two\xff", "entries leave the header alone"))
    for number in range(1_100):  # more than PyFlink holds back in process mode
        call(3, "put", f"r/1/{number}", b"%d" % number)
    for number in (0, 999, 1_000, 1_099):
        gives("many entries are kept apart", 3, f"r/1/{number}", b"%d" % number)

    for bucket, watermark_ms in ((1, 500), (1, 500), (2, 500), (1, 400), (1, -5)):
        call(bucket, "wake_at", watermark_ms)
    return steps


STEPS = _steps()
#: (bucket, watermark) of every wake-up that was asked for
WAKE_UPS = [(1, -5), (1, 400), (1, 500), (2, 500)]


def perform(step: Step, state: BucketState) -> Any:
    """Makes the call of a step."""
    return getattr(state, step.method)(*step.arguments)


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
