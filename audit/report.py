"""What an audit found: counts, and a few offenders by name. Plain values; the finding is done in ``rillet.audit.comparison``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace


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
    :param allowed_late: how many of them are no fault, because the joiner counted so many ``late_actions``.
    :param wrong_spec: rows of a spec that the audit is not told of, or that their request cannot have had any more.
    :param unknown_specs: of these the former, by hash.
    :param requests_by_spec: requests by the name and hash of the spec that they were joined under.
    :param spec_changes: how often rows of one spec follow those of another.
    :param left_out: rows that are not there, and need not be, of tasks that a later spec does not have.
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
    allowed_late: int = 0
    unknown_specs: dict[str, int] = field(default_factory=dict)
    requests_by_spec: dict[str, int] = field(default_factory=dict)
    spec_changes: int = 0
    left_out: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, duplicated, wrong, or dropped as late beyond ``allowed_late``.

        Where no feature event was usable, nothing is proven.
        """
        return not self._problems() and not self._nothing_usable

    @property
    def _nothing_usable(self) -> bool:
        return bool(self.unusable_events and not self.requests)

    def _problems(self) -> dict[str, int]:
        """What was wrong, and how often."""
        problems = {
            name.replace("_", " "): getattr(self, name)
            for name in ("lost", "duplicated", "unexpected", "mislabelled", "wrong_rate", "wrong_spec", "undecodable")
        }
        problems |= {f"wrong {name}": count for name, count in self.wrong_columns.items()}
        if self.late_dropped > self.allowed_late:
            problems[f"dropped as late where {self.allowed_late:,} are allowed"] = self.late_dropped
        return {name: count for name, count in problems.items() if count}

    def lines(self) -> list[str]:
        """The report in words: a verdict, the counts, the offenders."""
        if self.unknown_specs:
            rows = " and ".join(
                f"{count:,} rows are of feature spec {name}" for name, count in self.unknown_specs.items()
            )
            return [
                f"audit: {rows}, which the audit is not told of, so nothing was judged: name its file in also_accepts of"
                " rillet.toml, or with --also-accepts, and audit again"
            ]
        found = ", ".join(f"{count:,} {name}" for name, count in self._problems().items())
        right = "nothing to audit, no feature event is usable" if self._nothing_usable else "all there, once, right"
        verdict = f"audit: {self.expected:,} examples expected, {self.found:,} found: {found or right}"
        if len(self.requests_by_spec) > 1:
            of_each = ", ".join(f"{count:,} under {name}" for name, count in self.requests_by_spec.items())
            verdict += f"; requests joined: {of_each}"
        if self.spec_changes:
            times = "once" if self.spec_changes == 1 else f"{self.spec_changes} times"
            verdict += f"; the joiner's spec changed {times}"
        for count, what in (
            (self.left_out, "rows were left out, of tasks that a later spec does not have"),
            (self.unusable_events, "raw records are no events of this spec, or unusable"),
            (self.late_positive, "positives were late"),
            (self.late_dropped, "actions were too late for their label, or ignored"),
        ):
            if count:
                verdict += f"; {count:,} {what}"
        return [verdict, *(f"  {offender}" for offender in self.offenders)]


def add_up(
    reports: Sequence[AuditReport], *, unusable_events: int, allowed_late: int, name_at_most: int
) -> AuditReport:
    """The audit of all requests from those of each era; what is of the raw topics as a whole is taken from the last."""
    last = reports[-1]
    sums: tuple[str, ...] = (
        "requests",
        "impressions",
        "expected",
        "found",
        "positive",
        "negative",
        "lost",
        "duplicated",
        "unexpected",
    )
    sums += ("mislabelled", "wrong_rate", "wrong_spec", "undecodable", "late_positive", "late_dropped", "left_out")
    counts = {name: sum(getattr(report, name) for report in reports) for name in sums}
    tallies: dict[str, Counter[str]] = {}
    for name in ("wrong_columns", "unknown_specs", "requests_by_spec"):
        tallies[name] = Counter()
        for report in reports:
            tallies[name].update(getattr(report, name))
    named: dict[str, list[Offender]] = defaultdict(list)
    for report in reports:
        for one in report.offenders:
            if one.problem != "dropped as late" or counts["late_dropped"] > allowed_late:
                named[one.problem].append(one)
    return replace(
        last,
        unusable_events=unusable_events,
        allowed_late=allowed_late,
        offenders=tuple(one for of_problem in named.values() for one in of_problem[:name_at_most]),
        wrong_columns=dict(tallies["wrong_columns"]),
        unknown_specs=dict(tallies["unknown_specs"]),
        requests_by_spec={name: count for name, count in tallies["requests_by_spec"].items() if count},
        **counts,
    )
