"""Starting over: what is deleted, what has to be stopped before, and what is said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rillet.__main__ import main
from rillet.connectors.connection import KafkaConnection
from rillet.connectors.errors import BrokerUnavailableError
from rillet.connectors.topic_reader import TopicRecord
from rillet.connectors.topics import create_topics, ensure_broker, topic_ends
from rillet.devstack.own_files import JOINER, OwnFolder
from rillet.devstack.process import free_port
from rillet.devstack.reset import Reset
from rillet.devstack.stack import Stack
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.data_lock import hold
from rillet.jobs.errors import ServiceError
from rillet.joiner import JoinerRuns
from rillet.operators.flink_log import log_environment
from rillet.schemas import EpochClaim, encode
from rillet.sync import Manifest
from tests.joiner.snapshots import complete

MODEL = "films"
CHECKPOINT = "checkpoints/films/0x1/checkpoint-000000000001/table.safetensors"
SAVEPOINT = "joiner/runs/000001/stopped/savepoint-d38a12-30aa6e31f30e/_metadata"


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "rillet.toml"
    path.write_text(
        f'spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "127.0.0.1:{free_port()}"\n'
        f'[model]\nname = "{MODEL}"\n[serving]\nport = {free_port()}\n'
    )
    var = tmp_path / "var"
    for name in (CHECKPOINT, "checkpoints/other/0x1/a", SAVEPOINT):
        (var / name).parent.mkdir(parents=True)
        (var / name).write_text("state")
    complete((var / SAVEPOINT).parent)
    for name in ("store/films/base-000000000001/manifest.json", "store/films/dense/000000000001.safetensors"):
        (var / name).parent.mkdir(parents=True)
        (var / name).write_text("no manifest: damaged is deleted like any other")
    (var / "store" / "other").mkdir()
    (var / "store" / "other" / "kept").write_text("of another model")
    return path


def reset(path: Path, *options: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["reset", *options, "--config", str(path)], input=answer)


def work(path: Path, *parts: str) -> Reset:
    return Reset(Stack(load_config(path), path), **dict.fromkeys(parts, True))


def left(path: Path) -> set[str]:
    var = path.parent / "var"
    return {str(found.relative_to(var)) for found in var.rglob("*") if found.is_file() and "locks" not in found.parts}


OTHERS = {"checkpoints/other/0x1/a", "store/other/kept"}


def test_the_model_goes_with_checkpoints_of_all_its_specs_and_bases_and_nothing_else(config_path: Path) -> None:
    result = reset(config_path, "--model", "--yes")
    assert result.exit_code == 0, result.output
    assert left(config_path) == OTHERS | {SAVEPOINT}
    assert "begins by learning all examples of the topic again" in result.stdout


def test_the_joiner_goes_alone_and_it_is_said_that_examples_are_written_again(config_path: Path) -> None:
    result = reset(config_path, "--joiner", "--yes")
    assert result.exit_code == 0, result.output
    assert SAVEPOINT not in left(config_path)
    assert "store/films/base-000000000001/manifest.json" in left(config_path)
    assert "writes every example a second time: with --topics it does not" in result.stdout


def test_all_that_a_joiner_keeps_goes_and_a_start_begins_anew(config_path: Path) -> None:
    runs, job = JoinerRuns(config_path.parent / "var/joiner/runs"), "d38a12" + 26 * "0"
    for drained in (False, True):
        run = runs.begin("{}")
        parts = (f"{job}/chk-7", f"{job}/shared", f"{job}/taskowned")
        folders = [run.savepoint_dir(drained=drained) / "savepoint-d38a12-30aa6e31f30e"]
        folders += [run.checkpoint_dir / part for part in parts]
        for folder in folders:
            complete(folder)
            (folder / "f1a2b3c4-0000-4000-8000-123456789abc").touch()
    assert runs.newest is not None
    log = config_path.parent / "var/joiner/log"
    log_environment(log)
    for name in ("flink.log", "flink.log.3", "tmp_job-1_op_joiner_db_LOG", "tmp_job-1_op_joiner_db_LOG.old.17"):
        (log / name).touch()
    result = reset(config_path, "--joiner", "--yes")
    assert (result.exit_code, "leave" in result.stdout) == (0, False), result.output
    assert runs.newest is None
    assert not (config_path.parent / "var/joiner").exists()


def test_a_backfill_that_runs_is_not_robbed_of_its_topics_and_one_that_does_not_is_forgotten(config_path: Path) -> None:
    """Its state names offsets of the raw topics, as the joiner's does; its lock is that of a data_dir of its own."""
    var = config_path.parent / "var"
    folder, mine = var / "backfills/films.again", var / "backfills/notes"
    complete(folder / "joiner/runs/000001/stopped/savepoint-d38a12-30aa6e31f30e")
    mine.write_text("mine")
    with hold(folder, "join"):
        running = reset(config_path, "--joiner", "--yes")
    assert (running.exit_code, "join runs already on data_dir" in running.stderr) == (2, True), running.output
    assert str(folder) in running.stderr
    work(config_path, "joiner").joiner_state.delete()
    alone = reset(config_path, "--topics", "--model", "--yes")
    assert (alone.exit_code, f"{var / 'backfills'} with offsets of topics that are gone" in alone.stderr) == (2, True)
    assert alone.stderr.endswith(": add --joiner\n")
    result = reset(config_path, "--joiner", "--yes")
    assert (result.exit_code, f"leave      {mine}: " in result.stdout) == (0, True), result.output
    assert not folder.exists()
    assert mine.exists()


