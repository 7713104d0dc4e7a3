"""What an audit found: counts, and a few offenders by name. Plain values; the finding is done in ``rillet.audit.comparison``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Offender:
    """One row that is not as it should be."""

    problem: str
    request_id: str
    impression_id: int
    task: str
    detail: str

    def __str__(self) -> str:
        return f"{self.problem}: request {self.request_id}, impression {self.impression_id}, task {self.task}: {self.detail}"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit counted. From ``lost`` to ``wrong_columns`` all is zero in a good run.

    :param expected: rows that are due, given which actions were late.
    :param unusable_events: dead letters: records of the raw topics that no row may be made of.
    :param duplicated: rows beyond the first of the same impression, task and outcome.
    :param unexpected: rows of impressions that no event has, of negatives that the sample leaves out, or that
        do not teach exactly one task.
    :param undecodable: records of the examples topic that are no block of the spec.
    :param late_positive: pairs whose action was late and came as a late positive.
    :param late_dropped: pairs with an action, of tasks that drop late ones, with the rows of a pair without one:
        the action can have been late, and topics do not tell. Zero where nothing was late.
    """

    requests: int
    impressions: int
    actions: int
    expected: int
    found: int
    positive: int
    negative: int
    duplicate_features: int
    orphan_actions: int
    unusable_events: int
    lost: int
    duplicated: int
    unexpected: int
    mislabelled: int
    wrong_rate: int
    wrong_spec: int
    undecodable: int
    wrong_columns: dict[str, int] = field(default_factory=dict)
    offenders: tuple[Offender, ...] = ()
    early_actions: int = 0
    late_positive: int = 0
    late_dropped: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, duplicated or wrong. Events that are all of another spec prove nothing.

        Where nothing can have been late, ``late_dropped`` has to be zero too.
        """
        if self.unusable_events and not self.requests:
            return False
        wrong = self.lost + self.duplicated + self.unexpected + self.mislabelled + self.wrong_rate
        return not (wrong + self.wrong_spec + self.undecodable + sum(self.wrong_columns.values()))

    def lines(self) -> list[str]:
        """The report in words: a verdict, the counts, the offenders."""
        problems = {
            name: getattr(self, name)
            for name in ("lost", "duplicated", "unexpected", "mislabelled", "wrong_rate", "wrong_spec", "undecodable")
        }
        problems |= {f"wrong {name}": count for name, count in self.wrong_columns.items()}
        found = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in problems.items() if count)
        verdict = (
            f"audit: {self.expected:,} examples expected, {self.found:,} found: {found or 'all there, once, right'}"
        )
        for count, what in (
            (self.unusable_events, "raw records are no events of this spec, or unusable"),
            (self.late_positive, "positives were late"),
            (self.late_dropped, "actions were too late for their label, or ignored"),
        ):
            if count:
                verdict += f"; {count:,} {what}"
        return [verdict, *(f"  {offender}" for offender in self.offenders)]
