"""What a replica tells its owner, and in which of the owner's threads."""

from __future__ import annotations

from typing import Generic, TypeVar

from rillet.schemas import DeltaBlock
from rillet.sync.manifest import Base, Dense
from rillet.sync.validation import Incident

P = TypeVar("P")


class ReplicaListener(Generic[P]):
    """Does nothing; override what is of interest. ``P`` is what :meth:`prepare` makes of a base.

    The thread that calls ``Replica.load`` also applies the first base; from then on the two threads share nothing
    but the queue of updates.
    """

    def prepare(self, base: Base) -> P | None:
        """Makes ready what takes too long for the applying thread. Reading thread, before the base is queued.

        What it raises comes out of ``load`` or ``poll``, and the base is not taken.

        :param base: without its rows.
        """
        return None

    def on_base(self, base: Base, prepared: P) -> None:
        """A base has replaced table and dense weights. Applying thread.

        :param prepared: what :meth:`prepare` returned for it.
        """

    def on_dense(self, version: int, dense: Dense) -> None:
        """There is a newer version of the dense weights of the same base. Applying thread."""

    def on_applied(self, block: DeltaBlock) -> None:
        """All rows of a block are in the table. Applying thread.

        Not called for blocks that the log held when the replica was loaded: they say nothing about freshness.
        """

    def on_incident(self, incident: Incident, position: int, detail: str) -> None:
        """A record was refused, or rows may be missing. Reading thread.

        :param position: of the record in the log, -1 without one.
        """
