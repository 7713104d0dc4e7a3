"""A scenario of records and watermarks, run through the joiner, the oracle of the tests and the plain join of the audit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rillet.audit.comparison import AuditReport, audit_examples
from rillet.audit.plain_join import PlainJoin
from rillet.joiner import END_OF_TIME_MS, JoinerConfig
from rillet.schemas import (
    ActionEvent,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    dump_spec,
    parse_spec,
)
from tests.joiner.support import SPEC, Arrival, feature, with_labels
from tests.simulation.joiner_engine import Engine
from tests.simulation.joiner_oracle import Row, kept, oracle, rows_due, rows_of, usable

CORRECT = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "correct"'))
EMIT_UNSAMPLED = parse_spec(dump_spec(SPEC).replace('late = "drop"', 'late = "emit_unsampled"'))
MODES = ("positives_first", "aligned", "immediate")
ALIGNED, IMMEDIATE = with_labels(SPEC, "aligned"), with_labels(SPEC, "immediate")
CONFIG = JoinerConfig(slice_ms=1_000, action_wait_ms=30_000, late_retention_ms=60_000, max_ahead_ms=1_000)
#: ends of SPEC's two windows for a request shown at 5,000 ms, with its slice
WATCH_CLOSED_MS, LIKE_CLOSED_MS = 15_999, 65_999


@dataclass(frozen=True)
class Outcome:
    """What a scenario gave, the same in all three."""

    rows: list[Row]
    blocks: list[ExampleBlock]
    counts: dict[str, int]
    dead_letters: int
    report: AuditReport

    def pairs(self, label: int) -> list[tuple[object, object]]:
        """(impression index, task) of the rows with a label."""
        return [(int(str(row[1])) - 100, row[2]) for row in self.rows if row[3] == label]

    def kinds(self, task: str) -> list[tuple[int, LabelKind]]:
        """(impression index, kind) of the rows of a task in the order in which they were sent."""
        return sent(self.blocks, task)


def sent(blocks: list[ExampleBlock], task: str) -> list[tuple[int, LabelKind]]:
    """(impression index, kind) of the rows of a task in the order in which they were sent."""
    column = [task.name for task in SPEC.tasks].index(task)
    return [
        (int(impression_id) - 100, LabelKind(kind))
        for block in blocks
        for impression_id, kind, mask in zip(
            block.impression_ids, block.label_kind, block.mask.reshape(len(block), -1), strict=True
        )
        if mask[column]
    ]


def sampled(impressions: int, request: int = 1) -> list[int]:
    """Indices of the impressions that the sample of the watch task keeps."""
    return [index for index in range(impressions) if kept(7, "watch", f"r{request}", index + 100, 0.5)]


def shown(request: int, time_ms: int, impressions: int = 3, spec: FeatureSpec = SPEC) -> FeatureEvent:
    return replace(feature(request, time_ms, impressions), spec_hash=spec.hash)


def join(
    tmp_path: Path,
    arrivals: Sequence[Arrival | FeatureEvent | ActionEvent | int],
    spec: FeatureSpec = SPEC,
    config: JoinerConfig = CONFIG,
    late: Iterable[ActionEvent] = (),
    crash: bool = False,
) -> Outcome:
    """Runs a scenario through all three and compares them.

    :param arrivals: records, and watermarks as integers for the joiner; the end of input follows.
    :param late: the actions of the scenario that are late, which only the joiner finds out itself.
    :param crash: restart the joiner from its state before every record.
    """
    steps = [a if isinstance(a, Arrival | int) else Arrival.of(a) for a in arrivals]
    records = [step for step in steps if isinstance(step, Arrival)]
    engine, plain = Engine(spec, config, tmp_path / "joiner"), PlainJoin(spec, max_ahead_ms=config.max_ahead_ms)
    refused, counts = 0, dict.fromkeys(engine.joiner.counters.as_dict(), 0)

    def count() -> None:
        for name, value in engine.joiner.counters.as_dict().items():
            counts[name] += value

    for step in steps:
        if isinstance(step, int):
            engine.watermark(step)
            plain.add_record(b"", None, timestamp_ms=step)  # what moved the watermark
            continue
        if crash:
            count()
            engine.restore(engine.checkpoint())
        plain.add_record(step.data, step.key, step.ingest_ms)
        try:
            engine.record(0, step.data, step.ingest_ms, step.key or b"")
        except RecordError:
            refused += 1
    engine.watermark(END_OF_TIME_MS)
    count()
    rows = rows_of(spec, engine.blocks)
    features, actions = usable(spec, records, config.max_ahead_ms)
    assert rows == oracle(spec, features, actions, late=list(late))
    expected = plain.result()
    report = audit_examples(expected, engine.blocks, plain.actions, allowed_late=counts["late_actions"])
    assert report.ok, report.lines()
    assert report.expected == len(rows)
    if not late:
        assert rows == rows_due(expected)
        assert (report.late_dropped, report.late_positive) == (0, 0)
    assert refused == expected.unusable - sum(isinstance(step, int) for step in steps)
    for name, value in expected.counts.items():
        # To the plain join a second late action is a duplicate of the first, or is taken by a rule.
        assert counts[name] == value or (late and name in ("duplicate_actions", "incomplete_actions")), name
    engine.joiner.close()
    return Outcome(rows, engine.blocks, counts, refused, report)
