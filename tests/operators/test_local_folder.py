"""What tasks leave on the local disk when they are killed is removed by the next one."""

from __future__ import annotations

import errno
import fcntl
import os
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


def test_a_task_whose_new_lock_is_taken_for_one_that_was_left_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of one machine start at the same time; a folder without its lock file would never be removed."""
    flock, others = fcntl.flock, [1]

    def after_another_task(file: int, operation: int) -> None:
        if others:
            others.pop()
            LocalFolder(tmp_path).close()
        flock(file, operation)

    monkeypatch.setattr("rillet.operators.local_folder.fcntl.flock", after_another_task)
    mine = LocalFolder(tmp_path)
    assert mine._lock.exists()
    mine._unlock()
    LocalFolder(tmp_path)
    assert not mine.path.exists()


def test_what_another_user_has_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, real = killed(tmp_path), os.open

    def open_own(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == theirs.with_suffix(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr("rillet.operators.local_folder.os.open", open_own)
    mine = LocalFolder(tmp_path)
    assert theirs.exists()
    mine.close()


def test_a_folder_that_cannot_be_made_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--local-dir"):
        LocalFolder(tmp_path / "file")
