"""The object store of one model: bases and dense blobs, on any fsspec file system.

Layout: ``base-{version}/{embeddings.safetensors,dense.safetensors,program.pt2,spec.toml,manifest.json}`` with
the manifest written last, and ``dense/{version}.safetensors``. Every file is checked by its SHA-256 when
read. A folder without a manifest is no base: its writer is still at it, or died.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from rillet.embeddings import array_file
from rillet.schemas.arrays import AnyArray
from rillet.sync.errors import BaseNotFoundError, CorruptArtifactError
from rillet.sync.files import PART, Files
from rillet.sync.manifest import Base, Dense, FileEntry, Manifest, base_name

MANIFEST = "manifest.json"
EMBEDDINGS = "embeddings.safetensors"
DENSE = "dense.safetensors"
PROGRAM = "program.pt2"
SPEC = "spec.toml"
_FILES = (EMBEDDINGS, DENSE, PROGRAM, SPEC)
_VERSION_DIGITS = 12
_DENSE_PATH = re.compile(rf"dense/[0-9]{{{_VERSION_DIGITS}}}\.safetensors")


@dataclass(frozen=True, slots=True)
class BaseListing:
    """The bases of a store, newest first, and those whose manifest cannot be used."""

    manifests: tuple[Manifest, ...]
    refused: tuple[CorruptArtifactError, ...]


class ModelStore:
    """Bases and dense blobs of one model. It holds no state: any process may write, and the newest writer's base wins."""

    def __init__(self, url: str, model: str) -> None:
        """Opens the store; nothing is read yet.

        :param url: fsspec URL or path of the root; the model's folder is made below it when first written.
        :raises StoreUnavailableError: no such file system.
        """
        self.url = url
        self.model = model
        self._files = Files(url, model)

    def check_model(self, model: str) -> None:
        """Returns if this store is of ``model``.

        :raises ValueError: it is another model's.
        """
        if model != self.model:
            raise ValueError(f"the store is of model {self.model!r}, not of {model!r}")

    # -- bases ---------------------------------------------------------------------------------------------

    def bases(self) -> BaseListing:
        """All bases that have a manifest. Their files aren't looked at.

        :raises StoreUnavailableError: the store cannot be read.
        """
        manifests: list[Manifest] = []
        refused: list[CorruptArtifactError] = []
        for version in self._base_versions():
            name = f"{base_name(version)}/{MANIFEST}"
            where = self._files.where(name)
            try:
                manifest = Manifest.from_json(self._files.read(name), where)
            except FileNotFoundError:
                continue
            except CorruptArtifactError as error:
                refused.append(error)
                continue
            if manifest.version != version or manifest.model != self.model:
                refused.append(
                    CorruptArtifactError(
                        f"{where} describes version {manifest.version} of model {manifest.model!r}; delete its folder"
                    )
                )
                continue
            manifests.append(manifest)
        manifests.sort(key=lambda manifest: manifest.order, reverse=True)
        return BaseListing(tuple(manifests), tuple(refused))

    def newest_base(
        self,
        accept: Callable[[Manifest], bool] = lambda manifest: True,
        on_refused: Callable[[CorruptArtifactError], None] = lambda error: None,
    ) -> Base:
        """The newest acceptable base that is whole; a damaged one is refused by name and the one before it taken.

        :raises BaseNotFoundError: there is none.
        :raises StoreUnavailableError: the store cannot be read.
        """
        listing = self.bases()
        refused = list(listing.refused)
        for error in refused:
            on_refused(error)
        passed: list[str] = []
        for manifest in listing.manifests:
            if not accept(manifest):
                made_for = f"feature spec, crosses and transforms {manifest.model_hash:#x}"
                passed.append(f"{manifest.name} (next offset {manifest.next_offset}, {made_for})")
                continue
            try:
                return self.load_base(manifest)
            except CorruptArtifactError as error:
                refused.append(error)
                on_refused(error)
        raise BaseNotFoundError(
            f"no usable base of model {self.model!r} in {self.url}"
            + (f"; not fitting: {', '.join(passed)}" if passed else "")
            + (f"; damaged: {'; '.join(map(str, refused))}" if refused else "")
            + ". A running trainer writes one at its start and then at base_interval_s"
        )

    def load_base(self, manifest: Manifest) -> Base:
        """All of a base, checked.

        :raises CorruptArtifactError: a file is missing or isn't what was written.
        :raises StoreUnavailableError: the store cannot be read.
        """
        if unknown := sorted(manifest.files.keys() - set(_FILES)):
            raise CorruptArtifactError(f"{self._where(manifest, MANIFEST)} lists {unknown}, no files of a base")
        if absent := sorted(set(_FILES) - manifest.files.keys()):
            raise CorruptArtifactError(f"{self._where(manifest, MANIFEST)} lists no {', '.join(absent)}")
        content = {
            name: self._read_checked(
                f"{manifest.name}/{name}", manifest.files[name].sha256, " though its manifest lists it"
            )
            for name in _FILES
        }
        where = self._where(manifest, EMBEDDINGS)
        embeddings = _arrays(content.pop(EMBEDDINGS), where)
        fids, rows = embeddings.get("fids"), embeddings.get("rows")
        if fids is None or rows is None or rows.shape != (len(fids), manifest.dim) or len(fids) != manifest.rows:
            raise CorruptArtifactError(f"{where} does not hold {manifest.rows} rows of dim {manifest.dim}")
        if not np.isfinite(rows).all():
            raise CorruptArtifactError(f"{where} holds a number that is not finite")
        return Base(
            manifest,
            fids,
            rows,
            _arrays(content[DENSE], self._where(manifest, DENSE)),
            content[PROGRAM],
            content[SPEC].decode(),
        )

    def write_base(self, base: Base) -> Manifest:
        """Writes all files, then the manifest; until then no reader sees the base.

        :returns: the manifest with the files' sizes and digests.
        :raises StoreUnavailableError: the store cannot be written; what was written stays without a manifest.
        """
        name = base.manifest.name
        embeddings: dict[str, AnyArray] = {"fids": base.fids, "rows": base.rows}
        content: dict[str, Iterable[bytes | memoryview]] = {
            EMBEDDINGS: array_file.pieces(array_file.sizes_of(embeddings), embeddings.values()),
            DENSE: [save_arrays(base.dense)],
            PROGRAM: [base.program],
            SPEC: [base.spec_toml.encode()],
        }
        entries = {
            file: FileEntry(*self._files.write_pieces(f"{name}/{file}", pieces)) for file, pieces in content.items()
        }
        manifest = replace(base.manifest, rows=len(base.fids), files=entries)
        self._files.write_whole(f"{name}/{MANIFEST}", manifest.to_json())
        return manifest

    # -- dense blobs ---------------------------------------------------------------------------------------

    def write_dense(self, version: int, dense: Dense) -> tuple[str, str]:
        """Writes a dense blob.

        :returns: its path below the model's folder, and its SHA-256 in hexadecimal.
        :raises StoreUnavailableError: the store cannot be written.
        """
        data = save_arrays(dense)
        path = _dense_name(version)
        self._files.write_whole(path, data)
        return path, hashlib.sha256(data).hexdigest()

    def load_dense(self, path: str, sha256: str) -> Dense:
        """The arrays of a dense blob.

        :param path: as :meth:`write_dense` gave it; comes with the log, so any other path is refused unread.
        :raises CorruptArtifactError: it is missing or isn't what was announced, or ``path`` is none of a blob.
        :raises StoreUnavailableError: the store cannot be read.
        """
        if not _DENSE_PATH.fullmatch(path):
            raise CorruptArtifactError(f"{path!r} is no path of a dense blob of model {self.model!r} in {self.url}")
        data = self._read_checked(path, sha256, ": it was collected as old, or never written")
        return _arrays(data, self._files.where(path))

    # -- housekeeping --------------------------------------------------------------------------------------

    def newest_version(self) -> int:
        """The highest version that any file bears, complete or not; 0 when there is none."""
        return max([*self._base_versions(), *self._dense_versions()], default=0)

    def collect_garbage(self, keep_bases: int, keep_dense: int) -> list[str]:
        """Deletes all but the newest bases and dense blobs, and older folders that never got a manifest.

        :returns: what was deleted, paths below the model's folder.
        :raises StoreUnavailableError: the store cannot be written.
        """
        listing = self.bases()
        kept = {manifest.version for manifest in listing.manifests[:keep_bases]}
        newest = max(kept, default=0)
        deleted: list[str] = []
        for version in self._base_versions():
            # A folder above the newest base may be one that is being written.
            if version in kept or version > newest:
                continue
            name = base_name(version)
            # The manifest first: without it there is no base, however little else is deleted.
            self._files.delete(f"{name}/{MANIFEST}")
            self._files.delete_folder(name)
            deleted.append(name)
        for version in sorted(self._dense_versions(), reverse=True)[keep_dense:]:
            path = _dense_name(version)
            self._files.delete(path)
            deleted.append(path)
        return deleted

    def contents(self) -> tuple[list[str], list[str]]:
        """What lies in the model's folder: files by the names that they are written under, and everything else.

        :returns: paths below the folder, manifests first.
        :raises StoreUnavailableError: the store cannot be read.
        """
        bases = [base_name(version) for version in self._base_versions()]
        own: list[str] = []
        others = [name for name in self._files.names() if name not in {*bases, "dense"}]
        for name in bases:
            for file in self._files.names(name):
                (own if file.removesuffix(PART) in (MANIFEST, *_FILES) else others).append(f"{name}/{file}")
        for file in self._files.names("dense"):
            path = f"dense/{file}"
            (own if _DENSE_PATH.fullmatch(path.removesuffix(PART)) else others).append(path)
        # Without its manifest a base is none, however little else is deleted.
        return sorted(own, key=lambda path: (not path.endswith(f"/{MANIFEST}"), path)), sorted(others)

    def delete(self) -> None:
        """Deletes all that the model has here, and nothing that is not of a store (:meth:`contents`).

        :raises StoreUnavailableError: the store cannot be written.
        """
        own, _ = self.contents()
        for path in own:
            self._files.delete(path)
        for folder in (*map(base_name, self._base_versions()), "dense", ""):
            self._files.delete_if_empty(folder)

    # -- internals -----------------------------------------------------------------------------------------------

    def _base_versions(self) -> list[int]:
        return sorted(_numbers(self._files.names(), "base-", ""))

    def _dense_versions(self) -> list[int]:
        return sorted(_numbers(self._files.names("dense"), "", ".safetensors"))

    def _where(self, manifest: Manifest, name: str) -> str:
        return self._files.where(f"{manifest.name}/{name}")

    def _read_checked(self, path: str, sha256: str, why_missing: str) -> bytes:
        where = self._files.where(path)
        try:
            data = self._files.read(path)
        except FileNotFoundError as error:
            raise CorruptArtifactError(f"{where} is missing{why_missing}") from error
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise CorruptArtifactError(f"{where} has SHA-256 {found} instead of {sha256} ({len(data)} bytes)")
        return data


def save_arrays(arrays: Mapping[str, AnyArray]) -> bytes:
    """A safetensors file of the arrays; names sorted, so that equal weights are equal bytes."""
    data: bytes = safetensors.numpy.save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})
    return data


def _arrays(data: bytes, path: str) -> dict[str, AnyArray]:
    try:
        arrays: dict[str, AnyArray] = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise CorruptArtifactError(f"{path} is no safetensors file ({error})") from error
    return arrays


def _dense_name(version: int) -> str:
    return f"dense/{version:0{_VERSION_DIGITS}d}.safetensors"


def _numbers(names: list[str], prefix: str, suffix: str) -> Iterator[int]:
    for name in names:
        digits = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{digits}{suffix}" and len(digits) == _VERSION_DIGITS and digits.isdecimal():
            yield int(digits)
