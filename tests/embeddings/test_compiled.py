"""Compiled kernels on disk: used again while no kernel file has changed, and compiled anew once any has."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba import int64, njit

from rillet.embeddings.compiled import KERNEL_FILES, KernelCache, sources_digest

CONSTANTS, KERNELS = "constants.py", "kernels.py"


def _kernel(folder: Path) -> tuple[int, bool]:
    """What the kernel in ``folder`` returns, and whether it came from the disk."""
    files = [folder / CONSTANTS, folder / KERNELS]
    # Not imported: Python's own cache on disk takes a file of the same second and size for the same file.
    constants = dict(line.split(" = ") for line in files[0].read_text().splitlines())
    function = _load(files[1], ADDED=int(constants["ADDED"])).add
    compiled: Any = njit(function)
    compiled._cache = KernelCache(function, sources_digest(files))
    compiled.compile(int64(int64))
    return compiled(1), bool(compiled.stats.cache_hits)


def _load(file: Path, **names: int) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    spec.loader.exec_module(module)
    return module


def test_a_kernel_is_compiled_anew_when_a_constant_in_another_file_has_changed(tmp_path: Path) -> None:
    (tmp_path / KERNELS).write_text("def add(value):\n    return value + ADDED\n")
    (tmp_path / CONSTANTS).write_text("ADDED = 1\n")
    assert _kernel(tmp_path) == (2, False)
    assert _kernel(tmp_path) == (2, True)
    (tmp_path / CONSTANTS).write_text("ADDED = 2\n")
    assert _kernel(tmp_path) == (3, False)


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
