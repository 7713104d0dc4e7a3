"""Closes the loop: asks the server for each recorded request, then reports what the user did with the answer.

The server logs the features that it served; the driver only sends the recorded actions. Events go out in
order of their event time, and no two requests that are further apart than the joiner's lateness allows
are in flight together, so that nothing the driver does makes an action late.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import orjson

from rillet.connectors.producers import EventProducer
from rillet.demo.errors import DemoError
from rillet.demo.metrics import RunningAuc
from rillet.recordings import Event
from rillet.schemas import ActionEvent, BackpressureError, FeatureEvent, FeatureSpec
from rillet.serving.features import RequestLayout

_JSON_LENGTH = "Inference-Header-Content-Length"
_RETRY_S = 0.2
_MAX_TRIES = 100
#: A driver that fell behind its rate catches up at most this much; then it drops the debt.
_MAX_DEBT_S = 0.5


@dataclass(slots=True)
class DriveStats:
    """What was sent so far; read by the display while it grows."""

    total: int
    requests: int = 0
    impressions: int = 0
    actions: int = 0
    #: requests answered with a busy status or not at all, and sent again
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

    :param rate: requests a second, the target.
    :param concurrency: requests in flight at most.
    :param spread_ms: event time between requests in flight at most; below the joiner's lateness.
    """

    url: str
    model: str
    rate: float = 200.0
    concurrency: int = 16
    spread_ms: int = 10_000


