"""The files of examples/news as their reader runs them: from their own folder, by their own names."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.request import Request

import httpx2

from tests.serving.fake_server import FakeServer

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "news"
_NAMES = ("producer", "client", "traffic")


class News(NamedTuple):
    """The three modules of the example; any, since nothing of theirs is part of the package."""

    producer: Any
    client: Any
    traffic: Any


@contextmanager
def imported() -> Iterator[News]:
    """Imports the example; afterwards its names are free again."""
    before: dict[str, ModuleType] = {name: sys.modules.pop(name) for name in _NAMES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield News(*map(importlib.import_module, _NAMES))
    finally:
        sys.path.remove(str(FOLDER))
        for name in _NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def urlopen_of(server: FakeServer) -> Any:
    """Stands in for ``urllib.request.urlopen``: requests reach ``server``."""

    def urlopen(request: Request, timeout: float) -> io.BytesIO:
        assert isinstance(request.data, bytes)
        answer = server(
            httpx2.Request("POST", request.full_url, content=request.data, headers=dict(request.header_items()))
        )
        assert answer.status_code == 200, answer.content
        return io.BytesIO(answer.content)

    return urlopen


class FakeProducer:
    """Stands in for ``confluent_kafka.Producer``: keeps (topic, record) as decoded JSON."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.fails = False

    def produce(self, topic: str, value: str, key: str, on_delivery: Any) -> None:
        record = json.loads(value)
        assert key == record["page_id"]
        self.sent.append((topic, record))
        on_delivery("no broker" if self.fails else None, None)

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        return 0
