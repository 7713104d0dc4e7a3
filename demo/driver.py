"""Closes the loop: asks the server for each recorded request, then reports what the user did with the answer.

The server logs the features that it served; the driver only sends the recorded actions. Events go out in order
of event time. Two requests whose event times are further apart than the joiner's lateness allows are never in
flight together, so that the driver does not make any action late.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx2
import numpy as np

from rillet.connectors.producers import EventProducer
from rillet.demo.errors import DemoError
from rillet.demo.metrics import RunningAuc
from rillet.recordings import Event
from rillet.schemas import ActionEvent, BackpressureError, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s
from rillet.serving.client import AsyncClient, CandidateEncoder, ClientError, RetryPolicy, Timeouts

#: A server that restarts is waited for: about 20 s of pauses, and longer if it says so.
_RETRIES = RetryPolicy(attempts=100, first_wait_s=0.1, longest_wait_s=0.4)
_TIMEOUTS = Timeouts(connect_s=30.0, attempt_s=30.0, total_s=math.inf)
#: Pause before an action that the producer's full queue did not take is offered again.
_FULL_QUEUE_PAUSE_S = 0.2
#: Pause before it is asked again whether actions were acknowledged.
_ACKNOWLEDGEMENT_S = 0.002
#: A driver that is late makes up for at most this much; what is above it is never made up for.
_MAX_CATCH_UP_S = 0.5


@dataclass(slots=True)
class DriveStats:
    """What was sent so far; the display reads it while it grows."""

    total: int
    requests: int = 0
    impressions: int = 0
    actions: int = 0
    #: how often a request was sent again, after a busy answer or none
    retries: int = 0
    #: answers that say that the features were not logged
    unlogged: int = 0
    started_s: float = 0.0
    finished_s: float = 0.0
    latency_s: list[float] = field(default_factory=list)
    auc: RunningAuc = field(default_factory=lambda: RunningAuc(20_000))


@dataclass(frozen=True, slots=True)
class DriveSettings:
    """How fast, and how far apart.

    :param url: of the server, without a path.
    :param rate: requests per second to aim at.
    :param concurrency: requests in flight at most.
    :param spread_ms: longest event time between two requests in flight; below the joiner's lateness.
    """

    url: str
    model: str
    rate: float = 200.0
    concurrency: int = 16
    spread_ms: int = 10_000

    def client(self, transport: httpx2.AsyncBaseTransport | None = None) -> AsyncClient:
        """A client of the server with a connection for every request in flight, patient with restarts.

        :param transport: stands in for the network in tests.
        """
        return AsyncClient(
            self.url,
            self.model,
            timeouts=_TIMEOUTS,
            retries=_RETRIES,
            max_connections=self.concurrency,
            transport=transport,
        )


@dataclass(slots=True)
class _Shown:
    """A request with the logits that were served, and the impressions on which the watched action was taken."""

    event: FeatureEvent
    logits: Float32s
    positive: set[int] = field(default_factory=set)


class Driver:
    """Drives one recording through one server."""

    def __init__(
        self,
        spec: FeatureSpec,
        settings: DriveSettings,
        client: AsyncClient,
        actions: EventProducer,
        stats: DriveStats,
        *,
        watched: str,
    ) -> None:
        """
        :param client: of the server; :meth:`run` closes it.
        :param watched: the action of the task that the live AUC is of.
        """
        self._settings = settings
        self._encoder = CandidateEncoder(spec)
        self._client = client
        self._actions = actions
        self.stats = stats
        self._watched = watched
        self.rate = settings.rate
        self._in_flight: dict[str, list[ActionEvent]] = {}
        self._times: list[tuple[int, str]] = []  # heap of the event times in flight
        self._changed = asyncio.Condition()
        self._column = next(i for i, task in enumerate(spec.tasks) if watched in task.actions)
        self._window_ms = spec.tasks[self._column].window_ms
        #: actions that the broker may not have yet: how many there were with it, and its event time
        self._unacknowledged: deque[tuple[int, int]] = deque()
        #: answered requests whose label window is open, which the live AUC has not taken yet
        self._shown: dict[str, _Shown] = {}
        #: the times and ids of those requests, the oldest first
        self._open: list[tuple[int, str]] = []

    async def run(self, events: Iterable[Event]) -> None:
        """Sends all events; returns when every request is answered and every action acknowledged.

        :raises DemoError: the server does not answer, or refuses a request for good.
        :raises DeliveryError: an action was not acknowledged.
        """
        stats = self.stats
        stats.started_s = next_s = time.monotonic()
        async with self._client, asyncio.TaskGroup() as group:
            for event in events:
                await self._gate(event.event_time_ms, isinstance(event, FeatureEvent))
                self._judge(event.event_time_ms)
                if isinstance(event, ActionEvent):
                    waiting = self._in_flight.get(event.request_id)
                    if waiting is None:
                        await self._act(event)
                    else:
                        waiting.append(event)
                    continue
                now = time.monotonic()
                if next_s > now:
                    await asyncio.sleep(next_s - now)
                due_s = max(next_s, now - _MAX_CATCH_UP_S)
                next_s = due_s + 1 / self.rate
                self._in_flight[event.request_id] = []
                heapq.heappush(self._times, (event.event_time_ms, event.request_id))
                group.create_task(self._ask(event, due_s))
        await asyncio.to_thread(self._actions.flush, 60.0)
        stats.finished_s = time.monotonic()

    async def _gate(self, time_ms: int, is_feature: bool) -> None:
        """Waits until an event of this time may go out: nothing that could still be sent or is on its way is much older."""
        while not self._acknowledged(time_ms):
            await asyncio.sleep(_ACKNOWLEDGEMENT_S)

        def open_() -> bool:
            while self._times and self._times[0][1] not in self._in_flight:
                heapq.heappop(self._times)
            room = not is_feature or len(self._in_flight) < self._settings.concurrency
            near = not self._times or time_ms - self._times[0][0] <= self._settings.spread_ms
            return room and near

        if not open_():
            async with self._changed:
                await self._changed.wait_for(open_)

    def _acknowledged(self, time_ms: int) -> bool:
        """Whether the broker has all actions that are older than the spread. A slow first delivery would make them late."""
        waiting = self._unacknowledged
        while waiting and waiting[0][0] <= self._actions.delivered + self._actions.failed:
            waiting.popleft()
        return not waiting or time_ms - waiting[0][1] <= self._settings.spread_ms

    async def _ask(self, event: FeatureEvent, due_s: float) -> None:
        """Sends one request; its latency counts from when it was due, so that waiting for a slow server shows."""
        try:
            answer = await self._client.score(
                self._encoder.from_event(event), request_id=event.request_id, event_time_ms=event.event_time_ms
            )
        except ClientError as error:
            raise DemoError(f"request {event.request_id} has no scores: {error}") from error
        stats = self.stats
        stats.latency_s.append(time.monotonic() - due_s)
        stats.retries += answer.attempts - 1
        stats.unlogged += not answer.logged
        stats.requests += 1
        stats.impressions += len(event.impression_ids)
        self._shown[event.request_id] = _Shown(event, answer.logits[:, self._column])
        heapq.heappush(self._open, (event.event_time_ms, event.request_id))
        for action in self._in_flight[event.request_id]:
            await self._act(action)
        async with self._changed:
            del self._in_flight[event.request_id]
            self._changed.notify_all()

    def _judge(self, now_ms: int) -> None:
        """Takes the answered requests whose label window has closed into the live AUC.

        :param now_ms: event time; all actions before it were sent, but for those of requests in flight.
        """
        while self._open and self._open[0][0] + self._window_ms <= now_ms:
            shown = self._shown.pop(heapq.heappop(self._open)[1])
            self.stats.auc.add(shown.logits, np.isin(shown.event.impression_ids, list(shown.positive)))

    async def _act(self, action: ActionEvent) -> None:
        shown = self._shown.get(action.request_id)
        if (
            shown is not None
            and action.action == self._watched
            and action.event_time_ms - shown.event.event_time_ms < self._window_ms
        ):
            shown.positive.add(action.impression_id)
        while True:
            try:
                self._actions.submit(action)
            except BackpressureError:
                await asyncio.sleep(_FULL_QUEUE_PAUSE_S)
            else:
                break
        self.stats.actions += 1
        self._unacknowledged.append((self.stats.actions, action.event_time_ms))
