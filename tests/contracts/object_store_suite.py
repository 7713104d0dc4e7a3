"""What ``ModelStore`` needs of an fsspec file system, and what it makes of it, as lists of checks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fsspec import AbstractFileSystem

from rillet.sync import Base, CorruptArtifactError, Manifest, ModelStore, StoreUnavailableError

MOVES = 20


@dataclass(frozen=True)
class FilesUnderTest:
    """An empty folder, and two clients of it as two processes would have them."""

    fs: AbstractFileSystem
    other: AbstractFileSystem
    root: str

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(path, data)

    def names(self, folder: str = "") -> list[str]:
        """As the other client lists them."""
        path = self.path(folder).rstrip("/")
        self.other.invalidate_cache(path)
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in self.other.ls(path, detail=False))


def a_written_file_reads_back_byte_for_byte(files: FilesUnderTest) -> None:
    for data in (b"", b"x", bytes(range(256)) * 5000):
        files.write("folder/file", data)
        assert files.other.cat_file(files.path("folder/file")) == data


def a_file_written_piece_by_piece_reads_back_byte_for_byte(files: FilesUnderTest) -> None:
    files.write("folder/other", b"x")
    pieces = [b"", b"x" * 10, memoryview(bytes(range(256)) * 50_000), b"y"]
    with files.fs.open(files.path("folder/file"), "wb") as file:
        for piece in pieces:
            file.write(piece)
    assert files.other.cat_file(files.path("folder/file")) == b"".join(pieces)


def a_shorter_file_replaces_a_longer_one(files: FilesUnderTest) -> None:
    files.write("file", b"a" * 1000)
    files.write("file", b"b" * 10)
    assert files.other.cat_file(files.path("file")) == b"b" * 10


def what_is_missing_is_file_not_found(files: FilesUnderTest) -> None:
    files.write("there", b"x")
    with pytest.raises(FileNotFoundError):
        files.fs.cat_file(files.path("missing"))
    with pytest.raises(FileNotFoundError):
        files.fs.ls(files.path("missing"), detail=False)
    assert not files.fs.exists(files.path("missing"))


def a_listing_shows_what_another_client_wrote_and_deleted(files: FilesUnderTest) -> None:
    files.write("a", b"x")
    assert files.names() == ["a"]
    files.write("b", b"x")
    files.write("folder/c", b"x")
    assert files.names() == ["a", "b", "folder"]
    files.fs.rm_file(files.path("a"))
    assert files.names() == ["b", "folder"]


def a_moved_file_replaces_the_one_there_and_is_gone_where_it_was(files: FilesUnderTest) -> None:
    files.write("file", b"old, and longer")
    files.write("file.part", b"new")
    files.fs.mv(files.path("file.part"), files.path("file"))
    assert files.other.cat_file(files.path("file")) == b"new"
    assert files.names() == ["file"]


def a_moved_file_is_seen_whole_or_not_at_all(files: FilesUnderTest) -> None:
    path, versions = files.path("file"), {bytes([number]) * 10_000 * (1 + number % 3) for number in range(MOVES)}
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                seen.add(files.other.cat_file(path))
            except FileNotFoundError:
                # Not there yet: the first version has to come as a whole too.
                continue

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for version in sorted(versions):
            files.write("file.part", version)
            files.fs.mv(files.path("file.part"), path)
    finally:
        done.set()
        reader.join()
    seen.add(files.other.cat_file(path))
    assert {len(data) for data in seen - versions} == set()


def a_deleted_file_is_gone_and_the_others_stay(files: FilesUnderTest) -> None:
    files.write("folder/a", b"a")
    files.write("folder/b", b"b")
    files.fs.rm_file(files.path("folder/a"))
    with pytest.raises(FileNotFoundError):
        files.other.cat_file(files.path("folder/a"))
    assert files.other.cat_file(files.path("folder/b")) == b"b"


def a_folder_is_deleted_with_all_in_it_and_no_other(files: FilesUnderTest) -> None:
    for name in ("base-1/a", "base-1/b", "base-10/a"):
        files.write(name, b"x")
    files.fs.rm(files.path("base-1"), recursive=True)
    assert files.names() == ["base-10"]
    assert files.names("base-10") == ["a"]


def making_a_folder_twice_is_making_it_once(files: FilesUnderTest) -> None:
    for _ in range(2):
        files.fs.makedirs(files.path("deep/folder"), exist_ok=True)
    files.write("deep/folder/file", b"x")
    assert files.names("deep/folder") == ["file"]


FILE_CHECKS: tuple[Callable[[FilesUnderTest], None], ...] = (
    a_written_file_reads_back_byte_for_byte,
    a_file_written_piece_by_piece_reads_back_byte_for_byte,
    a_shorter_file_replaces_a_longer_one,
    what_is_missing_is_file_not_found,
    a_listing_shows_what_another_client_wrote_and_deleted,
    a_moved_file_replaces_the_one_there_and_is_gone_where_it_was,
    a_moved_file_is_seen_whole_or_not_at_all,
    a_deleted_file_is_gone_and_the_others_stay,
    a_folder_is_deleted_with_all_in_it_and_no_other,
    making_a_folder_twice_is_making_it_once,
)


@dataclass(frozen=True)
class StoreUnderTest:
    """An empty store of model "m", and a second one on the same files."""

    store: ModelStore
    other: ModelStore


class BreaksOff:
    """A file system that fails at the n-th change, as when its writer is killed there."""

    def __init__(self, fs: AbstractFileSystem, changes: int) -> None:
        self._fs = fs
        self._left = changes

    def __getattr__(self, name: str) -> Any:
        if name in ("pipe_file", "open", "mv", "rm", "rm_file"):
            self._left -= 1
            if self._left < 0:
                raise OSError("broken off")
        return getattr(self._fs, name)


def make_base(version: int) -> Base:
    manifest = Manifest(
        model="m", table="embeddings", version=version, epoch=1, next_sequence=2, next_offsets={0: version},
        model_hash=1, dim=2, rows=3, newest_event_ms=5, newest_ingest_ms=6, created_ms=7,
    )  # fmt: skip
    rows = np.full((3, 2), version, np.float32)
    return Base(manifest, np.arange(1, 4), rows, {"w": np.full(2, version, np.float32)}, b"program", "spec")


def _is_whole(base: Base, version: int) -> bool:
    return base.manifest.version == version and bool(
        (base.rows == version).all() and (base.dense["w"] == version).all()
    )


def a_base_is_seen_by_others_as_written(under: StoreUnderTest) -> None:
    for version in (1, 2):
        under.store.write_base(make_base(version))
        assert _is_whole(under.other.newest_base(), version)
    assert [manifest.version for manifest in under.other.bases().manifests] == [2, 1]


def a_base_is_not_seen_until_all_of_it_is_written(under: StoreUnderTest) -> None:
    under.store.write_base(make_base(1))
    whole, changes = under.store._files._fs, 0
    while True:
        under.store._files._fs = BreaksOff(whole, changes)
        try:
            under.store.write_base(make_base(2))
        except StoreUnavailableError:
            assert _is_whole(under.other.newest_base(), 1)
            changes += 1
            continue
        finally:
            under.store._files._fs = whole
        break
    assert changes == 6  # four files, the manifest, its move
    assert _is_whole(under.other.newest_base(), 2)


def a_base_is_not_seen_once_its_deletion_has_begun(under: StoreUnderTest) -> None:
    for version in (1, 2):
        under.store.write_base(make_base(version))
    whole = under.store._files._fs
    under.store._files._fs = BreaksOff(whole, 1)
    with pytest.raises(StoreUnavailableError, match="broken off"):
        under.store.collect_garbage(keep_bases=1, keep_dense=1)
    under.store._files._fs = whole
    assert [manifest.version for manifest in under.other.bases().manifests] == [2]
    assert under.store.collect_garbage(keep_bases=1, keep_dense=1) == ["base-000000000001"]


def a_dense_blob_is_seen_by_others_and_gone_once_collected(under: StoreUnderTest) -> None:
    blobs = [under.store.write_dense(version, {"w": np.full(2, version)}) for version in (1, 2)]
    for version, (path, digest) in enumerate(blobs, start=1):
        assert under.other.load_dense(path, digest)["w"].tolist() == [version, version]
    assert under.store.collect_garbage(keep_bases=1, keep_dense=1) == [blobs[0][0]]
    with pytest.raises(CorruptArtifactError, match="missing"):
        under.other.load_dense(*blobs[0])
    assert under.other.newest_version() == 2


STORE_CHECKS: tuple[Callable[[StoreUnderTest], None], ...] = (
    a_base_is_seen_by_others_as_written,
    a_base_is_not_seen_until_all_of_it_is_written,
    a_base_is_not_seen_once_its_deletion_has_begun,
    a_dense_blob_is_seen_by_others_and_gone_once_collected,
)
