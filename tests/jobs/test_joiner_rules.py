"""The rules of docs/join.md through real Flink: events out of order, early, late and misplaced."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from rillet.connectors.topic_reader import read_topic
from rillet.devstack.process import Process
from rillet.schemas import ActionEvent, FeatureEvent, LabelKind, dump_spec, encode, parse_spec
from tests.jobs.joiner_runs import FLINK, JOINER, START_MS, make_run, wait_until
from tests.joiner.support import SPEC, action, feature, with_labels

pytestmark = pytest.mark.integration


def test_out_of_order_early_late_and_misplaced_events_are_joined_by_the_rules(broker: str, tmp_path: Path) -> None:
    """Rules 3, 6 to 8, 11 and 13 of docs/join.md through real Flink: a task of aligned labels and one of immediate ones.

    A window is made to close before its late action.
    """
    spec = parse_spec(dump_spec(with_labels(SPEC, "aligned", "immediate")).replace('late = "drop"', 'late = "correct"'))
    made = make_run(tmp_path, broker, joiner=replace(JOINER, late_retention_ms=600_000), spec=spec)
    topics, requests = made.config.kafka.topics, 200
    producer = Producer({"bootstrap.servers": made.config.kafka.bootstrap_servers})

    def send(event: FeatureEvent | ActionEvent, key: str | None = None, ingest_ms: int | None = None) -> None:
        producer.produce(
            topics.features if isinstance(event, FeatureEvent) else topics.actions,
            key=(event.request_id if key is None else key).encode(),
            value=encode(event),
            timestamp=event.event_time_ms,
            headers=None if ingest_ms is None else [("ingest_ms", str(ingest_ms).encode())],
        )

    for request in range(requests):
        at = START_MS + request * 1_000
        shown = replace(feature(request, at, impressions=5), spec_hash=spec.hash)
        send(shown)
        send(replace(shown, request_id=f"other{request}"), key=shown.request_id)  # wrong key
        send(action(request, 0, "watch", at + 4_000))
        send(action(request, 0, "watch", at + 2_000))  # happened before the one above
        send(action(request, 1, "like", at - 8_000))  # too early
        send(action(request, 2, "like", at - 3_000))  # early by less than clocks may differ
        send(action(request, 3, "like", at + 1_000), key=f"other{request}")  # wrong key
        send(action(request, 3, "like", at + 1_000), ingest_ms=at - 100_000_000)  # more than a day ahead of the clock
    producer.flush(10)
    process = Process("join", tmp_path)
    process.start([*made.command, "--drain"])

    def sent(kind: LabelKind, request_id: str) -> bool:
        return any(
            block.request_ids[at] == request_id and of_row == kind
            for block in made.blocks()
            if block.mask[0]
            for at, of_row in zip(block.request_index, block.label_kind, strict=True)
        )

    try:
        wait_until(lambda: sent(LabelKind.NEGATIVE, "r0"), 90)
        for index in (3, 4):
            send(action(0, index, "watch", START_MS + 9_000))  # its window is closed
        producer.flush(10)
        wait_until(lambda: sent(LabelKind.LATE_POSITIVE, "r0"), 60)
    finally:
        process.stop(timeout_s=60)
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.early_actions, report.late_positive) == (requests, requests, 2)
    assert report.unusable_events == 3 * requests
    assert report.positive == 2 * requests + 2
    blocks = made.blocks()
    kinds = [Counter(int(k) for b in blocks if b.mask[task] for k in b.label_kind) for task in (0, 1)]
    assert kinds[0] == {
        LabelKind.POSITIVE: requests,
        LabelKind.NEGATIVE: kinds[0][LabelKind.NEGATIVE],
        LabelKind.LATE_POSITIVE: 2,
    }
    assert kinds[1] == {LabelKind.PROVISIONAL: 5 * requests, LabelKind.CORRECTION: requests}
    # Provisional negatives in one block per request; a positive with the negatives of its request.
    assert sum(1 for b in blocks if b.label_kind[0] == LabelKind.PROVISIONAL) == requests
    assert any({LabelKind.POSITIVE, LabelKind.NEGATIVE} <= set(b.label_kind.tolist()) for b in blocks if b.mask[0])
    letters = read_topic(made.config.kafka.bootstrap_servers, topics.dead_letters)
    assert sum(1 for _ in letters) == 3 * requests


def test_a_clock_that_is_ahead_makes_nothing_late_on_a_backlog(broker: str, tmp_path: Path) -> None:
    """Rules 3 and 11: what a record says of the time reached is bounded by when it was sent, not by when it is read."""
    made = make_run(tmp_path, broker)
    topics, requests = made.config.kafka.topics, 5_000
    producer = Producer({"bootstrap.servers": made.config.kafka.bootstrap_servers})

    def send(event: FeatureEvent | ActionEvent, sent_ms: int) -> None:
        producer.produce(
            topics.features if isinstance(event, FeatureEvent) else topics.actions,
            key=event.request_id.encode(),
            value=encode(event),
            timestamp=event.event_time_ms,
            headers=[("ingest_ms", str(sent_ms).encode())],
        )

    for request in range(requests):
        at = START_MS + request * 100
        send(feature(request, at, impressions=5), at + 5)
        send(action(request, 0, "watch", at + 4_000), at + 4_005)
        if 40 <= request < 50:  # on every partition
            send(feature(requests + request, at + 3_000_000, impressions=1), at + 5)
            send(action(request, 2, "watch", at + 3_000_000), at + 4_015)  # outside its window
            send(action(request, 1, "watch", at + 7_200_000), at + 4_010)  # refused
    assert producer.flush(10) == 0
    made.join("--until-latest", "--drain")
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.positive, report.late_dropped) == (requests + 10, requests, 0)
    assert report.unusable_events == 10


def test_a_drain_ends_though_one_topic_goes_on_long_after_the_end_of_the_other(broker: str, tmp_path: Path) -> None:
    """Topics are read side by side in event time, and the one that has ended would hold back the other for ever."""
    made = make_run(tmp_path, broker, flink=replace(FLINK, max_drift_ms=1_000))
    requests = 20  # on every partition
    shown = [feature(request, START_MS + request) for request in range(requests)]
    # More than what is fetched already when reading pauses.
    repeated = (action(i % requests, 0, "like", START_MS + 1_000 + 5 * i) for i in range(10_000))
    made.send([*shown, *repeated, action(0, 1, "like", START_MS + 59_000)])
    made.join("--until-latest", "--drain")
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    assert (report.requests, report.positive, report.late_dropped) == (requests, requests + 1, 0)
