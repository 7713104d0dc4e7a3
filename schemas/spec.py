"""The feature spec: one TOML file that says what is logged, trained on and served.

It names the slots of a request (context) and of each impression (item), how a raw value becomes a
fid, the dense features, the tasks with their label windows and sampling rates, and the crosses of slots that a model
reads besides. Its hash travels in every record; a reader with another hash refuses the record instead of mixing meanings.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from rillet.schemas.arrays import AnyArray, Int64s, UInt16s
from rillet.schemas.block_sizes import BlockSizes
from rillet.schemas.crosses import Cross
from rillet.schemas.label_rules import AtLeast
from rillet.schemas.negative_rates import RateByScore, RateBySlot
from rillet.schemas.packing import pack_columns
from rillet.schemas.record_checks import RecordChecks
from rillet.schemas.records import ActionEvent, ExampleBlock, FeatureEvent
from rillet.schemas.slots import Slot

LatePolicy = Literal["drop", "correct", "emit_unsampled"]
Transform = Literal["none", "log1p"]
#: When the rows of a pair (an impression and a task) go out:
#: ``positives_first``: a positive with its action, a negative once the window has closed;
#: ``aligned``: either once the window has closed;
#: ``immediate``: every sampled impression at once as a provisional negative, an action as its correction.
LabelMode = Literal["positives_first", "aligned", "immediate"]
#: of the records, part of every spec's hash: raised with every change of what they mean
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """A number per candidate.

    Records hold it as it is. A model transforms it (``log1p`` is sign(x) ln(1 + abs(x)), for numbers of any sign) and
    standardises what comes out by what it has learned of the feature, wherever it is trained and served.
    """

    name: str
    transform: Transform = "none"


@dataclass(frozen=True, slots=True)
class Task:
    """One label: the actions that make it positive, and how long after the impression they may come.

    A negative is kept with probability ``negative_rate``, or with that which its slot's value or its score give. An action within its window that arrives after
    the window was closed is late: ``drop`` counts it, ``correct`` sends a positive that takes the pair's negative back where it
    was sent, ``emit_unsampled`` sends one only where the sample left the pair's negative out. An action may lie up to ``early_ms`` before its impression by its event time, because two machines' clocks differ; one
    that lies further before it is no positive. ``labels`` says when the rows of a pair go out
    (:data:`LabelMode`). ``docs/join.md`` is the exact definition.
    """

    name: str
    #: its name, or the names of several, in the order of the alphabet
    action: str | tuple[str, ...]
    window_ms: int
    negative_rate: float = 1.0
    late: LatePolicy = "drop"
    early_ms: int = 5_000
    labels: LabelMode = "immediate"
    #: at most one of the two
    rate_by_slot: RateBySlot | None = None
    rate_by_score: RateByScore | None = None
    #: None: one action is enough
    at_least: AtLeast | None = None
    #: how long after the impression its negative goes out; None: when the window closes
    negative_after_ms: int | None = None

    @property
    def closes_ms(self) -> int:
        """How long after the impression a pair without an action gives its negative; later actions are late."""
        return self.window_ms if self.negative_after_ms is None else self.negative_after_ms

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions that count."""
        return (self.action,) if isinstance(self.action, str) else self.action


