"""The audit: every example that should be on the examples topic is there, once, and right.

Compares example blocks row by row with the plain join of the same events: lost, duplicated, unexpected
and mislabelled rows, wrong rates, wrong columns, with a few offenders by name. Holds the joined events in
memory as arrays (about 350 bytes an impression); examples are streamed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rillet.audit.columns import due_fids, stack_columns
from rillet.audit.plain_join import Joined, PlainJoin
from rillet.audit.report import AuditReport, Offender
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.topic_reader import read_topic
from rillet.schemas import (
    ActionEvent,
    DecodeError,
    ExampleBlock,
    FeatureEvent,
    FeatureSpec,
    LabelKind,
    RecordError,
    decode_as,
)
from rillet.schemas.arrays import AnyArray, Bools, Int64s, range_indices

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

    def __init__(self, joined: Joined, actions: int = 0, *, name_at_most: int = 5) -> None:
        """
        :param actions: action events read, for the report.
        :param name_at_most: offenders named for each kind of problem.
        """
        self.joined = joined
        #: example records that are no block of this spec
        self.undecodable = 0
        self._actions = actions
        self._name_at_most = name_at_most
        self._offenders: dict[str, list[Offender]] = {}
        self._waiting: list[ExampleBlock] = []
        self._waiting_rows = 0
        self._seen = np.zeros(joined.expected.shape, np.int32)
        self._rates = np.array([task.negative_rate for task in joined.spec.tasks], np.float32)
        self._count = dict.fromkeys(
            ("found", "positive", "negative", "unexpected", "mislabelled", "wrong_rate", "wrong_spec"), 0
        )
        self._wrong = dict.fromkeys(COLUMNS, 0)

    def add(self, block: ExampleBlock) -> None:
        """One block of the examples topic."""
        if block.spec_hash != self.joined.spec.hash:
            self._count["wrong_spec"] += len(block)
            self._name("wrong spec", block.request_ids[0] if block.request_ids else "", -1, -1, f"{block.spec_hash:#x}")
            return
        try:
            self.joined.spec.check_block(block)
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
        joined, seen = self.joined, self._seen
        lost = joined.expected & (seen == 0)
        extra = np.maximum(seen - 1, 0)
        # Named anew at each report: a row that is not there yet may still come.
        self._offenders |= {"lost": [], "duplicated": []}
        for row, task in np.argwhere(lost)[: self._name_at_most]:
            label = "positive" if joined.positive[row, task] else "negative"
            self._name_row("lost", int(row), int(task), f"the {label} is not there")
        for row, task in np.argwhere(extra)[: self._name_at_most]:
            self._name_row("duplicated", int(row), int(task), f"{seen[row, task]} rows")
        return AuditReport(
            requests=len(joined.request_ids),
            impressions=len(joined.request),
            actions=self._actions,
            expected=int(joined.expected.sum()),
            duplicate_features=joined.duplicate_features,
            orphan_actions=joined.orphan_actions,
            unusable_events=joined.unusable,
            lost=int(lost.sum()),
            duplicated=int(extra.sum()),
            undecodable=self.undecodable,
            wrong_columns={name: count for name, count in self._wrong.items() if count},
            offenders=tuple(offender for named in self._offenders.values() for offender in named),
            **self._count,
        )

    def _compare(self) -> None:
        """Compares the waiting blocks, all their rows at once."""
        blocks, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not blocks:
            return
        joined, tasks = self.joined, len(self.joined.spec.tasks)
        column = stack_columns(blocks, joined)
        rows = joined.find(column["request"], column["impression_ids"])
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
        np.add.at(self._seen, (rows, task), 1)

        true_label = joined.positive[rows, task]
        one_hot = np.zeros((len(rows), tasks), np.uint8)
        one_hot[np.arange(len(rows)), task] = true_label
        right = (labels[keep] == one_hot).all(axis=1)
        self._count["mislabelled"] += self._note(
            "mislabelled", ~right, rows, task, lambda i: f"labels {labels[keep[i]].tolist()}, due {one_hot[i].tolist()}"
        )
        left_out = right & ~joined.expected[rows, task]
        self._count["unexpected"] += self._note(
            "unexpected", left_out, rows, task, lambda i: "the sample leaves this negative out"
        )
        rate, due_rate = column["sampling_rate"][keep], self._rates[task]
        self._count["wrong_rate"] += self._note(
            "wrong rate", rate != due_rate, rows, task, lambda i: f"{rate[i]}, due {due_rate[i]}"
        )
        self._compare_columns(column, keep, rows, task, right)

    def _compare_columns(self, column: dict[str, Any], keep: Int64s, rows: Int64s, task: Int64s, right: Bools) -> None:
        joined = self.joined
        requests, total = joined.request[rows], len(column["impression_ids"])
        kind = np.where(joined.positive[rows, task], np.uint8(LabelKind.POSITIVE), np.uint8(LabelKind.NEGATIVE))
        due: dict[str, AnyArray] = {
            "label_kind": kind,
            "feature_time_ms": joined.feature_time_ms[requests],
            "feature_ingest_ms": joined.feature_ingest_ms[requests],
            "action_time_ms": joined.action_time_ms[rows, task],
            "action_ingest_ms": joined.action_ingest_ms[rows, task],
            "dense": joined.dense[rows],
            "served_logits": joined.served_logits[rows],
        }
        # Of a row with the wrong label, what follows from the label is not counted again.
        of_label = {"label_kind", "action_time_ms", "action_ingest_ms"}
        for name, expected in due.items():
            found = column[name].reshape(total, *expected.shape[1:])[keep]
            wrong = found != expected
            if expected.dtype.kind == "f":
                wrong &= ~(np.isnan(found) & np.isnan(expected))
            if wrong.ndim == 2:
                wrong = wrong.any(axis=1)
            if name in of_label:
                wrong &= right
            self._wrong[name] += self._note(
                f"wrong {name}", wrong, rows, task, lambda i, f=found, e=expected: f"{_show(f[i])}, due {_show(e[i])}"
            )
        lengths = np.concatenate((joined.context_lengths[requests], joined.item_lengths[rows]), axis=1)
        found_lengths = column["lengths"].reshape(-1, lengths.shape[1])[keep]
        wrong = (found_lengths != lengths).any(axis=1) | ~column["has_lengths"][keep]
        self._wrong["lengths"] += self._note(
            "wrong lengths", wrong, rows, task, lambda i: f"{_show(found_lengths[i])}, due {_show(lengths[i])}"
        )
        # Fids are compared where as many are there as are due; else the lengths are wrong, counted above.
        sizes = lengths.sum(axis=1, dtype=np.int64)
        ends = column["fid_ends"][keep]
        same = np.flatnonzero(column["fid_counts"][keep] == sizes)
        expected_fids = due_fids(joined, requests[same], rows[same])
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
                f"due {_show(due_fids(joined, requests[i : i + 1], rows[i : i + 1]))}"
            ),
        )

    def _note(self, problem: str, wrong: Bools, rows: Int64s, task: Int64s, detail: Any) -> int:
        """Names the first few of the wrong rows; returns how many there are."""
        at = np.flatnonzero(wrong)
        room = self._name_at_most - len(self._offenders.get(problem, ()))
        for index in at[: max(room, 0)]:
            self._name_row(problem, int(rows[index]), int(task[index]), detail(int(index)))
        return len(at)

    def _name_row(self, problem: str, row: int, task: int, detail: str) -> None:
        joined = self.joined
        request_id = joined.request_ids[joined.request[row]]
        self._name(problem, request_id, int(joined.impression_ids[row]), task, detail)

    def _name(self, problem: str, request_id: str, impression_id: int, task: int, detail: str) -> None:
        named = self._offenders.setdefault(problem, [])
        if len(named) < self._name_at_most:
            name = self.joined.spec.tasks[task].name if task >= 0 else "?"
            named.append(Offender(problem, request_id, impression_id, name, detail))


def audit_examples(joined: Joined, blocks: Iterable[ExampleBlock], actions: int = 0) -> AuditReport:
    """Audits blocks against the join; the short form of :class:`Audit`."""
    audit = Audit(joined, actions)
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
) -> tuple[AuditReport, Joined]:
    """Joins what is on the raw topics and audits what is committed on the examples topic, to their present ends.

    :returns: the report, and the join for whoever wants its labels.
    :raises TopicError: a topic is missing.
    :raises BrokerUnavailableError: no broker answers.
    """
    join = PlainJoin(spec)
    for record in read_topic(kafka, features):
        try:
            join.add_feature(decode_as(FeatureEvent, record.value or b""), record.ingest_ms)
        except DecodeError:
            join.unusable += 1
    for record in read_topic(kafka, actions):
        try:
            join.add_action(decode_as(ActionEvent, record.value or b""), record.ingest_ms)
        except DecodeError:
            join.unusable += 1
    joined = join.result()
    audit = Audit(joined, join.actions)
    for record in read_topic(kafka, examples):
        try:
            audit.add(decode_as(ExampleBlock, record.value or b""))
        except DecodeError:
            audit.undecodable += 1
    return audit.report(), joined


def _show(values: Any) -> str:
    text = str(np.asarray(values).tolist())
    return text if len(text) <= 120 else f"{text[:117]}..."
