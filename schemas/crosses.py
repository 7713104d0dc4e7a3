"""Crosses: features that are pairs of values of two slots, derived where a model reads its input and logged nowhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cross:
    """One feature of a model made of two slots: every value of the first with every value of the second.

    A pair is a fid like any other: ``slot`` above 48 bits that are the upper ones of ``mix(mix(a) + b)``, where ``a`` and
    ``b`` are the whole fids of the first and the second slot and ``mix`` is one output of splitmix64 (Steele, Lea and
    Flood 2014) seeded with its argument, in arithmetic modulo 2**64. ``rillet.embeddings.CrossColumns`` computes it.

    Pairs are in row-major order, the first slot's value changing slowest; those beyond ``max_values`` are left out.
    """

    name: str
    #: number of its own, unlike any slot's
    slot: int
    #: names of two slots, context or item, each of one value or ragged
    slots: tuple[str, str]
    #: most pairs of a row, up to 65535
    max_values: int

    def __str__(self) -> str:
        first, second = self.slots
        return f"{self.name} = {first} x {second} (slot {self.slot}, at most {self.max_values})"
