"""What the joiner counts; nothing is dropped without a count."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    """What happened to the records, as ``docs/join.md`` counts it."""

    features: int = 0
    actions: int = 0
    positives: int = 0
    negatives: int = 0
    provisional_negatives: int = 0
    corrections: int = 0
    late_positives: int = 0
    duplicate_features: int = 0
    duplicate_actions: int = 0
    late_actions: int = 0
    early_actions: int = 0
    outside_window: int = 0
    unknown_impressions: int = 0
    unknown_actions: int = 0
    orphan_actions: int = 0
    discarded_at_end: int = 0

    def as_dict(self) -> dict[str, int]:
        """Name to count."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
