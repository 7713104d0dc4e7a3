"""Each contestant is started on the topics of its run, and says what it has written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rillet.benchmarks.environment import PACKAGES
from rillet.benchmarks.join.bench import table_of
from rillet.benchmarks.join.contestant import Run
from rillet.benchmarks.join.contestants import FlinkPeer, Ours, QuixStreams, contestants, label_of_key
from rillet.benchmarks.join.figures import RATIOS
from rillet.benchmarks.join.flink_sql import statements
from rillet.benchmarks.join.shapes import IMPRESSION, REQUEST, SPEC
from rillet.benchmarks.names import CONTESTANTS
from rillet.connectors.topic_reader import TopicRecord
from rillet.jobs.config import load_config
from rillet.joiner import JoinerConfig


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("127.0.0.1:9092", "raw-features", "raw-actions", "some-examples", tmp_path, parallelism=3)


def test_the_command_line_names_the_contestants_that_there_are() -> None:
    assert tuple(contestants()) == CONTESTANTS
    assert tuple(one.name for one in contestants().values()) == CONTESTANTS


def test_ratios_compare_contestants_on_shapes_that_they_read() -> None:
    known = contestants()
    for pair in RATIOS.values():
        for name, shape in pair:
            assert shape in {one.name for one in known[name].shapes}


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_ours_runs_with_the_defaults_that_it_is_shipped_with(mode: str, run: Run) -> None:
    launch = Ours("ours", mode).launch(run)  # type: ignore[arg-type]
    path = run.folder / "rillet.toml"
    assert list(launch.command) == [sys.executable, "-m", "rillet", "join", "--config", str(path), "--until-latest"]
    config = load_config(path)
    assert config.load_spec().hash == SPEC.hash
    assert config.joiner == JoinerConfig()
    assert (config.flink.execution_mode, config.flink.parallelism) == (mode, 3)
    topics = config.kafka.topics
    assert (topics.features, topics.actions, topics.examples) == (run.features, run.actions, run.examples)


def test_flink_sql_differs_from_its_heap_form_by_the_state_alone(run: Run) -> None:
    known = contestants()
    disk, heap = known["flink-sql"].launch(run).command, known["flink-sql-heap"].launch(run).command
    assert {one: other for one, other in zip(disk, heap, strict=True) if one != other} == {"rocksdb": "hashmap"}
    assert disk[disk.index("--parallelism") + 1] == "3"


@pytest.mark.parametrize(
    ("file", "starts"),
    [
        ("sources", ["CREATE TEMPORARY TABLE features", "CREATE TEMPORARY TABLE actions"]),
        ("interval_join", ["CREATE TEMPORARY TABLE examples", "INSERT INTO examples"]),
        ("one_stream", ["SELECT"]),
        ("bytes_alone", ["SELECT"]),
    ],
)
def test_sql_files_are_filled_in_for_the_run(file: str, starts: list[str], run: Run) -> None:
    found = statements(file, run)
    assert [statement.startswith(start) for statement, start in zip(found, starts, strict=True)] == [True] * len(starts)
    assert not any("$" in statement or "--" in statement for statement in found)


def test_the_sql_join_has_the_rule_of_ours(run: Run) -> None:
    _, insert = statements("interval_join", run)
    task = SPEC.tasks[0]
    # As ours: the window's end does not belong to it, and an action before its impression is none.
    assert task.early_ms == 0
    assert "a.ts >= f.ts" in insert
    assert f"a.ts < f.ts + INTERVAL '{task.window_ms // 1_000}' SECOND(3)" in insert
    assert f"MOD(HASH_CODE(f.k), {round(1 / task.negative_rate)}) = 0" in insert
    create, _ = statements("interval_join", run)
    assert "'sink.delivery-guarantee' = 'exactly-once'" in create
    assert "'topic' = 'some-examples'" in create


def test_quix_streams_runs_in_its_own_environment(run: Run) -> None:
    launch = QuixStreams().launch(run)
    assert list(launch.command[1:6]) == ["-m", "peers.quix_streams", run.servers, run.features, run.actions]
    assert launch.command[-2:] == ["120000", "30000"]
    assert launch.cwd is not None
    assert (launch.cwd / "peers" / "quix_streams.py").is_file()
    assert PACKAGES["quix"].startswith("quixstreams==")


def test_the_key_of_a_peers_example_is_its_label() -> None:
    def example(key: bytes) -> TopicRecord:
        return TopicRecord("examples", 0, 0, key, b"features", 1, -1)

    assert label_of_key(example(b"1")) == (1, 0)
    assert label_of_key(example(b"0")) == (0, 1)
    passthrough = contestants()["passthrough"]
    assert isinstance(passthrough, FlinkPeer)
    assert passthrough.rows(example(b"1")) is None
    assert passthrough.shapes == (REQUEST, IMPRESSION)


def test_the_table_has_a_column_for_every_figure() -> None:
    table = table_of([], {})
    assert [column.header for column in table.columns][2:5] == ["impressions/s", "records/s", "cores"]