def test_a_reset_that_is_interrupted_leaves_no_older_state_as_the_newest(config_path: Path) -> None:
    runs = JoinerRuns(config_path.parent / "var/joiner/runs")
    for _ in range(12):
        newest = runs.begin("").savepoint_dir(drained=False) / "savepoint-d38a12-30aa6e31f30e/_metadata"
        complete(newest.parent)
    metadata = [path for path in work(config_path, "joiner").joiner_state.look().own if path.name == "_metadata"]
    assert metadata == sorted(metadata)
    assert metadata[-1] == newest
    files, job = OwnFolder(config_path.parent / "var/joiner", JOINER), runs.begin("").checkpoint_dir / ("a" * 32)
    checkpoints = [complete(job / f"chk-{number}") for number in (9, 10)]
    assert [path.parent for path in files.look().own if path.parent in checkpoints] == checkpoints


def test_a_second_time_there_is_nothing_left_to_delete_and_that_is_no_error(config_path: Path) -> None:
    for _ in range(2):
        result = reset(config_path, "--model", "--joiner", "--yes")
        assert result.exit_code == 0, result.output
    assert "var/joiner is not there" in result.stdout
    assert left(config_path) == OTHERS


def test_without_yes_and_without_a_terminal_it_says_what_it_would_delete_and_ends_with_1(config_path: Path) -> None:
    before = left(config_path)
    result = reset(config_path, "--model", "--joiner")
    assert result.exit_code == 1
    assert f"{config_path.parent}/var/checkpoints/films, 0.0 MB" in result.stdout
    assert f"{config_path.parent}/var/joiner, 0.0 MB" in result.stdout
    assert "there is no terminal to ask on, add --yes" in result.stderr
    assert left(config_path) == before


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks(config_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, deleted: bool) -> None:
    monkeypatch.setattr("rillet.devstack.cli.has_terminal", lambda: True)
    result = reset(config_path, "--joiner", answer=answer)
    assert result.exit_code == (0 if deleted else 1)
    assert (SAVEPOINT not in left(config_path)) == deleted


@pytest.mark.parametrize(
    ("lock", "part", "refused"),
    [("train-films", "model", True), ("join", "joiner", True), ("join", "model", False), ("train-x", "model", False)],
)
def test_what_a_running_service_uses_stays(config_path: Path, lock: str, part: str, refused: bool) -> None:
    var = config_path.parent / "var"
    with hold(var, lock):
        result = reset(config_path, f"--{part}", "--yes")
    if refused:
        assert result.exit_code == 2
        assert f"{lock} runs already on data_dir {var} (pid " in result.stderr
        assert SAVEPOINT in left(config_path)
    assert (result.exit_code == 0) != refused


@contextmanager
def _answering(port: int) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_answers_keeps_its_model_ready_or_not(config_path: Path) -> None:
    port = load_config(config_path).serving.port
    with _answering(port):
        result = reset(config_path, "--model", "--yes")
    assert result.exit_code == 2
    assert f"serve runs (it answers at http://127.0.0.1:{port}/" in result.stderr
    # the advice: stop it
    assert reset(config_path, "--model", "--yes").exit_code == 0


