"""The plain join: which records it uses, what it counts, and pairs that are found whatever their ids are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rillet.audit.comparison import audit_examples
from rillet.audit.expected import find_pairs
from rillet.audit.plain_join import PlainJoin
from rillet.connectors.topic_reader import UNREADABLE_MS
from rillet.schemas import ExampleBlock, FeatureEvent, encode
from tests.joiner.blocks import example_blocks
from tests.joiner.support import SPEC, action, feature

IDS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.integers(0, 5), IDS), unique=True), st.lists(st.tuples(st.integers(-1, 6), IDS)))
def test_pairs_are_found_whatever_the_ids(pairs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    wanted = pairs[::2] + others
    known, asked = (np.array(p, np.int64).reshape(len(p), 2) for p in (pairs, wanted))
    found = find_pairs(known[:, 0], known[:, 1], asked[:, 0], asked[:, 1])
    assert found.tolist() == [pairs.index(pair) if pair in pairs else -1 for pair in wanted]


def block() -> ExampleBlock:
    return example_blocks(SPEC, [feature(1, 5_000)], [])[0]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (None, b"r1"),
        (b"", b"r1"),
        (encode(feature(1, 5_000))[:-1], b"r1"),
        (encode(block()), b"r1"),
        (encode(feature(1, 5_000)), None),
        (encode(feature(1, 5_000)), b"r2"),
        (encode(action(1, 0, "watch", 6_000)), b""),
        (encode(replace(feature(1, 5_000), spec_hash=3)), b"r1"),
    ],
)
def test_a_dead_letter_is_counted_and_makes_nothing(value: bytes | None, key: bytes | None) -> None:
    join = PlainJoin(SPEC)
    join.add_record(value, key)
    expected = join.result()
    assert (expected.unusable, join.actions, expected.request_ids) == (1, 0, [])


def test_a_header_that_is_no_time_makes_a_dead_letter_as_in_the_joiner() -> None:
    join = PlainJoin(SPEC)
    join.add_record(encode(feature(1, 5_000)), b"r1", UNREADABLE_MS)
    assert (join.result().request_ids, join.unusable) == ([], 1)


def test_an_event_far_ahead_of_its_ingestion_is_a_dead_letter() -> None:
    join = PlainJoin(SPEC, max_ahead_ms=100)
    for request, ingest_ms in ((1, 4_899), (2, 4_900), (3, -1)):
        join.add_record(encode(feature(request, 5_000)), f"r{request}".encode(), ingest_ms)
    expected = join.result()
    assert expected.request_ids == ["r2", "r3"]
    assert expected.feature_ingest_ms.tolist() == [4_900, -1]


def test_what_makes_no_label_is_counted_by_the_joiner_s_names() -> None:
    join = PlainJoin(SPEC)
    shown: FeatureEvent = feature(1, 10_000)
    for event in (shown, shown):
        join.add_feature(event)
    for name, index, time_ms in (
        ("watch", 0, 11_000),
        ("watch", 0, 10_500),
        ("watch", 1, 4_999),
        ("watch", 1, 20_000),
        ("watch", 9, 11_000),
        ("scroll", 0, 11_000),
    ):
        join.add_action(action(1, index, name, time_ms))
    join.add_action(action(2, 0, "like", 11_000))
    expected = join.result()
    assert expected.counts == {
        "duplicate_features": 1,
        "duplicate_actions": 1,
        "early_actions": 1,
        "outside_window": 1,
        "unknown_impressions": 1,
        "unknown_actions": 1,
        "orphan_actions": 1,
        "incomplete_actions": 0,
        "ungathered_actions": 0,
    }
    assert expected.positive.tolist() == [[True, False], [False, False], [False, False]]
    assert expected.action_time_ms[0, 0] == 11_000


@pytest.mark.parametrize(
    ("before", "idle_delay_ms", "may_be_late"),
    [
        # (topic, partition) of a record past the window of an action on partition 1 of the actions topic
        (("actions", 1), None, True),
        (("actions", 0), None, False),
        (("features", 1), None, False),
        (None, None, False),
        (("actions", 0), 0, True),
        (None, 0, True),
    ],
)
def test_only_a_record_before_it_in_its_partition_can_have_made_an_action_late(
    before: tuple[str, int] | None, idle_delay_ms: int | None, may_be_late: bool
) -> None:
    join = PlainJoin(SPEC, lateness_ms=3_000, idle_delay_ms=idle_delay_ms)
    join.add_record(encode(feature(1, 5_000)), b"r1", timestamp_ms=5_000, topic="features", partition=1)
    if before is not None:
        join.add_record(b"junk", None, timestamp_ms=18_000, topic=before[0], partition=before[1])
    late = encode(action(1, 0, "watch", 6_000))
    join.add_record(late, b"r1", timestamp_ms=6_000, topic="actions", partition=1)
    # The topic goes on, far past the window, in the same partition too.
    join.add_record(b"junk", None, timestamp_ms=99_000, topic="actions", partition=1)
    assert join.result().may_be_late[0, 0] == may_be_late


@pytest.mark.parametrize(("ingest_ms", "may_be_late"), [(17_499, False), (17_500, True), (-1, True)])
def test_an_action_that_came_in_time_was_not_late_whatever_other_partitions_had_later(
    ingest_ms: int, may_be_late: bool
) -> None:
    """The window ends at 15,000, the watermark is 3,000 behind, and a record is on its topic after 500 ms."""
    join = PlainJoin(SPEC, lateness_ms=3_000, idle_delay_ms=500)
    join.add_record(encode(feature(1, 5_000)), b"r1", timestamp_ms=5_000, topic="features")
    join.add_record(encode(action(1, 0, "watch", 6_000)), b"r1", ingest_ms, timestamp_ms=6_000, topic="actions")
    join.add_record(b"junk", None, timestamp_ms=99_000, topic="actions", partition=1)
    assert join.result().may_be_late[0, 0] == may_be_late


def test_the_missing_rows_of_a_partition_that_was_not_read_are_lost_and_not_late() -> None:
    spec = replace(SPEC, tasks=tuple(replace(task, labels="positives_first", late="drop") for task in SPEC.tasks))
    join = PlainJoin(spec, lateness_ms=3_000, idle_delay_ms=500)
    join.add_record(encode(replace(feature(1, 5_000), spec_hash=spec.hash)), b"r1", 5_000, 5_000, topic="features")
    for name in ("watch", "like"):
        join.add_record(encode(action(1, 0, name, 6_000)), b"r1", 6_000, 6_000, topic="actions")
    join.add_record(b"junk", None, 999_000, 999_000, topic="actions", partition=1)
    report = audit_examples(join.result(), [], join.actions, allowed_late=10)
    assert (report.ok, report.late_dropped) == (False, 0)


def test_the_arrival_of_the_first_action_on_a_pair_decides_whether_it_may_be_late() -> None:
    join = PlainJoin(SPEC)
    join.add_feature(feature(1, 5_000))
    for time_ms in (6_000, 7_000):
        join.add_record(encode(action(1, 0, "watch", time_ms)), b"r1", timestamp_ms=99_000)
    assert not join.result().may_be_late.any()


def test_nothing_at_all_is_a_join_too() -> None:
    expected = PlainJoin(SPEC).result()
    assert expected.negative.shape == expected.positive.shape == (0, 2)
    assert expected.find(np.array([0]), np.array([100])).tolist() == [-1]
