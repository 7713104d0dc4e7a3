"""Versions of training state in a directory of fsspec: safetensors files, and a manifest written last.

A version without a manifest does not count. One whose files differ from their sha256 is refused with the file's
name, and the version before it is used. What the files mean is up to the caller.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from rillet.trainer.errors import CorruptCheckpointError

MANIFEST = "manifest.json"
_PREFIX = "checkpoint-"

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """One version."""

    version: int
    #: file stem -> arrays by name
    files: dict[str, Arrays]
    #: plain JSON values
    meta: dict[str, Any]


class CheckpointStore:
    """Numbered checkpoints under one root.

    >>> import numpy as np
    >>> store = CheckpointStore("memory://example/checkpoints", keep=2)
    >>> for step in range(3):
    ...     version = store.save({"weights": {"bias": np.full(2, step)}}, {"step": step})
    >>> store.versions()
    [2, 3]
    >>> newest = store.load(3)
    >>> newest.meta, newest.files["weights"]["bias"].tolist()
    ({'step': 2}, [2, 2])
    """

    def __init__(self, url: str, *, keep: int) -> None:
        """
        :param url: directory, any fsspec URL or a local path.
        :param keep: complete versions that are kept, at least 1.
        """
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._keep = keep

    def versions(self) -> list[int]:
        """Numbers of the versions that have a manifest, ascending."""
        return [version for version in self._directories() if self._fs.exists(self._path(version, MANIFEST))]

    def save(self, files: Mapping[str, Arrays | Iterable[memoryview]], meta: dict[str, Any]) -> int:
        """Writes a new version, then removes old versions and unfinished ones. One call at a time.

        :param files: file stem -> arrays by name, or a safetensors file in pieces. These are asked for while the file is
            written, so they may wait for whoever makes them; what they raise leaves the version without a manifest.
        :returns: its number.
        """
        version = max(self._directories(), default=0) + 1
        self._fs.makedirs(self._path(version), exist_ok=True)
        entries = {}
        for stem, content in files.items():
            name = f"{stem}.safetensors"
            digest, size = hashlib.sha256(), 0
            with self._fs.open(self._path(version, name), "wb") as file:
                for piece in _pieces(content) if isinstance(content, dict) else content:
                    digest.update(piece)
                    file.write(piece)
                    size += len(piece)
            entries[name] = {"sha256": digest.hexdigest(), "bytes": size}
        body = {"version": version, "files": entries, "meta": meta}
        text = json.dumps({**body, "sha256": _digest(body)}, indent=1, sort_keys=True).encode()
        # Written aside and moved: on a local disk a kill in the middle leaves no half manifest.
        aside = self._path(version, f"{MANIFEST}.tmp")
        self._fs.pipe_file(aside, text)
        self._fs.mv(aside, self._path(version, MANIFEST))
        self._prune(version)
        return version

    def load(self, version: int) -> Checkpoint:
        """Reads and verifies a version.

        :raises CorruptCheckpointError: names the file that is missing or was changed.
        """
        path = self._path(version, MANIFEST)
        try:
            manifest = json.loads(self._read(path))
            body = {key: manifest[key] for key in ("version", "files", "meta")}
            intact = manifest["sha256"] == _digest(body)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptCheckpointError(f"checkpoint manifest {path} is malformed: {error!r}") from error
        if not intact:
            raise CorruptCheckpointError(f"checkpoint manifest {path} was changed: its sha256 differs")
        files = {}
        for name, entry in body["files"].items():
            data = self._read(self._path(version, name))
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise CorruptCheckpointError(
                    f"checkpoint file {self._path(version, name)} was changed: {len(data)} bytes,"
                    f" {entry['bytes']} were written, or its sha256 differs"
                )
            files[name.removesuffix(".safetensors")] = safetensors.numpy.load(data)
        return Checkpoint(version, files, body["meta"])

    def load_newest(self, on_corrupt: Callable[[CorruptCheckpointError], None]) -> Checkpoint | None:
        """The newest intact version; None when there is no version at all.

        :param on_corrupt: called for every newer one that was refused.
        :raises CorruptCheckpointError: there are versions and none is intact; starting from nothing is for an
            operator to decide, by removing them.
        """
        last: CorruptCheckpointError | None = None
        for version in reversed(self.versions()):
            try:
                return self.load(version)
            except CorruptCheckpointError as error:
                on_corrupt(error)
                last = error
        if last is not None:
            raise CorruptCheckpointError(
                f"no checkpoint under {self._root} is intact; the last reason: {last}. Remove them to start anew,"
                " with `rillet reset --model`"
            )
        return None

    def _read(self, path: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise CorruptCheckpointError(f"checkpoint file {path} is missing") from error
        return data

    def _prune(self, newest: int) -> None:
        complete = self.versions()
        kept = set(complete[-self._keep :])
        for version in self._directories():
            if version not in kept and version < newest:
                self._fs.rm(self._path(version), recursive=True)

    def _directories(self) -> list[int]:
        self._fs.invalidate_cache()
        if not self._fs.isdir(self._root):
            return []
        names = (posixpath.basename(path.rstrip("/")) for path in self._fs.ls(self._root, detail=False))
        numbers = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def _path(self, version: int, *names: str) -> str:
        return posixpath.join(self._root, f"{_PREFIX}{version:012d}", *names)


def _pieces(arrays: Arrays) -> list[bytes]:
    return [safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})]


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
