"""What the reading half of a replica hands to the applying half, and the queue between them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from rillet.embeddings import EmbeddingTable
from rillet.schemas import DeltaBlock
from rillet.sync.manifest import Base, Dense


@dataclass(frozen=True, slots=True, eq=False)
class BlockUpdate:
    """A verified block, and the position after it."""

    block: DeltaBlock
    next_position: int
    #: it was not in the log when this reader started, and was not applied before
    is_new: bool

    @property
    def rows(self) -> int:
        """Rows to write and rows to remove."""
        return len(self.block.fids) + len(self.block.tombstones)


@dataclass(frozen=True, slots=True, eq=False)
class DenseUpdate:
    """A newer version of the dense weights of the base that is loaded."""

    epoch: int
    version: int
    dense: Dense


@dataclass(frozen=True, slots=True, eq=False)
class BaseUpdate:
    """A base, loaded into a table of its own; ``base.rows`` are left out."""

    base: Base
    table: EmbeddingTable
    #: what the listener made of the base
    prepared: Any


@dataclass(frozen=True, slots=True)
class PositionUpdate:
    """Everything in the log below this position has been queued or refused."""

    next_position: int


Update = BlockUpdate | DenseUpdate | BaseUpdate | PositionUpdate


class UpdateQueue:
    """First in, first out, from one thread to another. Each thread writes its own counter only."""

    def __init__(self) -> None:
        self._updates: deque[Update] = deque()
        self._rows_in = 0
        self._rows_out = 0

    def __len__(self) -> int:
        return len(self._updates)

    @property
    def rows(self) -> int:
        """Rows put in and not yet applied."""
        return self._rows_in - self._rows_out

    def put(self, update: Update) -> None:
        """Adds an update; reading thread."""
        if isinstance(update, BlockUpdate):
            self._rows_in += update.rows
        self._updates.append(update)

    def first(self) -> Update:
        """The oldest update, which stays; applying thread.

        :raises IndexError: the queue is empty.
        """
        return self._updates[0]

    def rows_applied(self, rows: int) -> None:
        """Takes note of rows of the oldest update that were applied; applying thread."""
        self._rows_out += rows

    def remove_first(self) -> None:
        """Removes the oldest update; applying thread."""
        self._updates.popleft()
