"""The audit: every example that should be on the examples topic is there, once, and right.

Compares example blocks row by row with the plain join of the same events: lost, duplicated, unexpected
and mislabelled rows, wrong rates, wrong columns, with a few offenders by name. Holds the expected events in
memory as arrays (about 350 bytes per impression); examples are streamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rillet.audit.columns import due_fids, stack_columns
from rillet.audit.expected import ExpectedExamples, row_kind
from rillet.audit.labels import judge_labels
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport, Offender
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.raw_topics import connected_converter, native_or_unusable
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import (
    MAX_AHEAD_MS,
    NO_TIME_MS,
    DecodeError,
    ExampleBlock,
    FeatureSpec,
    LabelKind,
    RecordError,
    decode_as,
)
from rillet.schemas.arrays import AnyArray, Bools, Int64s, range_indices
from rillet.sources import Kind, SourcesConfig

#: Columns compared with what the events say, apart from label and rate.
COLUMNS = (
    "fids",
    "lengths",
    "dense",
    "label_kind",
    "feature_time_ms",
    "action_time_ms",
    "feature_ingest_ms",
    "action_ingest_ms",
    "served_logits",
)
_CHUNK_ROWS = 65_536

__all__ = ["Audit", "AuditReport", "Offender", "audit_examples", "audit_topics"]


class Audit:
    """Takes example blocks in any order; :meth:`report` says what was wrong with them all."""

    def __init__(
        self, expected: ExpectedExamples, actions: int = 0, *, allowed_late: int = 0, name_at_most: int = 5
    ) -> None:
        """
        :param actions: action events read, for the report.
        :param allowed_late: ``late_actions`` that the joiner counted: so many positives may be missing as late.
        :param name_at_most: offenders named for each kind of problem.
        """
        self.expected = expected
        #: example records that are no block of this spec
        self.undecodable = 0
        self._actions = actions
        self._allowed_late = allowed_late
        self._name_at_most = name_at_most
        self._offenders: dict[str, list[Offender]] = {}
        self._waiting: list[ExampleBlock] = []
        self._waiting_rows = 0
        # rows found of each pair, [M, T]; those with label 1, the late ones among them, those with label 0
        self._positives, self._late, self._negatives = (np.zeros(expected.positive.shape, np.int32) for _ in range(3))
        #: of each request the bucket of its first row, -1 before that, [R]
        self._bucket = np.full(len(expected.request_ids), -1, np.int64)
        tasks = expected.spec.tasks
        #: kinds of the rows of each task that are not late, with label 0 and 1, [T, 2]
        self._kinds = np.array([[row_kind(t.labels, positive=p) for p in (False, True)] for t in tasks], np.uint8)
        self._count = dict.fromkeys(
            ("found", "positive", "negative", "unexpected", "mislabelled", "wrong_rate", "wrong_spec"), 0
        )
        self._wrong = dict.fromkeys((*COLUMNS, "bucket"), 0)

    def add(self, block: ExampleBlock) -> None:
        """One block of the examples topic."""
        if block.spec_hash != self.expected.spec.hash:
            self._count["wrong_spec"] += len(block)
            self._name("wrong spec", block.request_ids[0] if block.request_ids else "", -1, -1, f"{block.spec_hash:#x}")
            return
        try:
            self.expected.spec.check_block(block)
        except RecordError as error:
            self.undecodable += 1
            self._name("undecodable", block.request_ids[0] if block.request_ids else "", -1, -1, str(error))
            return
        self._waiting.append(block)
        self._waiting_rows += len(block)
        if self._waiting_rows >= _CHUNK_ROWS:
            self._compare()

    def report(self) -> AuditReport:
        """The result over all blocks so far."""
        self._compare()
        expected = self.expected
        labels = judge_labels(expected, self._positives, self._late, self._negatives)
        # What follows from numbers of rows is named anew at each report: a missing row may still come.
        lasting = self._offenders
        self._offenders = {problem: list(named) for problem, named in lasting.items()}
        for problem, wrong in (
            ("lost", labels.lost),
            ("duplicated", labels.duplicated),
            ("mislabelled", labels.mislabelled),
            ("unexpected", labels.unexpected),
            ("dropped as late", labels.late_dropped),
        ):
            if problem == "dropped as late" and labels.late_dropped.sum() <= self._allowed_late:
                continue
            for row, task in np.argwhere(wrong)[: self._name_at_most]:
                self._name_row(problem, int(row), int(task), self._found(int(row), int(task)))
        offenders = tuple(offender for named in self._offenders.values() for offender in named)
        self._offenders = lasting
        count = dict(self._count)
        count["mislabelled"] += int(labels.mislabelled.sum())
        count["unexpected"] += int(labels.unexpected.sum())
        return AuditReport(
            requests=len(expected.request_ids),
            impressions=len(expected.request),
            actions=self._actions,
            expected=int(labels.due.sum()),
            duplicate_features=expected.counts["duplicate_features"],
            orphan_actions=expected.counts["orphan_actions"],
            early_actions=expected.counts["early_actions"],
            unusable_events=expected.unusable,
            lost=int(labels.lost.sum()),
            duplicated=int(labels.duplicated.sum()),
            late_positive=int(labels.late_positive.sum()),
            late_dropped=int(labels.late_dropped.sum()),
            allowed_late=self._allowed_late,
            undecodable=self.undecodable,
            wrong_columns={name: count for name, count in self._wrong.items() if count},
            offenders=offenders,
            **count,
        )

    def _compare(self) -> None:
        """Compares the waiting blocks, all their rows at once."""
        blocks, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not blocks:
            return
        expected, tasks = self.expected, len(self.expected.spec.tasks)
        column = stack_columns(blocks, expected)
        rows = expected.find(column["request"], column["impression_ids"])
        mask, labels = column["mask"].reshape(-1, tasks), column["labels"].reshape(-1, tasks)
        one_task = (mask.sum(axis=1) == 1) & (mask.max(axis=1) == 1)
        task = mask.argmax(axis=1)
        label = labels[np.arange(len(labels)), task] == 1
        self._count["found"] += len(rows)
        self._count["positive"] += int(label.sum())
        self._count["negative"] += int((~label).sum())

        stray = (rows < 0) | ~one_task
        for at in np.flatnonzero(stray)[: self._name_at_most]:
            request_id = column["request_ids"][column["request_at"][at]]
            detail = "no feature event has it" if rows[at] < 0 else f"task mask is {mask[at].tolist()}"
            self._name("unexpected", request_id, int(column["impression_ids"][at]), -1, detail)
        self._count["unexpected"] += int(stray.sum())
        keep = np.flatnonzero(~stray)
        rows, task, label = rows[keep], task[keep], label[keep]
        due_label = expected.positive[rows, task]
        foreign = labels[keep].sum(axis=1) != label
        self._count["mislabelled"] += self._note(
            "mislabelled", foreign, rows, task, lambda i: f"a label of another task is set: {labels[keep[i]].tolist()}"
        )
        # Such a row is wrong whatever is due; for its pair it stands for the row that is.
        label = np.where(foreign, due_label, label)
        late = label & (column["label_kind"][keep] == LabelKind.LATE_POSITIVE)
        for seen, of_kind in ((self._positives, label), (self._late, late), (self._negatives, ~label)):
            np.add.at(seen, (rows[of_kind], task[of_kind]), 1)
        rate, due_rate = column["sampling_rate"][keep], expected.rates[rows, task]
        self._count["wrong_rate"] += self._note(
            "wrong rate", rate != due_rate, rows, task, lambda i: f"{rate[i]}, due {due_rate[i]}"
        )
        self._compare_columns(column, keep, rows, task, label)
        self._compare_buckets(column["bucket"][keep], rows, task)

    def _compare_buckets(self, buckets: Int64s, rows: Int64s, task: Int64s) -> None:
        """All rows of a request are of one bucket; of which one, only Flink's hash knows."""
        requests = self.expected.request[rows]
        first_requests, first = np.unique(requests, return_index=True)
        new = self._bucket[first_requests] < 0
        self._bucket[first_requests[new]] = buckets[first[new]]
        due = self._bucket[requests]
        self._wrong["bucket"] += self._note(
            "wrong bucket", buckets != due, rows, task, lambda i: f"{buckets[i]}, other rows of the request: {due[i]}"
        )

    def _compare_columns(self, column: dict[str, Any], keep: Int64s, rows: Int64s, task: Int64s, label: Bools) -> None:
        expected = self.expected
        requests, total = expected.request[rows], len(column["impression_ids"])
        # Where an action can have been late, a row may say so.
        late = label & (expected.marks_late & expected.may_be_late)[rows, task]
        late &= column["label_kind"][keep] == LabelKind.LATE_POSITIVE
        kinds = self._kinds[task, label.astype(np.int64)]
        due: dict[str, AnyArray] = {
            "label_kind": np.where(late, np.uint8(LabelKind.LATE_POSITIVE), kinds),
            "feature_time_ms": expected.feature_time_ms[requests],
            "feature_ingest_ms": expected.feature_ingest_ms[requests],
            "action_time_ms": np.where(label, expected.action_time_ms[rows, task], NO_TIME_MS),
            "action_ingest_ms": np.where(label, expected.action_ingest_ms[rows, task], NO_TIME_MS),
            "dense": expected.dense[rows],
            "served_logits": expected.served_logits[rows],
        }
        # A positive without an action is mislabelled; what follows from its label is not counted again.
        right = ~label | expected.positive[rows, task]
        of_label = {"label_kind", "action_time_ms", "action_ingest_ms"}
        for name, value in due.items():
            found = column[name].reshape(total, *value.shape[1:])[keep]
            wrong = found != value
            if value.dtype.kind == "f":
                wrong &= ~(np.isnan(found) & np.isnan(value))
            if wrong.ndim == 2:
                wrong = wrong.any(axis=1)
            if name in of_label:
                wrong &= right
            self._wrong[name] += self._note(
                f"wrong {name}", wrong, rows, task, lambda i, f=found, e=value: f"{_show(f[i])}, due {_show(e[i])}"
            )
        lengths = np.concatenate((expected.context_lengths[requests], expected.item_lengths[rows]), axis=1)
        found_lengths = column["lengths"].reshape(-1, lengths.shape[1])[keep]
        wrong = (found_lengths != lengths).any(axis=1) | ~column["has_lengths"][keep]
        self._wrong["lengths"] += self._note(
            "wrong lengths", wrong, rows, task, lambda i: f"{_show(found_lengths[i])}, due {_show(lengths[i])}"
        )
        # Fids are compared where as many are there as are due; else the lengths are wrong, counted above.
        sizes = lengths.sum(axis=1, dtype=np.int64)
        ends = column["fid_ends"][keep]
        same = np.flatnonzero(column["fid_counts"][keep] == sizes)
        expected_fids = due_fids(expected, requests[same], rows[same])
        found_fids = column["fids"][range_indices(ends[same] - sizes[same], sizes[same])]
        differs = np.zeros(len(rows), np.bool_)
        row_of = np.repeat(same, sizes[same])
        differs[row_of[found_fids != expected_fids]] = True
        differs[column["fid_counts"][keep] != sizes] = True
        self._wrong["fids"] += self._note(
            "wrong fids",
            differs,
            rows,
            task,
            lambda i: (
                f"{_show(column['fids'][ends[i] - column['fid_counts'][keep[i]] : ends[i]])}, "
                f"due {_show(due_fids(expected, requests[i : i + 1], rows[i : i + 1]))}"
            ),
        )

    def _note(self, problem: str, wrong: Bools, rows: Int64s, task: Int64s, detail: Any) -> int:
        """Names the first few of the wrong rows; returns how many there are."""
        at = np.flatnonzero(wrong)
        room = self._name_at_most - len(self._offenders.get(problem, ()))
        for index in at[: max(room, 0)]:
            self._name_row(problem, int(rows[index]), int(task[index]), detail(int(index)))
        return len(at)

    def _found(self, row: int, task: int) -> str:
        """What was found of a pair, and what is due."""
        positives, negatives = self._positives[row, task], self._negatives[row, task]
        due = [
            f"a {LabelKind(self._kinds[task, label]).name.lower()} is due"
            for label, of in ((1, self.expected.positive), (0, self.expected.negative))
            if of[row, task]
        ]
        if not due:
            return f"{positives} positive and {negatives} negative rows; the sample leaves this negative out"
        late = self._late[row, task]
        return f"{positives} positive ({late} late) and {negatives} negative rows; {' and '.join(due)}"

    def _name_row(self, problem: str, row: int, task: int, detail: str) -> None:
        request_id = self.expected.request_ids[self.expected.request[row]]
        self._name(problem, request_id, int(self.expected.impression_ids[row]), task, detail)

    def _name(self, problem: str, request_id: str, impression_id: int, task: int, detail: str) -> None:
        named = self._offenders.setdefault(problem, [])
        if len(named) < self._name_at_most:
            name = self.expected.spec.tasks[task].name if task >= 0 else "?"
            named.append(Offender(problem, request_id, impression_id, name, detail))