@pytest.mark.parametrize(
    ("parts", "advice"),
    [(["--topics"], "add --model --joiner"), (["--topics", "--model"], "add --joiner")],
)
def test_topics_do_not_go_while_something_names_their_offsets(config_path: Path, parts: list[str], advice: str) -> None:
    result = reset(config_path, *parts, "--yes")
    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith(advice)
    assert SAVEPOINT in left(config_path)


def test_topics_without_a_broker_name_the_address_and_nothing_is_deleted(
    config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rillet.devstack.reset.ensure_broker", lambda connection, **_: ensure_broker(connection, 0.1))
    before = left(config_path)
    with (
        pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:"),
        work(config_path, "topics", "model", "joiner").prepared(),
    ):
        pass
    assert left(config_path) == before


STRANGERS = (
    "joiner/thesis/chapter1.tex",
    "joiner/runs/000001/stopped/savepoint-d38a12-30aa6e31f30e/notes.txt",
    "store/films/invoices.csv",
    "store/films/base-000000000001/notes.txt",
    "checkpoints/films/llm.safetensors",
)


def test_only_files_that_rillet_writes_are_deleted_and_the_others_are_named(config_path: Path) -> None:
    var = config_path.parent / "var"
    for name in STRANGERS:
        (var / name).parent.mkdir(parents=True, exist_ok=True)
        (var / name).write_text("somebody's")
    for _ in range(2):
        result = reset(config_path, "--model", "--joiner", "--yes")
        assert result.exit_code == 0, result.output
        assert left(config_path) == OTHERS | set(STRANGERS)
        for name in STRANGERS:
            assert f"leave      {var / name if 'thesis' not in name else var / 'joiner/thesis'}: " in result.stdout


@pytest.mark.parametrize(
    ("link", "part"),
    [
        ("checkpoints", "model"),
        ("checkpoints/films", "model"),
        ("store", "model"),
        ("store/films/base-000000000001", "model"),
        ("joiner", "joiner"),
        ("joiner/runs", "joiner"),
    ],
)
def test_a_link_is_not_followed_and_the_advice_helps(config_path: Path, link: str, part: str) -> None:
    path, disk = config_path.parent / "var" / link, config_path.parent / "disk"
    path.rename(disk)
    path.symlink_to(disk)
    before = {found for found in disk.rglob("*") if found.is_file()}
    result = reset(config_path, f"--{part}", "--yes")
    assert result.exit_code == 2
    assert f"{path} is a symbolic link to {disk}" in result.stderr
    assert f"rm {path}; mv {disk} {path}" in result.stderr
    assert {found for found in disk.rglob("*") if found.is_file()} == before
    path.unlink()
    disk.rename(path)
    assert reset(config_path, f"--{part}", "--yes").exit_code == 0


def _write_base(path: Path, *, epoch: int, age_s: float) -> None:
    created_ms = round((time.time() - age_s) * 1000)
    manifest = Manifest(
        model=MODEL, table="embeddings", version=7, epoch=epoch, next_sequence=0, next_offsets={0: 0}, model_hash=1,
        dim=1, rows=0, newest_event_ms=-1, newest_ingest_ms=-1, created_ms=created_ms,
    )  # fmt: skip
    folder = path.parent / "var/store/films" / manifest.name
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest.to_json())


def test_a_model_that_a_trainer_elsewhere_has_just_written_stays_unless_forced(config_path: Path) -> None:
    _write_base(config_path, epoch=3, age_s=60)
    before = left(config_path)
    result = reset(config_path, "--model", "--yes")
    assert result.exit_code == 2
    assert "may be held by a trainer of another data_dir: base base-000000000007 was written 6" in result.stderr
    assert left(config_path) == before
    assert reset(config_path, "--model", "--yes", "--force").exit_code == 0
    assert left(config_path) == OTHERS | {SAVEPOINT}


@pytest.mark.parametrize(("own_epoch", "age_s"), [(3, 1), (0, 4 * 3600)])
def test_the_own_model_and_an_old_one_go(config_path: Path, own_epoch: int, age_s: float) -> None:
    _write_base(config_path, epoch=3, age_s=age_s)
    manifest = config_path.parent / "var" / CHECKPOINT.replace("table.safetensors", "manifest.json")
    manifest.write_text(json.dumps({"meta": {"extra": {"publisher": {"epoch": own_epoch}}}}))
    result = reset(config_path, "--model", "--yes")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("age_s", "refused"), [(5, True), (1_000, False)])
