"""Under which settings and of which topics the joiner's state was kept, and whether a start may go on with it.

A note beside the checkpoints of a joiner that runs by itself (``rillet join``): what does not fit is refused before
anything starts. On a cluster the uids of the operators do the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

from rillet.joiner.config import JoinerConfig
from rillet.joiner.errors import JoinerError
from rillet.joiner.runs import JoinerRun
from rillet.joiner.slices import SliceSchedule
from rillet.schemas import FeatureSpec, SpecRegistry

#: of what the joiner keeps in the engine's state; raised by whatever changes what joiner/state.py writes, or how it is keyed
STATE_FORMAT = 4


@dataclass(frozen=True, slots=True)
class KeptSettings:
    """What kept state depends on: with another retention, what was forgotten or waits could not be told any more.

    Requests are joined to their end under the spec that they came under (:mod:`rillet.joiner.spec_joiners`), so another spec
    leaves what is kept readable as long as the spec of before is known.
    """

    spec: str
    spec_hash: int
    #: as configured: 0 stands for what follows from the windows of each spec
    slice_ms: int
    buckets: int
    late_retention_ms: int
    action_wait_ms: int
    state_format: int = STATE_FORMAT
    #: Python's states have other names and forms where it runs in a process of its own: Flink would find none of them
    execution_mode: str = "thread"

    @classmethod
    def of(cls, spec: FeatureSpec, config: JoinerConfig, execution_mode: str = "thread") -> KeptSettings:
        """Those of a joiner.

        :raises JoinerError: see :class:`SliceSchedule`.
        """
        SliceSchedule(spec, config)
        return cls(
            spec.name,
            spec.hash,
            config.slice_ms,
            config.buckets,
            config.late_retention_ms,
            config.action_wait_ms,
            execution_mode=execution_mode,
        )

    @property
    def digest(self) -> int:
        """64 bits that stand for all of them but the name: of one spec's state."""
        return _digest(f"{self.spec_hash}|{self._of_all_specs()}")

    @property
    def operator_digest(self) -> int:
        """64 bits that stand for those that hold for the state of all specs."""
        return _digest(self._of_all_specs() + ("" if self.execution_mode == "thread" else f"|{self.execution_mode}"))

    def differences(self, other: KeptSettings) -> str:
        """Those that hold for all specs and are otherwise in ``other``, for a message; empty where none is."""
        mine, others = asdict(self), asdict(other)
        shared = [name for name in mine if name not in ("spec", "spec_hash")]
        return ", ".join(f"{name} {mine[name]}, now {others[name]}" for name in shared if mine[name] != others[name])

    def _of_all_specs(self) -> str:
        return f"{self.slice_ms}|{self.buckets}|{self.late_retention_ms}|{self.action_wait_ms}|{self.state_format}"


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Remedies:
    """What can be done about state that a start cannot go on with, as parts of a sentence; by default of ``rillet join``.

    :param close: how its windows are closed, with the settings of before.
    :param forget: how it is forgotten.
    """

    close: str = "run `rillet join --until-latest --drain`"
    forget: str = (
        "`rillet reset --joiner` forgets the state, open windows too, and the topics are joined from their beginning"
    )

    @classmethod
    def of_cluster(cls, runs: Path) -> Remedies:
        """Of a job on a cluster.

        :param runs: folder of its runs.
        """
        return cls(
            f"submit the job, and once all is read `deploy/stop-joiner.sh {runs} --drain`",
            f"move {runs} away, and the topics are joined from their beginning",
        )

    @classmethod
    def of_backfill(cls, folder: Path) -> Remedies:
        """Of a backfill, whose state is not the joiner's.

        :param folder: its data_dir.
        """
        forget = f"delete {folder} and the topic of its rows, and the same command begins anew"
        return cls("give the same command to its end", forget)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the state of a run is kept under.

    :param topics: the raw topics, by what they hold: name, and the id that the broker gave it when it was made; an empty
        id where the broker gives none.
    :param requests: the range that a backfill joins, in milliseconds of event time.
    """

    settings: KeptSettings
    topics: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    requests: tuple[int, int] | None = None

    def dump(self) -> str:
        """As text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def of(cls, run: JoinerRun, remedies: Remedies) -> Kept:
        """What a run has noted.

        :param remedies: to name where it cannot be used.
        :raises JoinerError: the note cannot be read, or the state is of another format.
        """
        try:
            note = json.loads(run.note.read_text("utf-8"))
            # Notes of the first format do not name it.
            if (state_format := note["settings"].get("state_format", 1)) != STATE_FORMAT:
                raise JoinerError(
                    f"the joiner's state in {run.folder} is of format {state_format}, and this version of rillet reads format"
                    f" {STATE_FORMAT} alone. Either close the windows in it with the version that wrote it: {remedies.close};"
                    f" this one then goes on at the offsets where that ended. Or {remedies.forget}"
                )
            topics = {kind: (str(name), str(id_)) for kind, (name, id_) in note["topics"].items()}
            requests = note.get("requests")
            return cls(KeptSettings(**note["settings"]), topics, tuple(requests) if requests else None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JoinerError(f"{run.note} cannot be read ({error}): {remedies.forget}") from error


def check_kept(
    run: JoinerRun | None,
    now: Kept,
    specs: SpecRegistry,
    remedies: Remedies = Remedies(),
    *,
    first_start: bool = False,
) -> None:
    """Refuses to go on under other settings with windows that are still open; state without any may be gone on with.

    Windows of any spec of the registry may be.

    :param run: whose state is to be gone on with.
    :param remedies: to name in what is raised.
    :param first_start: whether it was said where reading begins, which only holds where there is no state.
    :raises JoinerError: windows were left open under other settings, of other topics, or in another format.
    """
    if run is not None and first_start:
        raise JoinerError(
            f"--from says where a first start begins to read, and {run.folder} has the state of an earlier one, which says where"
            f" to go on: leave out --from. Or {remedies.forget}"
        )
    if run is None or run.drained:
        return
    kept, folder = Kept.of(run, remedies), run.folder.parent.parent
    if kept.requests != now.requests:
        raise JoinerError(
            f"{run.folder} has the state of a backfill from {kept.requests} (milliseconds of event time), not yet done: finish it"
            " with the same --from and --until, or name another topic"
        )
    if specs.find(kept.settings.spec_hash) is None:
        raise JoinerError(
            f"label windows are open in {folder} that were opened under feature spec {kept.settings.spec}"
            f" {kept.settings.spec_hash:#x}, which is neither spec nor among also_accepts of rillet.toml. Either name its file in"
            f" also_accepts, until those windows have closed. Or close them, with that spec: {remedies.close}. Or"
            f" {remedies.forget}"
        )
    found = [kept.settings.differences(now.settings)]
    for kind, (name, id_) in kept.topics.items():
        name_now, id_now = now.topics.get(kind, (name, id_))
        if name != name_now:
            found.append(f"{kind} of topic {name}, now {name_now}")
        elif id_ and id_now and id_ != id_now:
            raise JoinerError(
                f"topic {name} is not the one that the joiner's state in {folder} was made of: it has"
                f" id {id_now}, that one had {id_}. It was deleted and made anew, or is on another broker, so the offsets"
                f" of the state say nothing of it. Either go back to the broker of before. Or {remedies.forget}"
            )
    if not any(found):
        return
    raise JoinerError(
        f"label windows are open in {folder} that were opened with other settings ({', '.join(filter(None, found))}). Either"
        f" close them, with the old settings: {remedies.close}; then start again with the new ones. Or {remedies.forget}"
    )
