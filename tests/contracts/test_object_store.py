"""Local files and fsspec's memory pass the suite, and so does the store on them; a broken file system fails it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rillet.schemas import RilletError
from rillet.sync import ModelStore
from tests.contracts import object_store_suite as suite
from tests.contracts.object_store_suite import FILE_CHECKS, STORE_CHECKS, FilesUnderTest, StoreUnderTest

CheckFiles = Callable[[FilesUnderTest], None]
CheckStore = Callable[[StoreUnderTest], None]


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.mark.parametrize("check", FILE_CHECKS, ids=lambda check: check.__name__)
def test_a_file_system(url: str, check: CheckFiles) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    check(FilesUnderTest(fs, type(fs)(skip_instance_cache=True), root))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
def test_the_store_on_it(url: str, check: CheckStore) -> None:
    check(StoreUnderTest(ModelStore(url, "m"), ModelStore(url, "m")))


class LosesTheLastByte(MemoryFileSystem):
    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        super().pipe_file(path, value[:-1], **kwargs)


class KeepsTheOldTail(MemoryFileSystem):
    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        old = self.cat_file(path) if self.exists(path) else b""
        super().pipe_file(path, value + old[len(value) :], **kwargs)


class ListsStaleNames(MemoryFileSystem):
    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        known = self.__dict__.setdefault("_known", {})
        if (path, detail) not in known:
            known[path, detail] = super().ls(path, detail, **kwargs)
        return known[path, detail]


class ReadsNothingWhereNothingIs(MemoryFileSystem):
    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        return bytes(super().cat_file(path, *args, **kwargs)) if self.exists(path) else b""


class ShowsHalfWrittenFiles(MemoryFileSystem):
    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        data = self.cat_file(path1)
        self.pipe_file(path2, data[: len(data) // 2])
        time.sleep(0.005)
        self.pipe_file(path2, data)
        self.rm_file(path1)


class LeavesTheSourceOfAMove(MemoryFileSystem):
    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        self.cp_file(path1, path2)


class DeletesByPrefix(MemoryFileSystem):
    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        for name in [name for name in self.store if name.startswith(self._strip_protocol(path))]:
            del self.store[name]


class DeletesNothing(MemoryFileSystem):
    def rm_file(self, path: str) -> None:
        pass


def _broken(kind: type[MemoryFileSystem]) -> tuple[MemoryFileSystem, MemoryFileSystem]:
    """Two clients of one broken memory, apart from all others."""
    first = kind(global_store=False, skip_instance_cache=True)
    second = kind(global_store=False, skip_instance_cache=True)
    second.store, second.pseudo_dirs = first.store, first.pseudo_dirs
    return first, second


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (LosesTheLastByte, suite.a_written_file_reads_back_byte_for_byte),
        (KeepsTheOldTail, suite.a_shorter_file_replaces_a_longer_one),
        (ListsStaleNames, suite.a_listing_shows_what_another_client_wrote_and_deleted),
        (ReadsNothingWhereNothingIs, suite.what_is_missing_is_file_not_found),
        (ShowsHalfWrittenFiles, suite.a_moved_file_is_seen_whole_or_not_at_all),
        (LeavesTheSourceOfAMove, suite.a_moved_file_replaces_the_one_there_and_is_gone_where_it_was),
        (DeletesByPrefix, suite.a_folder_is_deleted_with_all_in_it_and_no_other),
        (DeletesNothing, suite.a_deleted_file_is_gone_and_the_others_stay),
    ],
)
def test_a_file_system_that_breaks_the_contract_fails_the_check(
    kind: type[MemoryFileSystem], check: CheckFiles
) -> None:
    fs, other = _broken(kind)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(FilesUnderTest(fs, other, "/root"))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (LosesTheLastByte, suite.a_base_is_seen_by_others_as_written),
        (ListsStaleNames, suite.a_base_is_seen_by_others_as_written),
        (ReadsNothingWhereNothingIs, suite.a_dense_blob_is_seen_by_others_and_gone_once_collected),
        (DeletesNothing, suite.a_dense_blob_is_seen_by_others_and_gone_once_collected),
    ],
)
def test_a_store_on_such_a_file_system_fails_the_check(kind: type[MemoryFileSystem], check: CheckStore) -> None:
    stores = ModelStore("memory://root", "m"), ModelStore("memory://root", "m")
    for store, fs in zip(stores, _broken(kind), strict=True):
        store._files._fs = fs
    with pytest.raises((AssertionError, pytest.fail.Exception, RilletError)):
        check(StoreUnderTest(*stores))
