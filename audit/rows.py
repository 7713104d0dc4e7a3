"""The audit: every example that should be on the examples topic is there, once, and right.

Compares example blocks row by row with the plain join of the same events: lost, duplicated, unexpected
and mislabelled rows, wrong rates, wrong columns, with a few offenders by name. Holds the expected events in
memory as arrays (about 350 bytes per impression and feature spec); examples are streamed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rillet.audit.columns import due_columns, due_fids, stack_columns
from rillet.audit.eras import Era, Share, only_era
from rillet.audit.expected import ExpectedExamples, row_kind
from rillet.audit.labels import Labels, judge_labels
from rillet.audit.report import AuditReport, Offender
from rillet.schemas import (
    ExampleBlock,
    FeatureSpec,
    LabelKind,
    RecordError,
)
from rillet.schemas.arrays import Bools, Int64s, range_indices, range_starts
from rillet.schemas.conversion import SpecConversion

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


class Audit:
    """Takes example blocks in any order; :meth:`report` says what was wrong with them all."""

    def __init__(
        self,
        expected: ExpectedExamples,
        actions: int = 0,
        *,
        allowed_late: int = 0,
        name_at_most: int = 5,
        era: Era | None = None,
        share: Share | None = None,
    ) -> None:
        """
        :param actions: action events read, for the report.
        :param allowed_late: ``late_actions`` that the joiner counted: so many positives may be missing as late.
        :param name_at_most: offenders named for each kind of problem.
        :param era: of the joiner in which the requests came; its only one by default.
        :param share: the requests that are judged; all by default.
        """
        self.expected = expected
        self.era = era or only_era(expected.spec)
        self._share = share
        #: example records that are no block of their spec
        self.undecodable = 0
        #: rows of specs that we are not told of, by hash
        self.unknown_specs: Counter[int] = Counter()
        #: faulty rows of each request, int64[R], and of requests that ``expected`` does not have; lost ones not among them
        self.faults: Int64s = np.zeros(len(expected.request_ids), np.int64)
        self.strange: Counter[str] = Counter()
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

    def add(self, block: ExampleBlock | None) -> None:
        """One block of the examples topic; None for a record that is none."""
        if block is None:
            self.undecodable += self._judges_the_rest
            return
        spec = self.era.specs.get(block.spec_hash)
        if spec is None:
            self._wrong_spec(block, told_of=False)
            return
        try:
            spec.check_block(block)
        except RecordError as error:
            if self._judges_the_rest:
                self.undecodable += 1
                self._name("undecodable", block.request_ids[0] if block.request_ids else "", -1, -1, str(error))
            return
        if block.spec_hash not in self.era.layouts:
            self._wrong_spec(block, told_of=True)
            return
        self._waiting.append(block)
        self._waiting_rows += len(block)
        if self._waiting_rows >= _CHUNK_ROWS:
            self._compare()

    def faulty_rows(self) -> tuple[Int64s, Int64s]:
        """Over all blocks so far of each request the faulty rows, lost ones too, and the pairs that pass as late: int64[R]."""
        self._compare()
        labels = self._labels()
        faults, dropped = self.faults.copy(), np.zeros_like(self.faults)
        wrong = labels.lost + labels.duplicated + labels.mislabelled + labels.unexpected
        np.add.at(faults, self.expected.request, wrong.sum(axis=1))
        np.add.at(dropped, self.expected.request, labels.late_dropped.sum(axis=1))
        return faults, dropped

    def _labels(self) -> Labels:
        return judge_labels(self.expected, self._positives, self._late, self._negatives, self.era.left_out)

    def report(self) -> AuditReport:
        """The result over all blocks so far."""
        self._compare()
        expected, labels = self.expected, self._labels()
        ours = np.ones(len(expected.request_ids), np.bool_)
        if self._share is not None:
            ours = np.array([one in self._share for one in expected.request_ids], np.bool_)
        of_ours = ours[expected.request]
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
            if problem == "dropped as late" and labels.late_dropped[of_ours].sum() <= self._allowed_late:
                continue
            for row, task in np.argwhere(wrong * of_ours[:, None])[: self._name_at_most]:
                self._name_row(problem, int(row), int(task), self._found(int(row), int(task)))
        offenders = tuple(offender for named in self._offenders.values() for offender in named)
        self._offenders = lasting
        found = {
            name: int(getattr(labels, name)[of_ours].sum())
            for name in (
                *("lost", "duplicated", "mislabelled", "unexpected"),
                *("late_positive", "late_dropped", "due", "left_out"),
            )
        }
        count = {name: self._count[name] + found.pop(name, 0) for name in self._count}
        spec = expected.spec
        return AuditReport(
            requests=int(ours.sum()),
            impressions=int(of_ours.sum()),
            actions=self._actions,
            expected=found.pop("due"),
            duplicate_features=expected.counts["duplicate_features"],
            orphan_actions=expected.counts["orphan_actions"],
            early_actions=expected.counts["early_actions"],
            unusable_events=expected.unusable,
            allowed_late=self._allowed_late,
            undecodable=self.undecodable,
            wrong_columns={name: count for name, count in self._wrong.items() if count},
            offenders=offenders,
            requests_by_spec={f"{spec.name} {spec.hash:#x}": int(ours.sum())},
            unknown_specs={f"{spec_hash:#x}": rows for spec_hash, rows in self.unknown_specs.items()},
            **found,
            **count,
        )

    @property
    def _judges_the_rest(self) -> bool:
        """Whether what belongs to no request is ours to tell."""
        return self._share is None or self._share.is_rest

    def _wrong_spec(self, block: ExampleBlock, *, told_of: bool) -> None:
        """Rows of a spec that we do not know, or that the joiner had only before their request came."""
        of_request = np.bincount(block.request_index, minlength=len(block.request_ids))
        for request_id, rows in zip(block.request_ids, of_request.tolist(), strict=True):
            if self._share is not None and request_id not in self._share:
                continue
            self._count["wrong_spec"] += rows
            if not told_of:
                self.unknown_specs[block.spec_hash] += rows
            self._blame(request_id, rows)
            joined = f", the request came under {self.era.spec.hash:#x}" if told_of else ""
            self._name("wrong spec", request_id, -1, -1, f"its row is of {block.spec_hash:#x}{joined}")

    def _blame(self, request_id: str, rows: int) -> None:
        number = self.expected.number_of.get(request_id)
        if number is None:
            self.strange[request_id] += rows
        else:
            self.faults[number] += rows

    def _compare(self) -> None:
        """Compares the waiting blocks, all their rows at once; those of each spec apart, since it says what columns mean."""
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        for spec_hash, conversion in self.era.layouts.items():
            if blocks := [block for block in waiting if block.spec_hash == spec_hash and len(block)]:
                self._compare_blocks(blocks, self.era.specs[spec_hash], conversion)

    def _compare_blocks(self, blocks: list[ExampleBlock], spec: FeatureSpec, conversion: SpecConversion | None) -> None:
        """Blocks of one spec.

        :param conversion: from the spec that their requests came under, None where it is the same one.
        """
        expected, tasks = self.expected, len(spec.tasks)
        column = stack_columns(blocks, expected, spec)
        rows = expected.find(column["request"], column["impression_ids"])
        mask, labels = column["mask"].reshape(-1, tasks), column["labels"].reshape(-1, tasks)
        one_task = (mask.sum(axis=1) == 1) & (mask.max(axis=1) == 1)
        task = mask.argmax(axis=1)
        label = labels[np.arange(len(labels)), task] == 1
        if conversion is not None:
            task = conversion.tasks[task]
        if self._share is None:
            ours = np.ones(len(rows), np.bool_)
        else:
            ours = np.array([one in self._share for one in column["request_ids"]])[column["request_at"]]
        self._count["found"] += int(ours.sum())
        self._count["positive"] += int((label & ours).sum())
        self._count["negative"] += int((~label & ours).sum())

        stray = ours & ((rows < 0) | ~one_task | (task < 0))
        for at in np.flatnonzero(stray)[: self._name_at_most]:
            if rows[at] < 0:
                detail = "no feature event has it"
            elif not one_task[at]:
                detail = f"task mask is {mask[at].tolist()}"
            else:
                name = spec.tasks[int(mask[at].argmax())].name
                detail = f"the request came under {self.era.spec.hash:#x}, which has no task {name}"
            request_id = column["request_ids"][column["request_at"][at]]
            self._name("unexpected", request_id, int(column["impression_ids"][at]), -1, detail)
        known = column["request"] >= 0
        np.add.at(self.faults, column["request"][stray & known], 1)
        self.strange.update(column["request_ids"][at] for at in column["request_at"][stray & ~known].tolist())
        self._count["unexpected"] += int(stray.sum())
        keep = np.flatnonzero(ours & ~stray)
        if not len(keep):
            return
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
        # Provisional rows go out with the request, so their spec is the one that it came under.
        provisional = column["label_kind"][keep] == LabelKind.PROVISIONAL
        self._count["wrong_spec"] += self._note(
            "wrong spec",
            provisional & (conversion is not None),
            rows,
            task,
            lambda _: f"its provisional row is of {spec.hash:#x}, the request came under {self.era.spec.hash:#x}",
        )
        self._compare_columns(column, keep, rows, task, label, conversion)
        self._compare_fids(column, keep, rows, task, conversion)
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

    def _compare_columns(
        self,
        column: dict[str, Any],
        keep: Int64s,
        rows: Int64s,
        task: Int64s,
        label: Bools,
        conversion: SpecConversion | None,
    ) -> None:
        is_late = label & (column["label_kind"][keep] == LabelKind.LATE_POSITIVE)
        due = due_columns(self.expected, rows, task, label, conversion)
        # Where an action can have been late, a row may say so.
        late = is_late & (self.expected.marks_late & self.expected.may_be_late)[rows, task]
        due["label_kind"] = np.where(late, np.uint8(LabelKind.LATE_POSITIVE), self._kinds[task, label.astype(np.int64)])
        total = len(column["impression_ids"])
        # A positive without an action is mislabelled; what follows from its label is not counted again.
        right = ~label | self.expected.positive[rows, task]
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

    def _compare_fids(
        self, column: dict[str, Any], keep: Int64s, rows: Int64s, task: Int64s, conversion: SpecConversion | None
    ) -> None:
        fids, lengths = due_fids(self.expected, self.expected.request[rows], rows, conversion)
        found_lengths = column["lengths"].reshape(-1, lengths.shape[1])[keep]
        wrong = (found_lengths != lengths).any(axis=1) | ~column["has_lengths"][keep]
        self._wrong["lengths"] += self._note(
            "wrong lengths", wrong, rows, task, lambda i: f"{_show(found_lengths[i])}, due {_show(lengths[i])}"
        )
        # Fids are compared where as many are there as are due; else the lengths are wrong, counted above.
        sizes, counts = lengths.sum(axis=1, dtype=np.int64), column["fid_counts"][keep]
        starts, found_starts = range_starts(sizes), column["fid_ends"][keep] - counts
        same = np.flatnonzero(counts == sizes)
        due = fids[range_indices(starts[same], sizes[same])]
        found = column["fids"][range_indices(found_starts[same], sizes[same])]
        differs = counts != sizes
        differs[np.repeat(same, sizes[same])[found != due]] = True
        self._wrong["fids"] += self._note(
            "wrong fids",
            differs,
            rows,
            task,
            lambda i: (
                f"{_show(column['fids'][found_starts[i] : found_starts[i] + counts[i]])}, "
                f"due {_show(fids[starts[i] : starts[i] + sizes[i]])}"
            ),
        )

    def _note(self, problem: str, wrong: Bools, rows: Int64s, task: Int64s, detail: Any) -> int:
        """Names the first few of the wrong rows; returns how many there are."""
        at = np.flatnonzero(wrong)
        np.add.at(self.faults, self.expected.request[rows[at]], 1)
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


def _show(values: Any) -> str:
    text = str(np.asarray(values).tolist())
    return text if len(text) <= 120 else f"{text[:117]}..."
