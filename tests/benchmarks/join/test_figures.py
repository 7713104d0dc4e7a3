"""What the figures of a run are made of, and the ratios of those that ran in one call."""

from __future__ import annotations

import numpy as np
import pytest

from rillet.benchmarks.join.figures import FROM, TO, Latency, Measured, Output, ratios
from rillet.benchmarks.join.process_tree import Sample, Usage
from rillet.benchmarks.join.shapes import Load
from rillet.benchmarks.join.topics import output_of
from rillet.connectors.topic_reader import TopicRecord

LOAD = Load(impressions=1_000_000, records=1_100_000, positives=100)
MIB = 1 << 20


def measured(
    contestant: str = "ours",
    shape: str = "request",
    *,
    seconds: float = 100.0,
    cores: float = 1.5,
    start_s: float = 20.0,
) -> Measured:
    """A run that is compiling for the first quarter, in which it uses twice the CPU time."""
    times = 1_000 + start_s + np.arange(100) / 100 * seconds
    busy_from = times[int(FROM * 100)]
    samples = [
        Sample(1_000.0, 0.0, 100 * MIB),
        Sample(float(busy_from), 2 * cores * float(busy_from - 1_000), 900 * MIB),
        Sample(
            float(times[-1]), 2 * cores * float(busy_from - 1_000) + cores * float(times[-1] - busy_from), 700 * MIB
        ),
    ]
    return Measured(contestant, shape, LOAD, Output(times, 100, 900), Usage(samples))


def test_speed_and_cpu_time_leave_out_the_start_and_the_first_quarter() -> None:
    one = measured(seconds=100.0, cores=1.5, start_s=20.0)
    assert one.span_s == pytest.approx((TO - FROM) * 100)
    assert one.impressions_per_s == pytest.approx(1_000_000 / 100)
    assert one.records_per_s == pytest.approx(1_100_000 / 100)
    # 1.5 cores for 100 s per million; the double of the first quarter is not in it.
    assert one.cpu_s_per_million == pytest.approx(150)
    assert one.cores == pytest.approx(1.5)
    assert one.start_up_s == pytest.approx(20)
    assert one.usage.peak_rss_bytes == 900 * MIB


def test_cpu_time_between_two_samples_lies_on_the_line_and_outside_of_them_stands() -> None:
    usage = Usage([Sample(10.0, 4.0, 0), Sample(20.0, 8.0, 0)])
    assert [usage.cpu_at(time_s) for time_s in (9.0, 10.0, 15.0, 20.0, 30.0)] == [0.0, 4.0, 6.0, 8.0, 8.0]


def test_another_number_of_positives_is_wrong_and_a_pass_through_has_none() -> None:
    one = measured()
    assert one.correct is True
    assert Measured("ours", "request", LOAD, Output(one.output.times_s, 99, 901), one.usage).correct is False
    without = Measured("passthrough", "request", LOAD, Output(one.output.times_s), one.usage)
    assert without.correct is None
    assert "positives" not in {figure.metric for figure in without.figures()}


def test_ratios_compare_cpu_time_and_speed_with_the_shape_that_a_peer_can_read() -> None:
    found = ratios(
        [
            measured("ours", "request", seconds=50, cores=1.0),
            measured("ours", "impression", seconds=200, cores=1.0),
            measured("flink-sql", "impression", seconds=400, cores=2.0),
        ]
    )
    assert set(found) == {
        "vs_flink_sql_request",
        "vs_flink_sql_request_wall",
        "vs_flink_sql_impression",
        "vs_flink_sql_impression_wall",
    }
    assert found["vs_flink_sql_request"] == pytest.approx(16)
    assert found["vs_flink_sql_request_wall"] == pytest.approx(8)
    assert found["vs_flink_sql_impression"] == pytest.approx(4)


def test_latencies_are_told_apart_from_the_commit_and_in_all() -> None:
    times = np.arange(1.0, 101.0)
    one = measured()
    with_latency = Measured("ours", "request", LOAD, one.output, one.usage, Latency(times, times + 2_500, 30_000.0))
    values = {figure.metric: figure.value for figure in with_latency.figures()}
    assert values["latency_to_broker_p50"] == pytest.approx(50.5)
    assert values["latency_to_reader_p99"] == pytest.approx(2_599.01)
    assert values["latency_rate"] == 30_000


def record(timestamp_ms: int, key: bytes) -> TopicRecord:
    return TopicRecord("examples", 0, 0, key, b"", timestamp_ms, -1)


def test_progress_is_told_by_the_positives_alone() -> None:
    rows = {b"p": (1, 0), b"n": (0, 1), b"block": (0, 250)}
    records = [record(3_000, b"p"), record(1_000, b"p"), record(500, b"n"), record(9_000, b"block")]
    output = output_of(records, lambda one: rows[one.key or b""])
    assert output is not None
    assert output.times_s.tolist() == [1.0, 3.0]
    assert (output.positives, output.negatives) == (2, 251)


def test_nothing_written_is_no_output() -> None:
    assert output_of([], lambda one: (1, 0)) is None
    passed = output_of([record(1_000, b"")], lambda one: None)
    assert passed is not None
    assert passed.positives is None
