"""The joiner as its operator meets it: what it tells of wrong records, and how a signal and a changed spec end it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from rillet.connectors.dead_letters import read_dead_letters
from rillet.devstack.own_files import JOINER as JOINER_FILES
from rillet.devstack.own_files import OwnFolder
from rillet.devstack.process import free_port
from rillet.jobs.config import HealthConfig, dump_config
from rillet.joiner import JoinerConfig
from rillet.schemas import LabelKind, SpecRegistry, dump_spec, encode, parse_spec
from tests.jobs.joiner_runs import FLINK, make_run, wait_until
from tests.joiner.support import SPEC, action, feature
from tests.simulation.joiner_oracle import oracle, rows_of

pytestmark = pytest.mark.integration


def test_a_quiet_site_a_mistake_and_a_changed_spec(broker: str, tmp_path: Path) -> None:
    """A day of the operator: wrong records are told, windows close in silence, a signal ends all, a spec is replaced."""
    flink = replace(FLINK, lateness_ms=1_000, idle_ms=2_000)
    made = make_run(
        tmp_path,
        broker,
        joiner=JoinerConfig(slice_ms=1_000, action_wait_ms=60_000),
        flink=flink,
        health=HealthConfig(join_port=free_port(), train_port=0),
    )
    spec_file, topics = made.path.parent / "spec.toml", made.config.kafka.topics
    other = parse_spec(dump_spec(SPEC).replace("max_values = 3", "max_values = 4"))
    producer = Producer({"bootstrap.servers": broker})

    def metrics() -> str:
        url = f"http://127.0.0.1:{made.config.health.join_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return ""

    def gauge(name: str, text: str) -> float:
        found = re.search(rf"^rillet_joiner_{name}_seconds (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    now_ms = time.time_ns() // 1_000_000
    made.send([feature(request, now_ms, impressions=5) for request in range(60)])
    made.send([action(request, 0, "WATCH", now_ms) for request in range(60)])
    made.send([action(request, 1, "watch", now_ms) for request in range(10)])
    for number in range(90, 100):
        value = encode(feature(number, now_ms // 1_000))
        producer.produce(topics.features, key=f"r{number}".encode(), value=value, timestamp=now_ms)
    assert producer.flush(10) == 0
    log = tmp_path / "log"
    with log.open("w") as written:
        running = subprocess.Popen(made.command, stdout=written, stderr=written, start_new_session=True)
    try:
        # The ten seconds of "watch", silence of two more, the lateness, and nothing else comes.
        wait_until(
            lambda: running.poll() is not None or any(LabelKind.NEGATIVE in b.label_kind for b in made.blocks()), 90
        )
        assert running.poll() is None, log.read_text()
        unknown = 'rillet_joiner_unknown_actions_total{action="WATCH"}'
        wait_until(lambda: f"{unknown} 60.0" in metrics(), 20)
        # Counters are read one after the other while records come: a share may be told of the next stretch only.
        made.send([action(request, 2, "WATCH", now_ms) for request in range(60)])
        wait_until(lambda: f"{unknown} 120.0" in metrics(), 20)
        wait_until(lambda: "which no task asks for" in log.read_text(), 20)
        wait_until(lambda: abs(gauge("next_close", metrics()) - now_ms / 1_000 - 60) <= 1, 20)  # the windows of "like"
        found = metrics()
        second = made.run_join()
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        ended = running.wait(60)
    told = log.read_text()
    assert ended == 0, told
    assert "stopped with savepoint" in told
    assert not any(noise in told for noise in ("Traceback", "py4j", "CANNOT")), told
    for line in (
        *("features_total 60.0", "positives_total 10.0", "dead_letters_total 10.0", "open_requests 60.0"),
        *('refused_total{error="TimeUnitError"} 10.0', "restarts_total 0.0", "lost_transactions_total 0.0"),
        *("failed_checkpoints_in_a_row 0.0", 'reads_total{tier="disk"} 0.0'),
    ):
        assert f"rillet_joiner_{line}" in found, found
    assert now_ms / 1_000 < gauge("watermark", found) < time.time()
    assert gauge("checkpoint", found) > 0
    assert 0 < gauge("watermark_lag", found) < 300
    state_bytes = re.search(r"^rillet_joiner_state_bytes (\S+)$", found, re.MULTILINE)
    assert state_bytes is not None
    assert float(state_bytes[1]) > 60 * len(encode(feature(1, now_ms, impressions=5)))
    assert re.search(r"\d+ % of \d+ actions are named 'WATCH', which no task asks for; did you mean 'watch'\?", told), (
        told
    )
    assert re.search(r"10 of \d+ records, now dead letters, have event times in another unit", told), told
    assert (second.returncode, f"pid {running.pid}" in second.stderr) == (2, True), second.stderr

    spec_file.write_text(dump_spec(other))
    refused = made.run_join()
    assert refused.returncode == 2
    assert (
        f"opened under feature spec test {SPEC.hash:#x}, which is neither spec nor among also_accepts" in refused.stderr
    )
    assert "joining" not in refused.stderr
    # The old spec is named beside the new one: its windows are gone on with, and records of both are taken.
    (tmp_path / "old.toml").write_text(dump_spec(SPEC))
    made.path.write_text(made.path.read_text().replace("also_accepts = []", 'also_accepts = ["old.toml"]'))
    of_other = replace(feature(501, now_ms), spec_hash=other.hash)
    more = [feature(500, now_ms), of_other, action(501, 0, "like", now_ms), action(20, 3, "like", now_ms)]
    made.send(more)
    done = made.run_join("--until-latest", "--drain")
    assert done.returncode == 0, done.stderr
    assert {r for b in made.blocks() if b.spec_hash == SPEC.hash for r in b.request_ids} <= {f"r{n}" for n in range(60)}
    features = [feature(request, now_ms, impressions=5) for request in range(60)]
    actions = [action(request, 1, "watch", now_ms) for request in range(10)]
    expected = oracle(SPEC, [*features, *more[:2]], [*actions, *more[2:]])  # type: ignore[list-item]
    specs = SpecRegistry(other, [SPEC])
    assert rows_of(other, [specs.block(block) for block in made.blocks()]) == expected
    report = made.audit()
    assert report.ok, "\n".join(report.lines())
    # Under each spec the requests that came while it was the joiner's.
    assert list(report.requests_by_spec.values()) == [60, 2]
    reasons = [s.letter.reason for s in read_dead_letters(made.config.kafka.connection, topics.dead_letters)]
    assert len(reasons) == 10
    assert all("looks like seconds" in reason for reason in reasons)

    # Nothing is open after the drain: other settings may be taken, and the old spec is needed no more.
    changed = replace(made.config.joiner, buckets=16, slice_ms=20_000)
    made.path.write_text(dump_config(replace(made.config, joiner=changed)))
    made.send([replace(feature(502, now_ms), spec_hash=other.hash)])
    made.join("--until-latest", "--drain")
    assert {r for b in made.blocks() for r in b.request_ids} >= {"r502"}

    kept = OwnFolder(made.path.parent / "data/joiner", JOINER_FILES)
    assert (bool(kept.look().own), kept.look().others) == (True, ())  # a reset knows all that Flink has written
