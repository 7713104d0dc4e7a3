"""The production joiner in simulated time: events in order of event time, watermarks right after them, no engine.

Blocks become visible to the trainer when the transaction that they are in would have been committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import WaitingFullError
from rillet.joiner.gathering import GatheringBuilder
from rillet.joiner.join import Joiner
from rillet.joiner.state import is_gathered
from rillet.schemas import ActionEvent, ExampleBlock, FeatureEvent, FeatureSpec, RecordError

_BUCKET = 0
#: large, so that there are few, and small enough for the trainer to cut its batches out of
_BLOCK_ROWS = 4_096
_EVER = 1 << 62


class _NoState:
    """A bucket's state that keeps what is nowhere else: what rules have gathered, and when it is to be woken.

    A run that crashes begins anew.
    """

    def __init__(self) -> None:
        self.wake_ms: int | None = None
        self._gathered: dict[str, bytes] = {}

    def load_header(self) -> bytes | None:
        return None

    def save_header(self, header: bytes) -> None:
        pass

    def get(self, key: str) -> bytes | None:
        return self._gathered.get(key)

    def put(self, key: str, value: bytes) -> None:
        if is_gathered(key):
            self._gathered[key] = value

    def remove(self, key: str) -> None:
        self._gathered.pop(key, None)

    def wake_at(self, watermark_ms: int) -> None:
        self.wake_ms = watermark_ms if self.wake_ms is None else min(self.wake_ms, watermark_ms)


class SimulatedJoin:
    """Takes events in order of event time, gives blocks in the order and at the times at which they can be read."""

    def __init__(
        self, spec: FeatureSpec, config: JoinerConfig, *, lateness_ms: int, commit_ms: int, directory: Path
    ) -> None:
        """
        :param lateness_ms: how far the watermark follows the newest event.
        :param commit_ms: interval of the joiner's checkpoints in event time; 0 makes blocks visible at once.
        :param directory: for the disk tier; must not exist.
        """
        self._builder = GatheringBuilder(spec, _BLOCK_ROWS)
        # No state but the joiner's own, so what leaves memory has to be on disk; and a slice closes at once.
        settings = replace(config, buckets=1, disk_tier=True)
        self._joiner = Joiner(spec, settings, directory, self._builder, step_requests=_EVER, step_bytes=_EVER)
        self._state = _NoState()
        self._lateness_ms = lateness_ms
        self._commit_ms = commit_ms
        #: newest event time so far: when things happen. An event that is stamped earlier arrives now.
        self._now_ms = -(1 << 62)
        #: when what the joiner gives now can be read
        self._visible_ms = self._now_ms
        self._blocks: deque[tuple[int, ExampleBlock]] = deque()
        #: requests that the joiner refused, since they came later than every label window
        self.refused = 0
        #: actions that it refused, since there was no room for them to wait
        self.refused_actions = 0

    @property
    def counters(self) -> dict[str, int]:
        """What happened to the events, as ``docs/join.md`` counts it."""
        return self._joiner.counters.as_dict()

    def take(self, event: FeatureEvent | ActionEvent) -> None:
        """Feeds one event that fits the spec, then moves the watermark."""
        moved = event.event_time_ms > self._now_ms
        if moved:
            self._move(event.event_time_ms)
        try:
            self._queue(self._joiner.on_event(_BUCKET, event, b"", self._now_ms, self._state))
        except WaitingFullError:
            self.refused_actions += 1
        except RecordError:
            self.refused += 1
        if moved:
            self._advance(self._now_ms - self._lateness_ms - 1)

    def finish(self) -> None:
        """Closes every window, as a drain does; what that gives is visible after the last commit."""
        self._queue(self._joiner.drain(_BUCKET, self._state))
        self._commit()

    def visible(self, now_ms: int) -> list[tuple[int, ExampleBlock]]:
        """Blocks that can be read by ``now_ms`` and were not given before, with the times since when they can."""
        if self._visible_ms <= now_ms:
            self._commit()
        found = []
        while self._blocks and self._blocks[0][0] <= now_ms:
            found.append(self._blocks.popleft())
        return found

    def close(self) -> None:
        """Releases the joiner's local store."""
        self._joiner.close()

    def _advance(self, watermark_ms: int) -> None:
        while (wake_ms := self._state.wake_ms) is not None and wake_ms <= watermark_ms:
            # It asks for its next turn.
            self._state.wake_ms = None
            self._queue(self._joiner.advance(_BUCKET, watermark_ms, self._state))

    def _move(self, now_ms: int) -> None:
        """Time goes on; what was gathered until then is committed if a commit lies between."""
        visible_ms = (now_ms // self._commit_ms + 1) * self._commit_ms if self._commit_ms else now_ms
        if visible_ms != self._visible_ms:
            self._commit()
            self._visible_ms = visible_ms
        self._now_ms = now_ms

    def _commit(self) -> None:
        self._queue(self._builder.gathered(_BUCKET))

    def _queue(self, blocks: Iterable[ExampleBlock]) -> None:
        for block in blocks:
            self._blocks.append((self._visible_ms, block))