class Driver:
    """Drives one recording through one server."""

    def __init__(
        self,
        spec: FeatureSpec,
        settings: DriveSettings,
        actions: EventProducer,
        stats: DriveStats,
        *,
        watched: str,
        on_milestone: Callable[[], None] = lambda: None,
        milestone: int = 0,
    ) -> None:
        """
        :param watched: the action that the live AUC takes for the label.
        :param on_milestone: called once, in a thread, when ``milestone`` requests are answered.
        """
        self._settings = settings
        self._layout = RequestLayout(spec, max_rows=1 << 20)
        self._tasks = len(spec.tasks)
        self._actions = actions
        self.stats = stats
        self._watched = watched
        self._on_milestone, self._milestone = on_milestone, milestone
        self.rate = settings.rate
        self._in_flight: dict[str, list[ActionEvent]] = {}
        self._times: list[tuple[int, str]] = []  # heap of the event times in flight
        self._changed = asyncio.Condition()
        self._failed: BaseException | None = None
        self._path = f"{settings.url}/v2/models/{settings.model}/infer"
        self._column = next(i for i, task in enumerate(spec.tasks) if task.action == watched)
        self._shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # type: ignore[type-arg]
        self._marked: dict[str, set[int]] = {}

    async def run(self, events: Iterable[Event]) -> None:
        """Sends all events; returns when every request is answered and every action acknowledged.

        :raises DemoError: the server does not answer, or refuses a request for good.
        :raises DeliveryError: an action was not acknowledged.
        """
        stats, settings = self.stats, self._settings
        stats.started_s = next_s = time.monotonic()
        connector = aiohttp.TCPConnector(limit=settings.concurrency)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            for event in events:
                await self._gate(event.event_time_ms, isinstance(event, FeatureEvent))
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
                due_s = max(next_s, now - _MAX_DEBT_S)
                next_s = due_s + 1 / self.rate
                self._in_flight[event.request_id] = []
                heapq.heappush(self._times, (event.event_time_ms, event.request_id))
                group.create_task(self._ask(session, event, due_s))
        await asyncio.to_thread(self._actions.flush, 60.0)
        stats.finished_s = time.monotonic()

    async def _gate(self, time_ms: int, is_feature: bool) -> None:
        """Waits until an event of this time may go out."""

        def open_() -> bool:
            while self._times and self._times[0][1] not in self._in_flight:
                heapq.heappop(self._times)
            room = not is_feature or len(self._in_flight) < self._settings.concurrency
            near = not self._times or time_ms - self._times[0][0] <= self._settings.spread_ms
            return room and near

        if not open_():
            async with self._changed:
                await self._changed.wait_for(open_)

    async def _ask(self, session: aiohttp.ClientSession, event: FeatureEvent, due_s: float) -> None:
        """Sends one request; its latency counts from when it was due, so that waiting for a slow server shows."""
        body, headers = self._body(event)
        logits = None
        for _ in range(_MAX_TRIES):
            try:
                async with session.post(self._path, data=body, headers=headers) as answer:
                    content = await answer.read()
                    if answer.status == 200:
                        length = int(answer.headers[_JSON_LENGTH])
                        document = orjson.loads(content[:length])
                        logits = np.frombuffer(content[length:], "<f4").reshape(-1, self._tasks)
                        if not document.get("parameters", {}).get("logged", True):
                            self.stats.unlogged += 1
                        break
                    if answer.status not in (429, 503):
                        raise DemoError(
                            f"{self._path}: request {event.request_id} was answered with {answer.status}: "
                            f"{content[:300].decode('utf-8', 'replace')}"
                        )
            except (aiohttp.ClientError, TimeoutError):
                # Counted; tried again below until the server is back or the tries are used up.
                pass
            self.stats.retries += 1
            await asyncio.sleep(_RETRY_S)
        if logits is None:
            raise DemoError(f"{self._path}: request {event.request_id} had no answer in {_MAX_TRIES} tries")
        stats = self.stats
        stats.latency_s.append(time.monotonic() - due_s)
        stats.requests += 1
        # Decided before the next await: other requests move the count on.
        at_milestone = stats.requests == self._milestone
        stats.impressions += len(logits)
        self._shown[event.request_id] = (event.impression_ids, logits[:, self._column])
        for action in self._in_flight[event.request_id]:
            await self._act(action)
        async with self._changed:
            del self._in_flight[event.request_id]
            self._changed.notify_all()
        if at_milestone:
            await asyncio.to_thread(self._on_milestone)
        if len(self._shown) > 4 * self._settings.concurrency + 64:
            self._judge_oldest()

    def _judge_oldest(self) -> None:
        """Takes an answered request into the live AUC; its actions so far are its labels."""
        request_id, (ids, logits) = next(iter(self._shown.items()))
        del self._shown[request_id]
        marked = self._marked.pop(request_id, set())
        self.stats.auc.add(logits, np.isin(ids, list(marked)))

    async def _act(self, action: ActionEvent) -> None:
        while True:
            try:
                self._actions.submit(action)
                break
            except BackpressureError:
                await asyncio.sleep(_RETRY_S)
        self.stats.actions += 1
        if action.action == self._watched and action.request_id in self._shown:
            self._marked.setdefault(action.request_id, set()).add(action.impression_id)

    def _body(self, event: FeatureEvent) -> tuple[bytes, dict[str, str]]:
        """The request in the binary tensor form, and its headers."""
        tensors = [("fids", "INT64", self._layout.to_tensor(event).astype("<i8"))]
        tensors.append(("impression_ids", "INT64", event.impression_ids.astype("<i8")))
        if len(event.dense):
            tensors.append(("dense", "FP32", event.dense.reshape(len(event.impression_ids), -1).astype("<f4")))
        document = orjson.dumps(
            {
                "id": event.request_id,
                "parameters": {"event_time_ms": event.event_time_ms},
                "inputs": [
                    {
                        "name": name,
                        "datatype": datatype,
                        "shape": list(tensor.shape),
                        "parameters": {"binary_data_size": tensor.nbytes},
                    }
                    for name, datatype, tensor in tensors
                ],
                "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
            }
        )
        blob = b"".join(tensor.tobytes() for _, _, tensor in tensors)
        return document + blob, {_JSON_LENGTH: str(len(document)), "Content-Type": "application/octet-stream"}
