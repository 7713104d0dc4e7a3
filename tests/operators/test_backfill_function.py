"""A join of a range of requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rillet.joiner import JoinerConfig, RequestRange
from rillet.operators.backfill_function import BackfillFunction
from rillet.schemas import (
    SpecRegistry,
)
from tests.joiner.support import LATENESS_MS, SPEC, action, feature, key_of, stream
from tests.operators.joiner_runner import Runner, of, record
from tests.simulation.joiner_oracle import rows_of


class Backfill(Runner):
    """A join function that joins a range of requests."""

    requests = RequestRange(0, 1)

    def restart(self) -> None:
        self.function = BackfillFunction(
            self.requests, SpecRegistry(SPEC), self._config, self._flink, None, str(self._directory)
        )
        self.function.open(self.keyed)


def test_a_backfill_makes_the_rows_of_its_range_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, (features, _, arrivals) = JoinerConfig(slice_ms=5_000), stream(11, requests=80)
    times = sorted(event.event_time_ms for event in features)
    requests = RequestRange(times[20], times[60])
    monkeypatch.setattr(Backfill, "requests", requests)
    inside = {event.request_id for event in features if requests.wants(event, SPEC)}
    ranged, everything = Backfill(config, tmp_path / "range"), Runner(config, tmp_path / "all")
    newest_ms = 0
    for _, event_time_ms, data in arrivals:
        newest_ms = max(newest_ms, event_time_ms)
        for runner in (ranged, everything):
            runner.send(record(data, key_of(data), ingest=None))
            runner.advance(newest_ms - LATENESS_MS)
    for runner in (ranged, everything):
        runner.advance(newest_ms + 1_000_000)
    found = sorted(rows_of(SPEC, ranged.blocks))
    assert found == sorted(row for row in rows_of(SPEC, everything.blocks) if row[0] in inside)
    assert {row[0] for row in found} <= inside
    assert found


def test_actions_on_requests_after_the_range_are_no_dead_letters_of_a_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backfill, "requests", RequestRange(5_000, 20_000))
    runner = Backfill(JoinerConfig(buckets=1, slice_ms=5_000, action_wait_ms=10_000, waiting_bytes=2_000), tmp_path)
    runner.send(record(b"junk", b"r1"))
    runner.send(of(feature(9, 25_000)))
    for watermark_ms in (20_000, 31_000):
        runner.advance(watermark_ms)
        for number in range(6):
            runner.send(of(action(1_000 * watermark_ms + number, 0, "like", watermark_ms + 5_000)))
    runner.wait(1_000)
    kinds = [letter.reason.partition(":")[0] for letter in runner.letters]
    assert kinds == ["unknown schema", *["request_id"] * 4], "one before the range is settled may be on a request of it"
    assert (runner.metric("features"), runner.metric("orphan_actions")) == (0, 6)
