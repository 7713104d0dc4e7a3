"""A spec that was changed under traffic: each request is judged under the spec that it came under, and all of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rillet.audit.comparison import audit_eras
from rillet.audit.eras import SpecSequence, find_eras, make_eras
from rillet.audit.errors import AuditError
from rillet.audit.plain_join import PlainJoin
from rillet.audit.report import AuditReport
from rillet.schemas import DenseFeature, ExampleBlock, FeatureSpec, LabelKind, Slot, Task, encode
from rillet.schemas.conversion import SpecConversion, without_idle_rows
from tests.audit.faultless import ACTIONS, FEATURES, SPEC, as_negative
from tests.joiner.blocks import example_blocks
from tests.joiner.support import with_labels

WATCH, LIKE = SPEC.tasks
#: another slot on each side, a dense feature, another task, other rates, another window; tasks in another order
CHANGED = replace(
    SPEC,
    context=(Slot("device", 7, "token", 2), *SPEC.context),
    item=(*SPEC.item, Slot("shop", 20, "id")),
    dense=(DenseFeature("price"),),
    tasks=(Task("quick", "watch", 4_500), replace(LIKE, negative_rate=0.75), replace(WATCH, window_ms=4_500)),
)
IMMEDIATE = with_labels(SPEC, "immediate"), with_labels(CHANGED, "immediate")
LATER = {"positives_first": (SPEC, CHANGED), "immediate": IMMEDIATE}
#: of the requests; the joiner was stopped between them
CUT = 6


@dataclass(frozen=True)
class Rolling:
    """What a faultless joiner makes of the recorded events when its spec changes halfway."""

    old: FeatureSpec
    new: FeatureSpec
    #: rows of the second half, and those of the first that went out late, are of ``new``
    blocks: list[ExampleBlock]
    #: bytes of the feature events: every third producer is on the other spec than the joiner
    sent: list[bytes]

    def audit(self, blocks: list[ExampleBlock] | None = None, *, current: FeatureSpec | None = None) -> AuditReport:
        specs = [self.new, self.old] if current is self.old else [self.old, self.new]
        joins = [PlainJoin(spec, also_accepts=specs) for spec in specs]
        for join in joins:
            for event, data in zip(FEATURES, self.sent, strict=True):
                join.add_record(data, event.request_id.encode(), 77, topic="features")
            for action in ACTIONS:
                join.add_action(action, 77)
        found = self.blocks if blocks is None else blocks
        return audit_eras([join.result() for join in joins], lambda: [(0, block) for block in found], len(ACTIONS))

    def first(self, request: int, kind: LabelKind) -> int:
        """The first row of a kind of a request."""
        wanted = (f"r{request}", kind)
        return next(i for i, b in enumerate(self.blocks) if (b.request_ids[0], b.label_kind[0]) == wanted)

    def changed(self, at: int, *rows: ExampleBlock) -> list[ExampleBlock]:
        return [*self.blocks[:at], *rows, *self.blocks[at + 1 :]]


def roll(old: FeatureSpec, new: FeatureSpec) -> Rolling:
    forth, back = SpecConversion(old, new), SpecConversion(new, old)
    events = [replace(event, spec_hash=old.hash) for event in FEATURES]
    sent = [forth.feature(e) if (n >= CUT) is not (n % 3 == 0) else e for n, e in enumerate(events)]
    # What an old producer sends has no values of the new slots, and what a new one sends loses them at an old joiner.
    before = [e if e.spec_hash == old.hash else back.feature(e) for e in sent[:CUT]]
    after = [e if e.spec_hash == new.hash else forth.feature(e) for e in sent[CUT:]]
    early, late = [], []
    for number, block in enumerate(example_blocks(old, before, ACTIONS, ingest_ms=77)):
        if block.label_kind[0] == LabelKind.PROVISIONAL or number % 2:
            early.append(block)
        else:
            late.append(without_idle_rows(forth.block(block)))
    late = [block for block in late if len(block)]
    return Rolling(
        old, new, [*early, *example_blocks(new, after, ACTIONS, ingest_ms=77), *late], [encode(e) for e in sent]
    )


ROLLING = {name: roll(*specs) for name, specs in LATER.items()}
modes = pytest.mark.parametrize("mode", list(ROLLING))
#: of a request from before and from after the change
either = pytest.mark.parametrize("request_number", [2, 9])
POSITIVE = {"positives_first": LabelKind.POSITIVE, "immediate": LabelKind.CORRECTION}
NEGATIVE = {"positives_first": LabelKind.NEGATIVE, "immediate": LabelKind.PROVISIONAL}


@modes
def test_every_request_is_judged_under_the_spec_that_it_came_under(mode: str) -> None:
    rolling = ROLLING[mode]
    assert {block.spec_hash for block in rolling.blocks if block.request_ids[0] < "r6"} > {rolling.new.hash}
    report = rolling.audit()
    assert report.ok, report.lines()
    assert report.expected == report.found == len(rolling.blocks)
    assert report.requests == len(FEATURES)
    assert list(report.requests_by_spec.values()) == [CUT, len(FEATURES) - CUT]
    assert f"{CUT} under {SPEC.name} {rolling.old.hash:#x}, {len(FEATURES) - CUT} under" in report.lines()[0]
    assert "the joiner's spec changed once" in report.lines()[0]


def _with(**columns: Callable[[np.ndarray], np.ndarray]) -> Callable[[ExampleBlock], ExampleBlock]:
    return lambda block: replace(block, **{name: change(getattr(block, name)) for name, change in columns.items()})


@modes
@either
@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("wrong_rate", _with(sampling_rate=lambda rate: rate / 2)),
        ("fids", _with(context_fids=lambda fids: fids + 1)),
        ("fids", _with(item_fids=lambda fids: fids - 1)),
        ("feature_time_ms", _with(feature_time_ms=lambda ms: ms + 1)),
        ("action_time_ms", _with(action_time_ms=lambda ms: ms + 1)),
        ("label_kind", _with(label_kind=lambda kind: kind * 0 + np.uint8(LabelKind.LATE_POSITIVE))),
        ("bucket", lambda block: replace(block, bucket=3)),
    ],
)
def test_a_changed_row_is_found_under_either_spec(
    mode: str, request_number: int, problem: str, change: Callable[[ExampleBlock], ExampleBlock]
) -> None:
    rolling = ROLLING[mode]
    at = rolling.first(request_number, POSITIVE[mode])
    report = rolling.audit(rolling.changed(at, change(rolling.blocks[at])))
    counts = {"wrong_rate": report.wrong_rate, **report.wrong_columns}
    assert not report.ok
    # Of the rows of a request the first says which bucket is right.
    assert counts.get(problem, 0) >= 1
    assert {name for name, count in counts.items() if count} == {problem}
    assert {offender.request_id for offender in report.offenders} == {f"r{request_number}"}
    assert (report.lost, report.unexpected, report.mislabelled, report.wrong_spec) == (0, 0, 0, 0)


@modes
@either
@pytest.mark.parametrize("kinds", [POSITIVE, NEGATIVE])
def test_a_lost_and_a_doubled_row_are_found_under_either_spec(
    mode: str, request_number: int, kinds: dict[str, LabelKind]
) -> None:
    rolling = ROLLING[mode]
    at = rolling.first(request_number, kinds[mode])
    lost = rolling.audit(rolling.changed(at))
    assert (lost.lost, lost.duplicated, lost.unexpected, lost.ok) == (1, 0, 0, False)
    doubled = rolling.audit(rolling.changed(at, rolling.blocks[at], rolling.blocks[at]))
    assert (doubled.lost, doubled.duplicated, doubled.unexpected, doubled.ok) == (0, 1, 0, False)
    assert lost.offenders[0].request_id == doubled.offenders[0].request_id == f"r{request_number}"


@either
def test_a_positive_sent_as_a_negative_is_mislabelled_under_either_spec(request_number: int) -> None:
    rolling = ROLLING["positives_first"]
    at = rolling.first(request_number, LabelKind.POSITIVE)
    wrong = replace(as_negative(rolling.blocks[at]), labels=np.zeros_like(rolling.blocks[at].labels))
    report = rolling.audit(rolling.changed(at, wrong))
    assert (report.mislabelled, report.lost, report.ok) == (1, 0, False)


@modes
@either
def test_a_request_that_was_lost_as_a_whole_is_found_under_either_spec(mode: str, request_number: int) -> None:
    rolling = ROLLING[mode]
    rest = [block for block in rolling.blocks if block.request_ids[0] != f"r{request_number}"]
    report = rolling.audit(rest)
    assert report.lost == len(rolling.blocks) - len(rest) > 0
    assert not report.ok


@modes
def test_rows_of_a_task_that_the_request_did_not_come_under_are_unexpected(mode: str) -> None:
    rolling = ROLLING[mode]
    event = SpecConversion(rolling.old, rolling.new).feature(replace(FEATURES[2], spec_hash=rolling.old.hash))
    quick = next(b for b in example_blocks(rolling.new, [event], ACTIONS, ingest_ms=77) if b.mask[0])
    report = rolling.audit([*rolling.blocks, quick])
    assert (report.unexpected, report.lost, report.ok) == (1, 0, False)
    assert "which has no task quick" in str(report.offenders[0])


@modes
def test_rows_by_the_rules_of_the_other_spec_are_found(mode: str) -> None:
    """A joiner that goes over to the new rules in the middle of a request: other rates, another window."""
    rolling = ROLLING[mode]
    event = SpecConversion(rolling.old, rolling.new).feature(replace(FEATURES[2], spec_hash=rolling.old.hash))
    mixed = [block for block in rolling.blocks if block.request_ids[0] != "r2"]
    report = rolling.audit([*mixed, *example_blocks(rolling.new, [event], ACTIONS, ingest_ms=77)])
    assert not report.ok
    assert {offender.request_id for offender in report.offenders} == {"r2"}


def test_a_provisional_row_names_the_spec_that_its_request_came_under() -> None:
    rolling = ROLLING["immediate"]
    at = rolling.first(2, LabelKind.PROVISIONAL)
    moved = SpecConversion(rolling.old, rolling.new).block(rolling.blocks[at])
    report = rolling.audit(rolling.changed(at, moved))
    assert (report.wrong_spec, report.lost, report.ok) == (1, 0, False)
    assert "its provisional row is of" in str(report.offenders[0])


@modes
def test_a_row_of_a_spec_that_the_joiner_no_longer_had_is_found(mode: str) -> None:
    rolling = ROLLING[mode]
    back = SpecConversion(rolling.new, rolling.old)
    at, moved = next(
        (at, back.block(block))
        for at, block in enumerate(rolling.blocks)
        if block.request_ids == ["r9"] and block.labels.any() and not block.mask[0]
    )
    assert len(without_idle_rows(moved)) == 1
    rest = rolling.changed(at)
    report = rolling.audit([moved, *rest])
    assert (report.wrong_spec, report.lost, report.ok) == (1, 1, False)
    assert f"its row is of {rolling.old.hash:#x}, the request came under {rolling.new.hash:#x}" in report.lines()[1]
    # Among rows of the new spec it says that the joiner had the old one again for a while, and that is told.
    swapped = rolling.audit([*rest, moved, rest[-1]])
    assert "the joiner's spec changed 3 times" in swapped.lines()[0]


@modes
@pytest.mark.parametrize("number", range(len(FEATURES)))
def test_any_row_that_is_lost_is_found(mode: str, number: int) -> None:
    """At the change itself too: a request that lost a row is not explained by the other spec."""
    rolling = ROLLING[mode]
    at = next(at for at, block in enumerate(rolling.blocks) if block.request_ids[0] == f"r{number}")
    report = rolling.audit(rolling.changed(at))
    assert report.lost == 1
    assert not report.ok


def test_rows_that_all_went_out_after_the_change_are_judged_under_the_spec_of_before() -> None:
    rolling = ROLLING["positives_first"]
    forth = SpecConversion(rolling.old, rolling.new)
    after = [forth.block(block) if block.spec_hash == rolling.old.hash else block for block in rolling.blocks]
    report = rolling.audit(after)
    assert report.ok, report.lines()
    assert list(report.requests_by_spec.values()) == [CUT, len(FEATURES) - CUT]
    lost = rolling.audit(after[1:])
    assert (lost.lost, lost.ok) == (1, False)


def test_rows_of_a_task_that_was_taken_away_may_be_missing_and_may_not_be_wrong() -> None:
    without = replace(SPEC, tasks=(WATCH,))
    rolling = roll(SPEC, without)
    report = rolling.audit()
    assert report.ok, report.lines()
    likes = [b for b in example_blocks(SPEC, FEATURES[:CUT], ACTIONS) if b.mask[1]]
    assert 0 < report.left_out < len(likes)
    assert f"{report.left_out} rows were left out, of tasks that a later spec does not have" in report.lines()[0]
    at = next(at for at, b in enumerate(rolling.blocks) if b.spec_hash == SPEC.hash and b.mask[1] and b.labels[1])
    wrong = replace(as_negative(rolling.blocks[at]), bucket=rolling.blocks[at].bucket)
    assert rolling.audit(rolling.changed(at, wrong)).mislabelled == 1
    assert rolling.audit([*rolling.blocks, rolling.blocks[at]]).duplicated == 1


@pytest.mark.parametrize(
    ("between", "found"),
    [
        (replace(SPEC, tasks=(replace(WATCH, window_ms=4_500),)), True),
        # Its requests are right under the spec of before as well, with all rows of the task left out.
        (replace(SPEC, tasks=(WATCH,)), False),
    ],
)
def test_a_lost_row_of_a_task_that_came_back_is_found_where_something_else_tells_the_eras_apart(
    between: FeatureSpec, found: bool
) -> None:
    swapped = [SpecConversion(SPEC, between).feature(event) for event in FEATURES[4:8]]
    parts = ((SPEC, FEATURES[:4]), (between, swapped), (SPEC, FEATURES[8:]))
    blocks = [block for spec, events in parts for block in example_blocks(spec, events, ACTIONS, ingest_ms=77)]
    rolling = Rolling(between, SPEC, blocks, [encode(event) for event in FEATURES])
    assert rolling.audit().ok
    assert rolling.audit().left_out == 0
    at = next(at for at, b in enumerate(blocks) if b.request_ids == ["r10"] and b.mask.tolist() == [0, 1])
    report = rolling.audit(rolling.changed(at))
    assert (report.lost, report.ok) == ((1, False) if found else (0, True))
    assert found or report.left_out > 1


def test_provisional_rows_of_a_task_that_was_taken_away_have_to_be_there() -> None:
    old, new = IMMEDIATE[0], replace(IMMEDIATE[0], tasks=IMMEDIATE[0].tasks[:1])
    rolling = roll(old, new)
    assert rolling.audit().ok
    at = next(at for at, b in enumerate(rolling.blocks) if b.label_kind[0] == LabelKind.PROVISIONAL and b.mask[-1])
    assert (rolling.blocks[at].spec_hash, rolling.blocks[at].mask.tolist()) == (old.hash, [0, 1])
    assert rolling.audit(rolling.changed(at)).lost == 1


def test_rows_of_a_spec_that_nobody_named_are_told_in_one_sentence_with_the_remedy() -> None:
    rolling = ROLLING["positives_first"]
    join = PlainJoin(rolling.new)
    for event, data in zip(FEATURES, rolling.sent, strict=True):
        join.add_record(data, event.request_id.encode(), 77)
    report = audit_eras([join.result()], lambda: [(0, block) for block in rolling.blocks])
    of_old = sum(block.spec_hash == SPEC.hash for block in rolling.blocks)
    assert not report.ok
    assert report.unknown_specs == {f"{SPEC.hash:#x}": of_old}
    assert report.lines() == [
        f"audit: {of_old} rows are of feature spec {SPEC.hash:#x}, which the audit is not told of, so nothing was judged:"
        " name its file in also_accepts of rillet.toml, or with --also-accepts, and audit again"
    ]


def test_a_spec_that_was_never_used_changes_nothing() -> None:
    join = [PlainJoin(spec, also_accepts=[SPEC, CHANGED]) for spec in (CHANGED, SPEC)]
    for one in join:
        for event in FEATURES:
            one.add_record(encode(event), event.request_id.encode(), 77)
        for action in ACTIONS:
            one.add_action(action, 77)
    joined = [one.result() for one in join]
    blocks = example_blocks(SPEC, FEATURES, ACTIONS, ingest_ms=77)
    report = audit_eras(joined, lambda: [(0, block) for block in blocks])
    assert report.ok
    assert list(report.requests_by_spec.values()) == [len(FEATURES)]
    assert "requests joined" not in report.lines()[0]
    for at in range(len(blocks)):
        assert audit_eras(joined, lambda at=at: [(0, b) for b in blocks[:at] + blocks[at + 1 :]]).lost == 1


def test_blocks_that_are_none_and_rows_of_nobody_count_once() -> None:
    rolling = ROLLING["positives_first"]
    stranger = replace(rolling.blocks[0], request_ids=["nobody"])
    torn = replace(rolling.blocks[0], mask=rolling.blocks[0].mask[:1])
    joins = [PlainJoin(spec, also_accepts=[rolling.old, rolling.new]) for spec in (rolling.old, rolling.new)]
    blocks: list[tuple[int, ExampleBlock | None]] = [(0, None), (0, torn), (0, stranger), (0, rolling.blocks[-1])]
    report = audit_eras([join.result() for join in joins], lambda: blocks, unusable=3)
    assert report.undecodable == 2
    assert report.unusable_events == 3
    assert (report.wrong_spec, report.unexpected) == (1, 1)
    assert {offender.request_id for offender in report.offenders} == {
        "nobody",
        *rolling.blocks[-1].request_ids,
        *torn.request_ids,
    }


def test_the_order_of_specs_is_that_of_every_partition() -> None:
    sequence = SpecSequence([1, 2, 3])
    for partition, spec_hash in ((0, 1), (0, 1), (0, 2), (1, 2), (1, 9), (1, 2), (2, 1), (2, 3)):
        sequence.add(partition, spec_hash)
    assert sequence.history() == [1, 2, 3]
    assert sequence.changes == 2
    swapped = SpecSequence([2, 1])
    for spec_hash in (1, 2, 1):
        swapped.add(0, spec_hash)
    assert swapped.history() == [1, 2, 1]
    # Each on a partition of its own: the newest is the last.
    apart = SpecSequence([2, 1])
    for partition, spec_hash in ((0, 1), (1, 2)):
        apart.add(partition, spec_hash)
    assert apart.history() == [2, 1]
    assert SpecSequence([5, 6]).history() == [5, 6]
    assert SpecSequence([5, 6]).changes == 0


def test_two_joiners_at_a_time_are_told_as_such() -> None:
    sequence = SpecSequence([1, 2])
    for number in range(32):
        sequence.add(3, 1 + number % 2)
    with pytest.raises(
        AuditError, match=r"rows of 2 feature specs take turns more than 31 times in partition 3 .* two joiners"
    ):
        sequence.add(3, 1)


def test_eras_begin_where_the_fewest_faults_are_left_and_never_go_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        faults = rng.integers(0, 4, (7, 3))
        found = find_eras(faults)
        assert (np.diff(found) >= 0).all()
        best = min(
            faults[:a, 0].sum() + faults[a:b, 1].sum() + faults[b:, 2].sum() for a in range(8) for b in range(a, 8)
        )
        assert faults[np.arange(7), found].sum() == best
    assert find_eras(np.zeros((0, 2), np.int64)).tolist() == []


def test_a_task_is_left_out_from_the_first_spec_that_lacks_it() -> None:
    without = replace(SPEC, tasks=(WATCH,))
    eras = make_eras([SPEC, without, SPEC], [SPEC, without])
    assert [era.left_out.tolist() for era in eras] == [[False, True], [False], [False, False]]
    assert [list(era.layouts) for era in eras] == [[SPEC.hash, without.hash], [without.hash, SPEC.hash], [SPEC.hash]]
