"""Requests by the million, with a few hundred: read, killed, and back with the next example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from experiments import open_requests

pytestmark = pytest.mark.integration


def test_what_is_open_is_held_over_a_kill_and_examples_go_on(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    open_requests.main(["--requests", "400", "--data", str(tmp_path / "data"), "--json", str(out)])
    figures = {figure["metric"]: figure["value"] for figure in json.loads(out.read_text())["results"]}
    assert figures["open requests"] == 396
    assert 0 < figures["killed to first example"] < 120
