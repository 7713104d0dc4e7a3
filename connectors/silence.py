"""Which topics are silent: nothing comes and all is read. The broker is asked, on a thread of its own.

A reader that gets nothing does not know whether there is nothing, whether the broker is away, or whether others still
have to read what there is. While one topic is silent, or not known to move, windows must not close by the other; where all
are, time may go on without records.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from types import MappingProxyType

from rillet.connectors.connection import KafkaConnection
from rillet.connectors.lag import GroupLag, TopicProgress
from rillet.schemas import RilletError

log = logging.getLogger(__name__)

_CHECKS_PER_IDLE_TIME = 4
_TIMEOUT_S, _SHORTEST_TIMEOUT_S = 10.0, 2.0


class TopicState:
    """One topic as the checks find it; times in seconds of a monotonic clock.

    Time is held at the start until the topic is known to move or to be silent: its sources may have been idle for long when the
    first check is made, since a large state takes longer to be restored than a source to start. Where all was read then, a
    topic that moves is behind as after silence. Time is held too while the topic is silent, and while it is behind. It is behind until all of it is read and nothing more
    has come from one check to the next. Where traffic is dense, that never is; there it is until ``idle_s`` have
    passed, in which each partition's backlog comes, and what lies on the topic then is read. After an outage of the broker
    this alone counts: partitions come back one after the other, and in between all may be read.

    A partition that was added is found by the engine after minutes, in which time would go on without it. From its first records on
    time is held, until these are read, and after that all that lies on the topic then.
    """

    def __init__(self, now_s: float, idle_s: float, *, known: bool = False) -> None:
        """
        :param idle_s: how long nothing has to come before time may go on without records.
        :param known: whether it is known to move already.
        """
        self._idle_s = idle_s
        self._found: TopicProgress | None = None
        #: since when the ends have stood
        self.since_s = now_s
        #: how far the topic was when it fell silent; None while it is not
        self._silent_at: TopicProgress | None = None
        #: since when it moves again; None where it is not behind
        self._moves_since_s: float | None = None
        #: ends up to which it has to be read then; empty before they are known
        self.awaited: Mapping[int, int] = {}
        #: whether that is the beginning of a partition, after which the rest of it is awaited
        self._awaits_first = False
        self._was_lost = False
        #: whether it was seen to move or to be silent
        self._is_known = known
        #: how far it was when that was first known
        self._began_at: TopicProgress | None = None
        #: partitions that were there from the start on, or have had records since; empty before the first check
        self._known: set[int] = set()

    def check(self, found: TopicProgress, now_s: float, *, unread: bool = False) -> None:
        """:param unread: whether a record before :attr:`awaited` is not read."""
        standing = self._found is not None and found.ends == self._found.ends
        if not standing:
            self.since_s = now_s
        self._found = found
        if not self._is_known:
            self._begin(found, now_s)
        if self._silent_at is None:
            if found.all_read and now_s - self.since_s >= self._idle_s / 2:
                self._silent_at, self._is_known = found, True
        elif self._moves(found, self._silent_at):
            self._silent_at, self._moves_since_s, self.awaited = None, now_s, {}
        if self._has_grown(found):
            self._moves_since_s, self.awaited, self._awaits_first = now_s, found.ends, True
        elif self._moves_since_s is None:
            return
        elif found.all_read and standing and not self._was_lost:
            self._catch_up()
        elif self.awaited:
            if not unread:
                self._catch_up(found.ends if self._awaits_first else {})
        elif now_s - self._moves_since_s >= self._idle_s:
            self.awaited = found.ends

    def _begin(self, found: TopicProgress, now_s: float) -> None:
        if self._began_at is None:
            # Before the reader's first checkpoint, where it is says nothing.
            self._began_at = found if found.begun or found.all_read else None
        elif self._moves(found, self._began_at):
            self._is_known = True
            if self._began_at.all_read:
                self._moves_since_s = now_s

    def _catch_up(self, awaited: Mapping[int, int] = MappingProxyType({})) -> None:
        """:param awaited: ends that are to be reached before."""
        self.awaited, self._awaits_first = awaited, False
        if not awaited:
            self._moves_since_s, self._was_lost = None, False

    def _has_grown(self, found: TopicProgress) -> bool:
        """Whether the first records have come to a partition that was added."""
        begun = {number for number, end in found.ends.items() if end} if self._known else found.ends.keys()
        grown = bool(self._known) and not begun <= self._known
        self._known |= begun
        return grown

    @staticmethod
    def _moves(found: TopicProgress, silent_at: TopicProgress) -> bool:
        """Whether every partition that something new has come to is read from again.

        That records have come is not enough: until one of theirs is read, the engine leaves partitions out, and one that
        is read first would take time past what lies on the others.
        """
        # By ends and by positions: what ends transactions lies between them, and is never read.
        new = {number for number, end in found.ends.items() if end > silent_at.ends.get(number, 0)}
        read = {n for n, position in found.positions.items() if position > silent_at.positions.get(n, 0)}
        return bool(read) and (new <= read or found.all_read)

    def lose(self) -> None:
        """The broker is away: the reader gets nothing until it has passed where it is."""
        if self._silent_at is None:
            self._silent_at = self._found if self._found is not None else TopicProgress({}, {}, all_read=False)
        self._is_known = True
        # What was to be read after an earlier outage says nothing of this one.
        self._moves_since_s, self.awaited, self._awaits_first = None, {}, False
        self._found, self._was_lost = None, True

    @property
    def silent(self) -> bool:
        """Whether nothing comes, or nothing is known to."""
        return self._silent_at is not None

    @property
    def behind(self) -> bool:
        """Whether it was silent, moves again, and has not been read since."""
        return self._moves_since_s is not None

    @property
    def holds(self) -> bool:
        """Whether time is held for it."""
        return self.silent or self.behind or not self._is_known


class TopicSilence:
    """Watches topics, each read by one group; a stage without records, for one caller."""

    def __init__(
        self, kafka: KafkaConnection | str, groups: Mapping[str, str], idle_ms: int, *, bounded: bool = False
    ) -> None:
        """
        :param bounded: whether what shall be read lies on the topics already: then they are taken to move at the start.
        :param groups: topic to the consumer group that reads it.
        :param idle_ms: how long nothing has to come before time may go on without records, wall clock. A single topic
            is silent after half of it, so that this is known before its reader is idle.
        """
        self._kafka = KafkaConnection.of(kafka)
        self._groups = dict(groups)
        self._bounded = bounded
        self._idle_s = idle_ms / 1_000
        self._interval_s = self._idle_s / _CHECKS_PER_IDLE_TIME
        #: an outage has to be known before the engine leaves partitions out
        self._timeout_s = min(_TIMEOUT_S, max(_SHORTEST_TIMEOUT_S, self._idle_s / 2))
        #: when the last check found all read, and since when the topics have had their ends
        self._found: tuple[float, float] | None = None
        #: how long each silent topic has been so
        self._silent: dict[str, int] = {}
        self._holds = not bounded
        self._lag = GroupLag(self._kafka, self._groups, timeout_s=self._timeout_s)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def start(self) -> None:
        """Starts to ask.

        :raises KafkaSettingsError: no client can be made here, for instance since a file of a certificate is missing.
        """
        # Here, where it is heard: without this thread windows would not wait for a silent topic, nor close in silence.
        self._lag.start()
        self._thread.start()

    def quiet_ms(self) -> int | None:
        """How long nothing has come, with everything read; None while that is shorter than the idle time, or not known."""
        found, now = self._found, time.monotonic()
        if found is None:
            return None
        checked, since = found
        if checked - since < self._idle_s or now - checked > 2 * self._interval_s + self._timeout_s:
            return None
        return int(1_000 * (checked - since))

    def silent_ms(self) -> Mapping[str, int]:
        """Topics that are silent, and for how long: of which all is read and nothing new is, or not known to be."""
        return self._silent

    def holds(self) -> bool:
        """Whether time is held for a topic, see :class:`TopicState`."""
        return self._holds

    def close(self) -> None:
        """Stops asking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s)

    def _watch(self) -> None:
        began = time.monotonic()
        topics = {name: TopicState(began, self._idle_s, known=self._bounded) for name in self._groups}
        trouble = ""
        with closing(self._lag):
            while not self._stop.wait(self._interval_s):
                began = time.monotonic()
                try:
                    found = self._lag.progress()
                    awaited = {(name, number): end for name, t in topics.items() for number, end in t.awaited.items()}
                    unread = self._lag.unread(awaited) if awaited else {}
                except RilletError as error:
                    # Records that come when the broker is back were sent meanwhile: silence begins anew.
                    self._found = None
                    for topic in topics.values():
                        topic.lose()
                    if str(error) != trouble:
                        trouble = str(error)
                        log.warning("whether the topics are silent is not known: %s", trouble)
                else:
                    for name, topic in topics.items():
                        topic.check(found[name], time.monotonic(), unread=name in unread)
                    since = max(topic.since_s for topic in topics.values())
                    self._found = (began, since) if all(of.all_read for of in found.values()) else None
                    trouble = ""
                now = time.monotonic()
                self._holds = any(topic.holds for topic in topics.values())
                self._silent = {name: int(1_000 * (now - t.since_s)) for name, t in topics.items() if t.silent}
