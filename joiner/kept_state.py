"""Under which settings the joiner's state was kept, by which job, and whether a start may go on with it.

A note beside the checkpoints of a joiner that runs by itself (``rillet join``): what does not fit is refused before
anything starts. On a cluster the digest in the operator's uid does the same.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError
from rillet.joiner.slices import SliceSchedule
from rillet.schemas import FeatureSpec

_NOTE = "kept.json"


@dataclass(frozen=True, slots=True)
class KeptSettings:
    """What kept state depends on: with another retention, what was forgotten or waits could not be told any more."""

    spec: str
    spec_hash: int
    slice_ms: int
    buckets: int
    #: how long a slice is kept past its end, by windows and ``late_retention_ms``
    kept_ms: int
    action_wait_ms: int

    @classmethod
    def of(cls, spec: FeatureSpec, config: JoinerConfig) -> KeptSettings:
        """Those of a joiner.

        :raises JoinerError: see :class:`SliceSchedule`.
        """
        schedule = SliceSchedule(spec, config)
        return cls(spec.name, spec.hash, schedule.slice_ms, config.buckets, schedule.kept_ms, schedule.action_wait_ms)

    @property
    def digest(self) -> int:
        """64 bits that stand for all of them but the name."""
        fixed = f"{self.spec_hash}|{self.slice_ms}|{self.buckets}|{self.kept_ms}|{self.action_wait_ms}"
        return int.from_bytes(blake2b(fixed.encode(), digest_size=8).digest(), "little")

    def differences(self, other: KeptSettings) -> str:
        """What is otherwise in ``other``, for a message; empty where nothing is."""
        if self.spec_hash != other.spec_hash:
            return f"feature spec {self.spec} {self.spec_hash:#x}, now {other.spec} {other.spec_hash:#x}"
        mine, others = asdict(self), asdict(other)
        return ", ".join(f"{name} {mine[name]}, now {others[name]}" for name in mine if mine[name] != others[name])


def check_kept(folder: Path, now: KeptSettings) -> None:
    """Refuses to go on under other settings with windows that are still open; state without any may be gone on with.

    :param folder: of the joiner's checkpoints.
    :raises JoinerError: windows were left open under other settings.
    """
    try:
        note = json.loads((folder / _NOTE).read_text("utf-8"))
        kept, drained = KeptSettings(**note["settings"]), note["drained"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise JoinerError(
            f"{folder / _NOTE} cannot be read ({error}): `rillet reset --joiner` forgets the joiner's state"
        ) from error
    if drained or not (found := kept.differences(now)):
        return
    raise JoinerError(
        f"label windows are open in {folder} that were opened with other settings ({found}). Either close them: with the "
        "old settings run `rillet join --until-latest --drain`, then start again with the new ones. Or forget them: "
        "`rillet reset --joiner`, after which the topics are joined anew from their beginning"
    )


def note_kept(folder: Path, settings: KeptSettings, *, job: str, drained: bool) -> None:
    """Notes what the state in a folder is kept under.

    :param job: id of the job whose first checkpoint, or savepoint, is complete: its state is what the next start takes.
    :param drained: every window was closed, and nothing has been joined since.
    """
    text = json.dumps({"settings": asdict(settings), "drained": drained, "job": job}, indent=1)
    beside = folder / f"{_NOTE}.new"
    beside.write_text(text, "utf-8")
    beside.replace(folder / _NOTE)


def newest_snapshot(folder: Path) -> str | None:
    """URI of the state that the next start goes on from, None when there is none.

    The savepoint at which the noted job has ended, otherwise its newest checkpoint. Clocks decide only where no job is
    noted, or none of its state is there.
    """
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        job = json.loads((folder / _NOTE).read_text("utf-8"))["job"]
        if found := [*folder.glob(f"savepoints/{job}/*/_metadata")]:
            return max(found, key=_modified).parent.as_uri()
        if found := [*folder.glob(f"checkpoints/{job}/chk-*/_metadata")]:
            return max(found, key=lambda path: int(path.parent.name.removeprefix("chk-"))).parent.as_uri()
    found = [*folder.glob("savepoints/*/*/_metadata"), *folder.glob("checkpoints/*/chk-*/_metadata")]
    return max(found, key=_modified).parent.as_uri() if found else None


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