def test_fresh_records_of_another_trainer_in_the_delta_log_keep_the_model(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, refused: bool
) -> None:
    claim = encode(EpochClaim(MODEL, 0, 4, 1, "another"))
    record = TopicRecord("deltas", 0, 0, None, claim, round((time.time() - age_s) * 1000), -1)
    monkeypatch.setattr("rillet.devstack.reset.require_broker", lambda _: None)
    monkeypatch.setattr("rillet.devstack.reset.newest_records", lambda *_: ([record], {0: 1}))
    result = reset(config_path, "--model", "--yes")
    assert result.exit_code == (2 if refused else 0)
    assert ("a record of the delta log was written" in result.stderr) == refused


JSON_ACTIONS = """
[sources.actions]
format = "json"
request_id = "page_id"
impression_id = "article"
time = "at"
action = "type"
"""


class _Topics:
    """Topics of a broker, without one."""

    def __init__(self, **partitions: int) -> None:
        self.partitions, self.deleted = partitions, list[str]()

    def ends(self, _: object, topic: str) -> dict[int, tuple[int, int]] | None:
        count = self.partitions.get(topic)
        return None if count is None else dict.fromkeys(range(count), (0, 7))

    def delete(self, _: object, names: list[str]) -> None:
        self.deleted += names
        for name in names:
            self.partitions.pop(name, None)

    def create(self, _: object, partitions: dict[str, int], **__: object) -> None:
        self.partitions = {**partitions, **self.partitions}


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> _Topics:
    made = _Topics(features=6, actions=6, examples=3)
    for name, stand_in in {"topic_ends": made.ends, "delete_topics": made.delete, "create_topics": made.create}.items():
        monkeypatch.setattr(f"rillet.devstack.reset.{name}", stand_in)
    monkeypatch.setattr("rillet.devstack.reset.ensure_broker", lambda *_, **__: None)
    return made


def test_a_raw_topic_of_another_format_is_an_applications_own_and_stays(config_path: Path, topics: _Topics) -> None:
    config_path.write_text(config_path.read_text() + JSON_ACTIONS)
    result = reset(config_path, "--yes")
    assert result.exit_code == 0, result.output
    assert "leave      the topic actions: its format is json in [sources]" in result.stdout
    assert "`rillet join` reads actions again from the beginning" in result.stdout
    assert "actions 42 records" not in result.stdout
    assert topics.deleted == ["features", "examples", "deltas", "dead_letters"]


def test_a_topic_is_made_anew_with_as_many_partitions_as_it_had(config_path: Path, topics: _Topics) -> None:
    result = reset(config_path, "--yes")
    assert result.exit_code == 0, result.output
    assert "actions 42 records, 6 partitions\n" in result.stdout
    assert "deltas is not there, 1 partition\n" in result.stdout
    assert topics.partitions == {"features": 6, "actions": 6, "examples": 3, "deltas": 1, "dead_letters": 1}


@pytest.mark.integration
def test_everything_goes_and_topics_are_there_again_empty(config_path: Path, broker: str) -> None:
    stack = _on(broker, config_path)
    kafka = stack.config.kafka
    create_topics(broker, kafka.topic_partitions)
    _fill(kafka.connection, kafka.topics.features)
    said: list[str] = []
    work = Reset(stack, topics=True, model=True, joiner=True)
    with work.prepared():
        assert any(f"{kafka.topics.features} 3 records, 2 partitions" in line for line in work.plan())
        work.run(said.append)
    assert left(config_path) == OTHERS
    for name, count in kafka.topic_partitions.items():
        assert topic_ends(broker, name) == dict.fromkeys(range(count), (0, 0))
    with work.prepared():
        work.run(said.append)


def _fill(kafka: KafkaConnection, topic: str) -> None:
    producer = kafka.producer({})
    for _ in range(3):
        producer.produce(topic, b"record")
    producer.flush(10)


def _on(broker: str, path: Path) -> Stack:
    config: RilletConfig = load_config(path)
    topics = {
        name: f"{name}-{path.parent.name}" for name in ("features", "actions", "examples", "deltas", "dead_letters")
    }
    kafka = replace(config.kafka, bootstrap_servers=broker, topics=replace(config.kafka.topics, **topics))
    return Stack(replace(config, kafka=kafka), path)


def test_a_lock_that_cannot_be_taken_is_told_before_anything_is_asked(config_path: Path) -> None:
    (config_path.parent / "var" / "locks").write_text("a file in the way of a folder")
    with pytest.raises(ServiceError, match="cannot be written to"), work(config_path, "joiner").prepared():
        pass
