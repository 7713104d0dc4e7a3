"""Compiled kernels on disk: used again while no kernel file has changed, and compiled anew once any has."""

from __future__ import annotations

import ast
import errno
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba import int64, njit
from numba.core.caching import IndexDataCacheFile

from rillet.embeddings.compiled import KERNEL_FILES, KernelCache, kernel, sources_digest

CONSTANTS, KERNELS = "constants.py", "kernels.py"


def _kernel(folder: Path) -> tuple[int, bool]:
    """What the kernel in ``folder`` returns, and whether it came from the disk."""
    compiled = _uncompiled(folder)
    compiled.compile(int64(int64))
    return compiled(1), bool(compiled.stats.cache_hits)


def _uncompiled(folder: Path) -> Any:
    files = [folder / CONSTANTS, folder / KERNELS]
    # Not imported: Python's own cache on disk takes a file of the same second and size for the same file.
    constants = dict(line.split(" = ") for line in files[0].read_text().splitlines())
    function = _load(files[1], ADDED=int(constants["ADDED"])).add
    compiled: Any = njit(function)
    compiled._cache = KernelCache(function, sources_digest(files))
    return compiled


def _load(file: Path, **names: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kernel that adds 1."""
    (tmp_path / KERNELS).write_text("def add(value):\n    return value + ADDED\n")
    (tmp_path / CONSTANTS).write_text("ADDED = 1\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [b"", b"\x80\x05junk"], ids=["empty", "cut"])
def test_what_a_lost_machine_has_left_of_a_file_is_compiled_anew(
    folder: Path, kind: str, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    _kernel(folder)
    (file,) = (folder / "__pycache__").glob(f"*.{kind}")
    file.write_bytes(left)
    assert _kernel(folder) == (2, False)
    assert str(file) in caplog.text
    assert _kernel(folder) == (2, True)


def test_of_two_texts_that_are_compiled_at_once_neither_is_taken_for_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _uncompiled(folder)
    (folder / CONSTANTS).write_text("ADDED = 100\n")
    new = _uncompiled(folder)
    write = IndexDataCacheFile._save_data

    def between(self: Any, name: str, data: Any) -> None:
        monkeypatch.setattr(IndexDataCacheFile, "_save_data", write)
        new.compile(int64(int64))
        write(self, name, data)

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", between)
    old.compile(int64(int64))
    assert _kernel(folder)[0] == 101


def test_where_a_kernel_cannot_be_kept_it_is_used_and_this_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert _kernel(folder) == (2, False)
    assert "No space left" in caplog.text


def test_where_no_folder_can_be_written_to_kernels_are_compiled_and_this_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rillet.embeddings.compiled._caching.CompileResultCacheImpl._locator_classes", [])

    @kernel(int64, int64)
    def doubled(value: Any) -> Any:
        return 2 * value

    @kernel(int64, int64)
    def next_of(value: Any) -> Any:
        return value + 1

    assert (doubled(2), next_of(2)) == (4, 3)
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1


def test_a_kernel_is_compiled_anew_when_a_constant_in_another_file_has_changed(folder: Path) -> None:
    assert _kernel(folder) == (2, False)
    assert _kernel(folder) == (2, True)
    (folder / CONSTANTS).write_text("ADDED = 2\n")
    assert _kernel(folder) == (3, False)


def test_kernel_files_take_nothing_from_files_that_their_cache_does_not_know() -> None:
    names = {f"rillet.embeddings.{file.stem}" for file in KERNEL_FILES}
    for file in KERNEL_FILES:
        imported = [node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        assert {module for module in imported if module and module.startswith("rillet")} <= names


def test_the_digest_tells_files_and_texts_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("x")
    second.write_text("y")
    before = sources_digest([first, second])
    assert sources_digest([second, first]) == before
    first.write_text("y")
    second.write_text("x")
    assert sources_digest([first, second]) != before


@pytest.mark.parametrize("file", KERNEL_FILES, ids=lambda file: file.stem)
def test_every_kernel_in_the_package_goes_through_the_cache_of_all_files(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("njit", "jit", "vectorize", "guvectorize"):
            assert file.stem == "compiled", f"line {node.lineno}"
