"""The feature specs that a service knows at the same time: its own, and those whose records it takes too.

While a changed spec is rolled out, services and clients write records of the old one and of the new one. Whoever reads
both turns each into a record of its own spec (:mod:`rillet.schemas.conversion`); a record of a spec that is not among
them is refused by the check that follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rillet.schemas.conversion import SpecConversion
from rillet.schemas.errors import SpecError
from rillet.schemas.records import ActionEvent, ExampleBlock, FeatureEvent
from rillet.schemas.spec import FeatureSpec
from rillet.schemas.spec_changes import conflicts

Event = TypeVar("Event", FeatureEvent, FeatureEvent | ActionEvent)


class SpecRegistry:
    """Feature specs, of which one is a service's own.

    Its own records pass at the price of comparing two integers.
    """

    def __init__(self, current: FeatureSpec, others: Iterable[FeatureSpec] = ()) -> None:
        """
        :param others: in any order; those equal to ``current`` count for nothing.
        :raises SpecError: two of them give one slot number, or one task, different meanings.
        """
        self.current = current
        #: no two with the same records, crosses and transforms
        self.others = tuple(
            {spec.model_hash: spec for spec in others if spec.model_hash != current.model_hash}.values()
        )
        if found := conflicts([current, *self.others]):
            raise SpecError(
                "feature specs cannot be accepted at the same time: " + "; ".join(str(change) for change in found)
            )
        self._hash = current.hash
        self._conversions = {
            spec.hash: SpecConversion(spec, current) for spec in self.others if spec.hash != current.hash
        }

    def conversion(self, spec_hash: int) -> SpecConversion | None:
        """How records of another spec become records of ours; None for our own spec, and for one that is not known.

        :param spec_hash: as records carry it.
        """
        return self._conversions.get(spec_hash)

    def find(self, spec_hash: int) -> FeatureSpec | None:
        """The spec with a hash, as records carry it; None where none of ours has it."""
        if spec_hash == self._hash:
            return self.current
        conversion = self._conversions.get(spec_hash)
        return None if conversion is None else conversion.old

    def seen_from(self, spec: FeatureSpec) -> SpecRegistry:
        """The same specs, ``spec`` being the own one."""
        return SpecRegistry(spec, [self.current, *self.others])

    def event(self, event: Event) -> Event:
        """An event as one of our own spec; what is of no known spec stays as it is.

        :raises RecordError: it does not fit the spec that it names.
        """
        if isinstance(event, ActionEvent) or event.spec_hash == self._hash:
            return event
        conversion = self._conversions.get(event.spec_hash)
        if conversion is None:
            return event
        conversion.old.check_feature(event)
        return conversion.feature(event)

    def block(self, block: ExampleBlock) -> ExampleBlock:
        """An example block as one of our own spec, see :meth:`event`; rows of a task that is not ours teach nothing.

        :raises RecordError: it does not fit the spec that it names.
        """
        if block.spec_hash == self._hash:
            return block
        conversion = self._conversions.get(block.spec_hash)
        if conversion is None:
            return block
        conversion.old.check_block(block)
        return conversion.block(block)
