"""Files that the services write into folders of data_dir, known by their names: these are deleted, and no others.

Whatever else lies there is somebody's: data_dir may be a folder that existed before.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rillet.jobs.data_lock import unwritable

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FLINK_FILE = rf"_metadata|\._metadata\.inprogress\.{_UUID}|{_UUID}"
#: stands for any path below
_ALL = "**"
#: where a snapshot or checkpoint is looked for; deleted first, so that what is deleted half is not taken for whole
_COMPLETE = ("_metadata", "manifest.json")

#: names in the joiner's folder, a pattern per level
JOINER = (
    ("runs", "[0-9]{6,}", r"kept\.json"),
    ("runs", "[0-9]{6,}", "checkpoints", "[0-9a-f]{32}", r"shared|taskowned|chk-[0-9]+", _FLINK_FILE),
    ("runs", "[0-9]{6,}", "stopped|drained", "savepoint-[0-9a-f]{6}-[0-9a-f]{12}", _FLINK_FILE),
    ("local", "rillet-joiner-[0-9a-f]{32}", _ALL),
    ("flink", _ALL),
    # of operators/flink_log.py
    ("log", r"log4j\.properties|flink\.log(?:\.[0-9]+)?|.*_db_LOG.*"),
)
#: names in the folder of backfills: each has a data_dir of its own, named after its topic
BACKFILLS = (
    *(("[a-zA-Z0-9._-]+", "joiner", *names) for names in JOINER),
    ("[a-zA-Z0-9._-]+", "locks", r"join\.lock"),
)
#: names in the folder of a model's checkpoints, of all its feature specs
CHECKPOINTS = (
    (
        "-?0x[0-9a-f]+",
        "checkpoint-[0-9]{12}",
        r"manifest\.json(?:\.tmp)?|(?:table|dense|optimizer|progress)\.safetensors",
    ),
)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder holds: files of ours and their size in bytes, what is not ours, and links where a folder should be."""

    own: tuple[Path, ...] = ()
    size: int = 0
    others: tuple[Path, ...] = ()
    links: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """One folder that a service writes.

    :param names: patterns of the names in it, one per level.
    """

    path: Path
    names: tuple[tuple[str, ...], ...]

    def look(self) -> Contents:
        """What is there; links are not followed."""
        if self.path.is_symlink():
            return Contents(links=(self.path,))
        if not self.path.is_dir():
            return Contents(others=(self.path,) if self.path.exists() else ())
        own, others, links = list[Path](), list[Path](), list[Path]()
        for root, folders, files in os.walk(self.path):
            for name in sorted(folders):
                path = Path(root, name)
                if not self._is_folder(path):
                    others.append(path)
                    folders.remove(name)
                elif path.is_symlink():
                    links.append(path)
            for name in sorted(files):
                (own if self._is_file(Path(root, name)) else others).append(Path(root, name))
        # Older ones first: where that is interrupted, the newest is still the newest.
        own.sort(key=lambda path: (path.name not in _COMPLETE, _by_number(path)))
        return Contents(tuple(own), sum(path.lstat().st_size for path in own), tuple(others), tuple(links))

    def delete(self) -> None:
        """Deletes the files of ours, and every folder that is empty then.

        :raises ServiceError: one cannot be deleted.
        """
        contents = self.look()
        try:
            for path in contents.own:
                path.unlink(missing_ok=True)
            if contents.links or not self.path.is_dir():
                return
            for root, _, _ in os.walk(self.path, topdown=False):
                if (Path(root) == self.path or self._is_folder(Path(root))) and not any(Path(root).iterdir()):
                    Path(root).rmdir()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _is_file(self, path: Path) -> bool:
        return any(_fits(parts, path.relative_to(self.path).parts, whole=True) for parts in self.names)

    def _is_folder(self, path: Path) -> bool:
        return any(_fits(parts, path.relative_to(self.path).parts, whole=False) for parts in self.names)


def _by_number(path: Path) -> str:
    """Of paths that differ by a number, the lower one first."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(20), str(path))


def _fits(patterns: tuple[str, ...], parts: tuple[str, ...], *, whole: bool) -> bool:
    """Whether names fit the patterns of their levels: all of them for a file, the first for a folder."""
    if patterns[-1] == _ALL:
        patterns = patterns[:-1] + (".+",) * max(1, len(parts) - len(patterns) + 1)
    if len(parts) != len(patterns) if whole else len(parts) >= len(patterns) + (patterns[-1] == ".+"):
        return False
    return all(re.fullmatch(pattern, part, re.DOTALL) for pattern, part in zip(patterns, parts, strict=False))
