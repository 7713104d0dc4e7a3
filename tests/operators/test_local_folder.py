"""What tasks leave on the local disk when they are killed is removed by the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.joiner import StoreError
from rillet.operators.local_folder import LocalFolder


def killed(parent: Path) -> Path:
    """The folder of a task whose process has ended without closing it."""
    folder = LocalFolder(parent)
    (folder.path / "tier").mkdir()
    (folder.path / "tier" / "000004.sst").write_bytes(b"rows")
    folder._unlock()
    return folder.path


def test_what_a_killed_task_has_left_is_removed_and_that_of_tasks_at_work_stays(tmp_path: Path) -> None:
    at_work = LocalFolder(tmp_path / "local")
    left = killed(tmp_path / "local")
    (tmp_path / "local" / "of-somebody-else").mkdir()
    assert left.exists()
    mine = LocalFolder(tmp_path / "local")
    assert not left.exists()
    assert at_work.path.exists()
    for folder in (at_work, mine, mine):
        folder.close()
    assert [path.name for path in (tmp_path / "local").iterdir()] == ["of-somebody-else"]


def test_a_folder_that_cannot_be_made_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--local-dir"):
        LocalFolder(tmp_path / "file")
