"""On a real broker: records that are really there, the newest of several partitions, one request across topics."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from rillet.connectors.topics import create_topics
from rillet.inspection.broker import reasons
from rillet.inspection.cli import peek
from rillet.inspection.gather import LoopGatherer
from rillet.jobs.config import RilletConfig, load_config
from rillet.schemas import RilletError, dead_letter, dump_spec, encode, encode_dead_letter
from rillet.schemas.records import Record
from tests.inspection.samples import NOW_MS, SPEC, action_event, example_block, feature_event


def letter(reason: str, refused_ms: int, topic: str = "features") -> bytes:
    return encode_dead_letter(
        dead_letter(reason, topic, 0, refused_ms, key=b"k", value=b"v", now_ms=refused_ms, max_bytes=99)
    )


def test_letters_whose_reasons_differ_by_numbers_and_quoted_text_are_told_by_the_newest_of_them() -> None:
    """What to do about it may stand in numbers and quotes: which unit, which name."""
    letters = [letter(f'when: {n} is in s; is time_unit "s" meant?', n) for n in (0, 2, 1)]
    (first, second) = reasons([*letters, b"no letter"])
    assert first.reason == 'when: 2 is in s; is time_unit "s" meant?'
    assert (first.topic, first.letters, first.newest_ms) == ("features", 3, 2)
    assert (second.reason, second.topic, second.letters) == ("no dead letter: cannot be decoded", "", 1)


def test_one_reason_on_two_topics_is_told_of_each() -> None:
    found = reasons([letter("bad", 1), letter("bad", 2, "actions")])
    assert {one.topic for one in found} == {"features", "actions"}


@pytest.fixture
def config(broker: str, tmp_path: Path) -> RilletConfig:
    """A loop of its own on the session's broker, whose services are away."""
    unique = uuid.uuid4().hex[:8]
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    names = ", ".join(
        f'{kind} = "{kind}-{unique}"' for kind in ("features", "actions", "examples", "deltas", "dead_letters")
    )
    (tmp_path / "rillet.toml").write_text(
        f'spec = "shop.spec.toml"\ndata_dir = "data"\n[kafka]\nbootstrap_servers = "{broker}"\ntopics = {{ {names} }}\n'
        "[health]\njoin_port = 0\ntrain_port = 0\ndump_port = 0\n[serving]\nport = 1\n"
    )
    loaded = load_config(tmp_path / "rillet.toml")
    create_topics(broker, loaded.kafka.topic_partitions)
    return loaded


def send(
    config: RilletConfig, kind: str, value: Record | bytes, key: bytes, partition: int = 0, *, transaction: bool = False
) -> None:
    settings = {"bootstrap.servers": config.kafka.bootstrap_servers}
    producer = Producer(settings | ({"transactional.id": uuid.uuid4().hex} if transaction else {}))
    if transaction:
        producer.init_transactions(20)
        producer.begin_transaction()
    data = value if isinstance(value, bytes) else encode(value)
    producer.produce(getattr(config.kafka.topics, kind), data, key, partition, timestamp=NOW_MS)
    if transaction:
        producer.commit_transaction(20)
    assert producer.flush(20) == 0


def run_peek(config: RilletConfig, *arguments: str) -> Result:
    path = str(config.spec.parent / "rillet.toml")
    return CliRunner().invoke(peek, [*arguments, "--config", path], catch_exceptions=True)


@pytest.mark.integration
def test_the_loop_is_looked_at_across_its_topics(config: RilletConfig) -> None:
    send(config, "features", feature_event("r-1"), b"r-1", 0)
    send(config, "features", b"garbage", b"r-9", 1)
    send(config, "features", feature_event("r-2"), b"r-2", 1)
    send(config, "actions", action_event("r-1"), b"r-1", 0)
    for _ in range(2):
        send(config, "examples", example_block(), b"3", transaction=True)

    shown = run_peek(config, "features", "--json")
    views = [json.loads(line) for line in shown.stdout.splitlines()]
    assert sorted(view.get("request_id", "cannot be decoded") for view in views) == ["cannot be decoded", "r-1", "r-2"]
    assert shown.exit_code == 0
    newest = run_peek(config, "examples", "-n", "1", "--json")
    assert json.loads(newest.stdout)["offset"] == 2, "offset 1 and 3 end transactions"

    found = run_peek(config, "--request", "r-1", "--json")
    views = [json.loads(line) for line in found.stdout.splitlines()]
    assert [view["record"] for view in views] == ["feature_event", "action_event", "example_block", "example_block"]
    assert {row["request_id"] for view in views[2:] for row in view["rows"]} == {"r-1"}
    assert run_peek(config, "actions", "--request", "r-2").exit_code == 1

    with LoopGatherer(config) as gatherer:
        topics = gatherer.look().topics
    features, examples = topics["features"], topics["examples"]
    assert (features.records, features.exact, features.newest_ms) == (3, True, NOW_MS)
    assert (examples.records, examples.exact, examples.newest_ms) == (4, False, NOW_MS)
    assert features.lag_records == 3, "no joiner has committed anything"
    assert topics["dead_letters"].records == 0


@pytest.mark.integration
def test_following_shows_what_comes_and_ends_cleanly_on_ctrl_c(config: RilletConfig) -> None:
    send(config, "actions", action_event("r-1"), b"r-1", 1)
    path = str(config.spec.parent / "rillet.toml")
    command = [sys.executable, "-m", "rillet", "peek", "actions", "--follow", "--json", "--config", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["request_id"] == "r-1"
        send(config, "actions", action_event("r-2"), b"r-2", 0)
        assert json.loads(following.stdout.readline())["request_id"] == "r-2"
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=20)
    assert (following.returncode, out, err) == (0, "", "")


def test_without_a_broker_one_line_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "shop.spec.toml").write_text(dump_spec(SPEC))
    (tmp_path / "rillet.toml").write_text('spec = "shop.spec.toml"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    result = CliRunner().invoke(peek, ["features", "--config", str(tmp_path / "rillet.toml")])
    assert isinstance(result.exception, RilletError)
    assert str(result.exception).startswith("no Kafka broker answers at 127.0.0.1:1 (Connection refused): ")
