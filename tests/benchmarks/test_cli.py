"""`rillet bench` refuses what it cannot do before it makes data sets and installs libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rillet.__main__ import main


@pytest.mark.parametrize("path", ["/nowhere/bench.json", "/proc/bench.json"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(path: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["bench", "learning", "--dataset", "synthetic:10", "--data", str(tmp_path / "data"), "--json", path]
    )
    assert result.exit_code == 2
    assert f"{path}: cannot be written (No such file or directory)" in result.stderr
    assert not (tmp_path / "data").exists()
