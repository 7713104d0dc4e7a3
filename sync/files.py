"""Whole files below one folder of any fsspec file system.

What is asked of the file system is written down in ``tests/contracts/object_store_suite.py``. Whatever a back end
raises comes out as ``StoreUnavailableError``; only a file that is not there is a ``FileNotFoundError``.
"""

from __future__ import annotations

import hashlib
import posixpath
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import fsspec

from rillet.sync.errors import StoreUnavailableError

#: ends the name of a file that is not written whole yet
PART = ".part"


class Files:
    """Reads, writes, lists and deletes; paths are relative to the folder. Holds no state of its own."""

    def __init__(self, url: str, folder: str = "", *, setting: str = "[store] url") -> None:
        """Opens the file system; nothing is read yet.

        :param url: fsspec URL or path of the root.
        :param folder: below the root; made when first written.
        :param setting: where the user has named the URL, for messages.
        :raises StoreUnavailableError: no such file system.
        """
        self._setting = setting
        with self._failing_as("opened", url):
            self._fs, root = fsspec.core.url_to_fs(url)
        self._root = posixpath.join(root, folder)

    def where(self, path: str = "") -> str:
        """The full path, for messages."""
        return posixpath.join(self._root, path) if path else self._root

    def names(self, folder: str = "") -> list[str]:
        """Names of what lies in a folder, none where there is no such folder.

        :raises StoreUnavailableError: the file system cannot be read.
        """
        full = self.where(folder)
        with self._failing_as("listed", full):
            self._fs.invalidate_cache(full)
            try:
                return [posixpath.basename(str(entry).rstrip("/")) for entry in self._fs.ls(full, detail=False)]
            except FileNotFoundError:
                return []

    def read(self, path: str) -> bytes:
        """All of a file.

        :raises FileNotFoundError: there is none.
        :raises StoreUnavailableError: the file system cannot be read.
        """
        full = self.where(path)
        with self._failing_as("read", full, passing=FileNotFoundError):
            data: bytes = self._fs.cat_file(full)
        return data

    def write(self, path: str, data: bytes) -> None:
        """Writes a file; on some file systems a reader may see part of it meanwhile.

        :raises StoreUnavailableError: the file system cannot be written.
        """
        full = self.where(path)
        with self._failing_as("written", full):
            self._fs.makedirs(posixpath.dirname(full), exist_ok=True)
            self._fs.pipe_file(full, data)

    def write_pieces(self, path: str, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
        """Writes a file piece by piece; a reader may see part of it meanwhile.

        :returns: its SHA-256 in hexadecimal, and its size in bytes.
        :raises StoreUnavailableError: the file system cannot be written.
        """
        full = self.where(path)
        digest, size = hashlib.sha256(), 0
        with self._failing_as("written", full):
            self._fs.makedirs(posixpath.dirname(full), exist_ok=True)
            with self._fs.open(full, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                    size += len(piece)
        return digest.hexdigest(), size

    def write_whole(self, path: str, data: bytes) -> None:
        """Writes under another name and moves, so that no reader sees half a file.

        :raises StoreUnavailableError: the file system cannot be written.
        """
        self.write(path + PART, data)
        full = self.where(path)
        with self._failing_as("written", full):
            self._fs.mv(full + PART, full)

    def delete(self, path: str) -> None:
        """Deletes a file, if there is one.

        :raises StoreUnavailableError: the file system cannot be written.
        """
        full = self.where(path)
        with self._failing_as("deleted", full):
            if self._fs.exists(full):
                self._fs.rm_file(full)

    def delete_folder(self, folder: str) -> None:
        """Deletes a folder with all in it.

        :raises StoreUnavailableError: the file system cannot be written.
        """
        full = self.where(folder)
        with self._failing_as("deleted", full):
            self._fs.rm(full, recursive=True)

    def delete_if_empty(self, folder: str) -> None:
        """Deletes a folder that holds nothing; a file system without folders has none then.

        :raises StoreUnavailableError: the file system cannot be written.
        """
        full = self.where(folder)
        with self._failing_as("deleted", full):
            self._fs.invalidate_cache(full)
            if self._fs.isdir(full) and not self._fs.ls(full, detail=False):
                self._fs.rmdir(full)

    @contextmanager
    def _failing_as(self, done: str, path: str, *, passing: type[OSError] | tuple[()] = ()) -> Iterator[None]:
        """fsspec lets through whatever its back end raises: OSError mostly, and ValueError or ImportError on opening."""
        try:
            yield
        except passing:
            raise
        except ImportError as error:
            raise StoreUnavailableError(
                f"{path} cannot be {done} ({error}): install the Python package that {self._setting} needs (s3fs for"
                f" s3://, gcsfs for gs://, adlfs for az://) into the environment of {sys.executable}"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreUnavailableError(
                f"{path} cannot be {done} ({type(error).__name__}: {error}); check {self._setting} and its permissions"
            ) from error
