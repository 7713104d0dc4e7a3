"""Files below a folder: what is missing, what fails, and with which path."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from rillet.sync import StoreUnavailableError
from rillet.sync.files import Files


def test_what_was_never_written_is_no_file_and_an_empty_folder(tmp_path: Path) -> None:
    files = Files(str(tmp_path), "m")
    assert files.names() == []
    assert files.names("dense") == []
    files.delete("dense/1")
    with pytest.raises(FileNotFoundError):
        files.read("dense/1")


def test_a_whole_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    files = Files(str(tmp_path), "m")
    for data in (b"first", b"2nd"):
        files.write_whole("dense/1", data)
        assert files.read("dense/1") == data
    assert files.names("dense") == ["1"]


def test_files_of_another_folder_are_out_of_sight(tmp_path: Path) -> None:
    Files(str(tmp_path), "other").write("a", b"x")
    assert Files(str(tmp_path), "m").names() == []


@pytest.mark.parametrize(
    ("use", "done"),
    [
        (lambda files: files.write("a", b""), "written"),
        (lambda files: files.write_whole("a", b""), "written"),
        (lambda files: files.delete_folder("a"), "deleted"),
        (lambda files: files.read("a"), "read"),
    ],
)
def test_a_failure_names_path_and_setting(tmp_path: Path, use: object, done: str) -> None:
    (tmp_path / "m").write_text("a file in the way")
    with pytest.raises(
        StoreUnavailableError, match=rf"m/a.* cannot be {done} .*; check \[store\] url and its permissions"
    ):
        use(Files(str(tmp_path), "m"))  # type: ignore[operator]


def test_a_back_end_that_is_not_installed_is_named_and_permissions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreUnavailableError) as refused:
        Files("s3://bucket/films", setting="--batch-from")
    assert str(refused.value) == (
        "s3://bucket/films cannot be opened (Install s3fs to access S3): install the Python package that --batch-from"
        f" needs (s3fs for s3://, gcsfs for gs://, adlfs for az://) into the environment of {sys.executable}"
    )
    with pytest.raises(StoreUnavailableError, match=r"gs://bucket cannot be opened \(.*gcsfs"):
        Files("gs://bucket")


def test_the_packages_that_are_asked_for_are_those_that_addresses_need(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme, package, name in (("s3", "s3fs", "S3FileSystem"), ("gs", "gcsfs", "GCSFileSystem")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(StoreUnavailableError, match=f"{package} for {scheme}://"):
            Files(f"{scheme}://bucket/films")
        stand_in = ModuleType(package)
        stand_in.__dict__["__version__"] = "2025.1"
        # What is found is remembered: as if it had been set and is taken away again.
        monkeypatch.setitem(_registry, scheme, None)
        del _registry[scheme]
        setattr(stand_in, name, type(name, (MemoryFileSystem,), {"protocol": scheme}))
        monkeypatch.setitem(sys.modules, package, stand_in)
        files = Files(f"{scheme}://bucket/films")
        files.write("a", b"x")
        assert files.read("a") == b"x"
    assert known_implementations["az"]["class"].startswith("adlfs.")