@dataclass(frozen=True)
class FeatureSpec:
    """Slots, dense features and tasks. Column order everywhere: context slots, then item slots, as declared."""

    name: str
    context: tuple[Slot, ...]
    item: tuple[Slot, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[Task, ...]
    sampling_seed: int = 0
    crosses: tuple[Cross, ...] = ()

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Context slots, then item slots: the S columns of an example."""
        return self.context + self.item

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the dense features, as declared."""
        return tuple(dense.name for dense in self.dense)

    @property
    def segments(self) -> int:
        """Embedding segments of a model's input: one per slot, then one per cross, as declared."""
        return len(self.slots) + len(self.crosses)

    @property
    def ragged(self) -> bool:
        """Whether any slot takes another number of values than one, so that lengths are stored."""
        return self.context_ragged or self.item_ragged

    @property
    def context_ragged(self) -> bool:
        """Whether a context slot does."""
        return any(slot.ragged for slot in self.context)

    @property
    def item_ragged(self) -> bool:
        """Whether an item slot does."""
        return any(slot.ragged for slot in self.item)

    @cached_property
    def block_sizes(self) -> BlockSizes:
        """What rows and requests add to an example block."""
        return BlockSizes(self.context, self.item, len(self.dense), len(self.tasks))

    @property
    def width(self) -> int:
        """Columns of the padded request tensor: every slot at its ``max_values``."""
        return sum(slot.max_values for slot in self.slots)

    @property
    def histories(self) -> tuple[Slot, ...]:
        """The context slots of kind ``history``."""
        return tuple(slot for slot in self.context if slot.history is not None)

    @cached_property
    def actions(self) -> frozenset[str]:
        """Names of the actions that a task or a history asks for; any other is counted as unknown."""
        of_histories = {slot.history.action for slot in self.histories if slot.history is not None}
        return frozenset({name for task in self.tasks for name in task.actions} | of_histories)

    def advice_on_action(self, name: str) -> str:
        """What to say of an action that is not among :attr:`actions`: the name that is meant, or all that are asked for."""
        asked = sorted(self.actions)
        close = difflib.get_close_matches(name.lower(), asked, 1, cutoff=0.6)
        return f"did you mean {close[0]!r}?" if close else f"the feature spec asks for {', '.join(map(repr, asked))}"

    def without_histories(self) -> FeatureSpec:
        """The spec without its histories and their crosses: what is left when nobody keeps any."""
        left_out = {slot.name for slot in self.histories}
        return replace(
            self,
            context=tuple(slot for slot in self.context if slot.history is None),
            crosses=tuple(cross for cross in self.crosses if left_out.isdisjoint(cross.slots)),
        )

    def value_slot(self, slot: Slot) -> Slot:
        """The slot that makes fids of raw values of ``slot``: itself, or for a history the slot it is of, renumbered.

        >>> from rillet.schemas import History
        >>> film = Slot("film", 16, "token")
        >>> seen = Slot("seen", 6, "history", 20, history=History(of="film", action="watch", by="user"))
        >>> spec = FeatureSpec("films", (Slot("user", 1, "id"), seen), (film,), (), ())
        >>> spec.value_slot(seen)
        Slot(name='seen', slot=6, kind='token', max_values=20, bins=(), history=None)
        """
        if slot.history is None:
            return slot
        of = next(item for item in self.item if item.name == slot.history.of)
        return replace(of, name=slot.name, slot=slot.slot, max_values=slot.max_values)

    @property
    def canonical_json(self) -> str:
        """What :attr:`hash` is of: all but crosses and transforms, keys sorted, no white space, ASCII alone."""
        recorded = asdict(self, dict_factory=_present)
        del recorded["crosses"]
        recorded["dense"] = list(self.dense_names)
        return _canonical({"schema_version": SCHEMA_VERSION, **recorded})

    @cached_property
    def hash(self) -> int:
        """Of all that decides what records hold: all but crosses and transforms, which a model makes of records.

        The first 15 hexadecimal digits of the SHA-256 of :attr:`canonical_json`: not negative in a signed integer of
        64 bits, and the same digits in every language.
        """
        return _hash_of(self.canonical_json)

    @cached_property
    def model_hash(self) -> int:
        """Of all that decides what a model reads: :attr:`hash`, crosses and transforms; equal to it without them."""
        derived: dict[str, Any] = {}
        if self.crosses:
            derived["crosses"] = [asdict(cross) for cross in self.crosses]
        if transforms := {dense.name: dense.transform for dense in self.dense if dense.transform != "none"}:
            derived["transforms"] = transforms
        return _hash_of(_canonical({"spec": self.hash, **derived})) if derived else self.hash

    def encode_side(
        self, side: Literal["context", "item"], columns: Mapping[str, Sequence[Any] | AnyArray]
    ) -> tuple[Int64s, UInt16s | None]:
        """Raw columns of r rows to packed fids (row after row) and lengths.

        :param columns: slot name to r values; r sequences of values for a ragged slot. Those of a history are values of
            the slot that it is of, newest first.
        :returns: fids int64[F] and lengths uint16[r x slots of the side], None when no slot of the side is ragged.
        :raises RecordError: a column is missing, of another length, or holds a value out of its range.
        """
        return pack_columns(side, self.context if side == "context" else self.item, self.value_slot, columns)

    def check_feature(self, event: FeatureEvent) -> None:
        """Refuses an event that this spec does not describe.

        :raises SpecMismatchError: written under another spec.
        :raises RecordError: a column of the wrong width, a fid in a wrong slot, a number that is not finite.
        """
        self._checks.feature(event)

    def check_action(self, event: ActionEvent) -> None:
        """Refuses an action with impossible numbers; an action that no task asks for is not an error.

        :raises RecordError: a time before 1970 or after 2105, or a value that is not finite.
        """
        self._checks.action(event)

    def check_block(self, block: ExampleBlock) -> None:
        """Refuses an example block whose columns do not fit together or this spec.

        Dense numbers may be of any size, and not finite: the trainer refuses their rows alone.

        :raises SpecMismatchError: written under another spec.
        :raises RecordError: a column of the wrong length, a label that is no label, an absurd time or rate.
        """
        self._checks.block(block)

    @cached_property
    def _checks(self) -> RecordChecks:
        sides = {"context": self.context, "item": self.item}
        return RecordChecks(self.name, self.hash, sides, len(self.dense), len(self.tasks), self.block_sizes)


def _present(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # What a slot does not have does not count: a spec without histories has the hash that it had before there were any.
    return {name: value for name, value in fields if value is not None}


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
