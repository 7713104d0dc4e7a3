"""The whole loop on this machine: it audits clean, reports, and leaves nothing running, also when interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rillet.recordings.synthetic import ShopConfig, generate_synthetic

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def start(recording: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rillet", "demo", "--recording", str(recording), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def running_with(text: str) -> list[str]:
    """Command lines of processes that mention ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
        if text in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shop")
    generate_synthetic(out, requests=800, config=ShopConfig(users=100, items=80, gap_ms=60_000.0))
    return out


def test_the_loop_audits_clean_and_reports(recording: Path, tmp_path: Path) -> None:
    demo = start(recording, tmp_path)
    output, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requests"] == 160  # a fifth of the recording, after the batch stage
    assert report["impressions"] == 1600
    assert report["audit"]["ok"] is True
    assert report["audit"]["expected"] == report["audit"]["found"] > 500
    assert report["examples"]["positive"] > 50
    # Nothing that is judged lacks a score.
    names = ("served", "frozen", "logistic", "popularity", "decayed_popularity", "truth")
    assert all(0.4 < report[f"{name}_auc"] < 1 for name in names)
    assert report["truth_auc"] == max(report[f"{name}_auc"] for name in names)
    # What was learnt came back to the server: rows are served, nothing waits, freshness was traced.
    assert report["replica"]["rows"] > 100
    assert report["replica"]["lag"] == 0
    assert report["deltas"]["rows"] > 0
    assert report["freshness_ms"]["actions"] > 0
    assert "Audit passed" in (tmp_path / "report.html").read_text()
    assert running_with(str(tmp_path)) == []


def test_an_interrupted_demo_stops_what_it_started_and_can_be_run_again(recording: Path, tmp_path: Path) -> None:
    demo = start(recording, tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("broker"):
            break
    time.sleep(1)
    assert running_with(str(tmp_path / "run"))
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "interrupted" in output
    assert running_with(str(tmp_path)) == []
    again = start(recording, tmp_path)
    assert again.stdout is not None
    assert next(iter(again.stdout)).startswith("broker")  # the folder of the first run was no obstacle
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 130
