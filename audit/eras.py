"""Which feature spec each request was joined under, as far as topics tell it.

The joiner's run is a sequence of *eras*, each under one spec; a request belongs to the era in which its feature event
arrived. Rows name the spec of the era in which they went out, which is that one or a later one. So where eras begin in the
raw topics has to be found: at one record of each partition, and it is the record with which the fewest faults are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from rillet.audit.errors import AuditError
from rillet.schemas import FeatureSpec
from rillet.schemas.arrays import Bools, Int64s
from rillet.schemas.conversion import SpecConversion

#: more than anybody changes a spec within one topic; each costs memory
_MOST_ERAS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Era:
    """A stretch of the joiner's run under one spec, with T tasks, as its requests see it."""

    spec: FeatureSpec
    #: every spec that the audit is told of, by hash
    specs: Mapping[int, FeatureSpec]
    #: the specs that rows of the era's requests may have gone out under, by hash: its own (None), and those of later eras
    layouts: Mapping[int, SpecConversion | None]
    #: bool[T]: tasks that a later era does not have, so that their rows ended with this one or were left out after it
    left_out: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The requests of one era, by their ids.

    :param era_of: numbers of the eras.
    """

    era_of: Mapping[str, int]
    era: int
    eras: int

    def __contains__(self, request_id: str) -> bool:
        return self.era_of.get(request_id, self.eras - 1) == self.era

    @property
    def is_rest(self) -> bool:
        """Whether what is of no known request counts here: that is the last era."""
        return self.era == self.eras - 1


def only_era(spec: FeatureSpec) -> Era:
    """The era of a joiner that has had one spec all the time."""
    return make_eras([spec], [spec])[0]


def make_eras(history: Sequence[FeatureSpec], known: Iterable[FeatureSpec]) -> list[Era]:
    """An era for each spec of the joiner's history, the oldest first.

    :param known: every spec that the audit is told of.
    """
    specs = {spec.hash: spec for spec in known}
    eras = []
    for at, spec in enumerate(history):
        layouts = {one.hash: None if one.hash == spec.hash else SpecConversion(spec, one) for one in history[at:]}
        asked = [{task.name for task in one.tasks} for one in history[at:]]
        left_out = np.array([any(task.name not in names for names in asked) for task in spec.tasks])
        eras.append(Era(spec, specs, layouts, left_out))
    return eras


class SpecSequence:
    """In which order the joiner had its specs, read off the rows that it wrote.

    :param oldest_first: hashes of the specs that it can have had. Where rows do not tell which came first, it is this order.
    """

    def __init__(self, oldest_first: Sequence[int]) -> None:
        self._rank = {spec_hash: rank for rank, spec_hash in enumerate(oldest_first)}
        #: by partition of the examples topic, each spec that differs from the one before it
        self._runs: dict[int, list[int]] = {}

    def add(self, partition: int, spec_hash: int) -> None:
        """One example block of a partition, in the order of their offsets; one of an unknown spec says nothing.

        :raises AuditError: specs take turns so often that it was not one joiner.
        """
        run = self._runs.setdefault(partition, [])
        if spec_hash in self._rank and run[-1:] != [spec_hash]:
            run.append(spec_hash)
            if len(run) > _MOST_ERAS:
                raise AuditError(
                    f"rows of {len(set(run))} feature specs take turns more than {_MOST_ERAS - 1} times in partition {partition}"
                    " of the examples topic: that is of two joiners with different specs that ran at the same time, and the"
                    " audit is of one; stop one of them and join into a topic of its own"
                )

    def history(self) -> list[int]:
        """The joiner's specs, the oldest first: a sequence in which that of every partition is contained.

        It ends with the newest spec. One without a row comes before all others: a request may have come under a spec and have
        had its first row under the next one.
        """
        merged = self._seen()
        *older, newest = self._rank
        unseen = [spec_hash for spec_hash in older if spec_hash not in merged]
        return [*unseen, *merged, *([] if merged[-1:] == [newest] else [newest])]

    @property
    def changes(self) -> int:
        """How often rows of one spec follow those of another."""
        return max(len(self._seen()) - 1, 0)

    def _seen(self) -> list[int]:
        merged: list[int] = []
        for run in self._runs.values():
            merged = self._merged(merged, run)
        return merged

    def _merged(self, one: list[int], other: list[int]) -> list[int]:
        merged: list[int] = []
        for same, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
            parts = [one[a:b]] if same == "equal" else [part for part in (one[a:b], other[c:d]) if part]
            for part in sorted(parts, key=lambda part: max(self._rank[spec_hash] for spec_hash in part)):
                merged += part
        return merged


def find_eras(faults: Int64s) -> Int64s:
    """The era of each of the n requests of a partition, int64[n]: never earlier than that of the request before it.

    With the fewest faults in all; of several ways that in which eras begin as early as they can.

    :param faults: of each request if it was of each era, in order of arrival, int64[n, eras].

    >>> find_eras(np.array([[0, 3], [0, 2], [1, 0], [4, 1]])).tolist()
    [0, 0, 1, 1]
    """
    n, eras = faults.shape
    total = np.concatenate((np.zeros((1, eras), np.int64), np.cumsum(faults, axis=0)))
    #: faults of the first so many requests, where none of them is of a later era than the one at hand
    fewest: Int64s = total[:, 0]
    #: by era, what there would be fewer or more of if it began after so many requests
    begun = []
    for era in range(1, eras):
        begun.append(fewest - total[:, era])
        fewest = total[:, era] + np.minimum.accumulate(begun[-1])
    found, end = np.zeros(n, np.int64), n
    for era in range(eras - 1, 0, -1):
        begin = int(np.argmin(begun[era - 1][: end + 1]))
        found[begin:end] = era
        end = begin
    return found