def audit_examples(
    expected: ExpectedExamples, blocks: Iterable[ExampleBlock], actions: int = 0, *, allowed_late: int = 0
) -> AuditReport:
    """Audits blocks against the plain join; the short form of :class:`Audit`."""
    audit = Audit(expected, actions, allowed_late=allowed_late)
    for block in blocks:
        audit.add(block)
    return audit.report()


def audit_topics(
    kafka: KafkaConnection | str,
    spec: FeatureSpec,
    *,
    features: str = "features",
    actions: str = "actions",
    examples: str = "examples",
    sources: SourcesConfig | None = None,
    max_ahead_ms: int = MAX_AHEAD_MS,
    lateness_ms: int = 0,
    idle_delay_ms: int | None = None,
    allowed_late: int = 0,
    also_accepts: Sequence[FeatureSpec] = (),
) -> tuple[AuditReport, ExpectedExamples]:
    """Joins what is on the raw topics and audits what is committed on the examples topic, to their present ends.

    It is for a run that has ended or was drained: of a joiner that goes on, rows of open windows are not there yet.

    :param sources: formats of the raw topics, whose records are judged as they are converted; native by default.
    :param max_ahead_ms: see :class:`PlainJoin`, and ``lateness_ms`` and ``idle_delay_ms`` too.
    :param allowed_late: see :class:`Audit`.
    :param also_accepts: the joiner's other feature specs: what is new to ``spec`` may be missing in pages of another format.
    :returns: the report, and the expected examples for whoever wants their labels.
    :raises TopicError: a topic is missing.
    :raises BrokerUnavailableError: no broker answers.
    """
    join = PlainJoin(spec, max_ahead_ms=max_ahead_ms, lateness_ms=lateness_ms, idle_delay_ms=idle_delay_ms)
    topics: dict[Kind, str] = {"features": features, "actions": actions}
    for kind, topic in topics.items():
        converter = connected_converter(
            kind, spec, sources or SourcesConfig(), max_ahead_ms=max_ahead_ms, also_accepts=also_accepts
        )
        # Partitions are merged, each in the order of its offsets; a request lies in one of them.
        for read in read_topic(kafka, topic):
            record = native_or_unusable(read, converter)
            join.add_record(
                record.value,
                record.key,
                record.ingest_ms,
                record.timestamp_ms,
                topic=topic,
                partition=record.partition,
            )
    expected = join.result()
    audit = Audit(expected, join.actions, allowed_late=allowed_late)
    for record in read_topic(kafka, examples):
        try:
            audit.add(decode_as(ExampleBlock, record.value or b""))
        except DecodeError:
            audit.undecodable += 1
    return audit.report(), expected


def _show(values: Any) -> str:
    text = str(np.asarray(values).tolist())
    return text if len(text) <= 120 else f"{text[:117]}..."
