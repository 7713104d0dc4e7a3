from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from rillet.jobs import joiner_run
from rillet.jobs.config import RilletConfig, load_config
from tests.jobs.fake_job import FailedJob, RunningJob

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def joiner_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RilletConfig:
    """Of a joiner whose Flink is none, and whose job is a :class:`FailedJob`."""
    config = load_config(ROOT / "rillet.toml")
    for name in (
        "create_topics",
        "prepare_process",
        "mini_cluster",
        "rest_url",
        "fetch_jars",
        "GroupLag",
        "check_left",
    ):
        monkeypatch.setattr(joiner_run, name, MagicMock())
    monkeypatch.setattr(joiner_run, "newest_records", lambda *_: ([], {}))
    monkeypatch.setattr(joiner_run, "cut_off", lambda *_: {("actions", 1): 77})
    monkeypatch.setattr(joiner_run, "JobWatch", FailedJob)
    monkeypatch.setattr(signal, "signal", MagicMock())
    job = MagicMock()
    job.ids_of_topics.return_value = {"features": "id1", "actions": "id2"}
    monkeypatch.setitem(sys.modules, "rillet.jobs.joiner_job", job)
    return replace(config, health=replace(config.health, join_port=0), data_dir=tmp_path)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each of the jobs that end was drained."""
    stops: list[bool] = []
    monkeypatch.setattr(joiner_run, "_stop", lambda *_, drain: stops.append(drain))
    monkeypatch.setattr(joiner_run, "JobWatch", RunningJob)
    monkeypatch.setattr(joiner_run, "_REFRESH_S", 0.0)
    return stops
