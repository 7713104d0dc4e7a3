"""The contestants by name: ours, Flink's own ways, Quix Streams, and what passing records through Python costs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from rillet.benchmarks.environment import library_versions, peer_environment
from rillet.benchmarks.join.contestant import Contestant, Launch, Run
from rillet.benchmarks.join.shapes import IMPRESSION, REQUEST, SPEC, WINDOW_MS, Shape
from rillet.connectors.config import KafkaConfig, TopicNames
from rillet.connectors.topic_reader import TopicRecord
from rillet.jobs.config import HealthConfig, RilletConfig, dump_config
from rillet.jobs.toolchain import python_environment
from rillet.operators.flink_config import FlinkConfig
from rillet.schemas import ExampleBlock, LabelKind, decode_as, dump_spec

_PEERS = Path(__file__).resolve().parents[1]
_QUIX = "quix"
#: what the other joins write as the key of an example
POSITIVE, NEGATIVE = b"1", b"0"


@dataclass(frozen=True, slots=True)
class Ours:
    """``rillet join``, with the settings that it is shipped with."""

    name: str
    execution_mode: Literal["thread", "process"]
    shapes: tuple[Shape, ...] = (REQUEST, IMPRESSION)

    @property
    def what(self) -> str:
        """See :class:`Contestant`."""
        return f"rillet join, {self.execution_mode} mode, RocksDB state"

    def prepare(self, data: Path) -> None:
        """See :class:`Contestant`."""

    def launch(self, run: Run) -> Launch:
        """See :class:`Contestant`; open windows are kept in a savepoint at the end, as at every stop."""
        return Launch([*self.command(run), "--until-latest"], python_environment())

    def command(self, run: Run) -> list[str]:
        """``rillet join`` on the topics of a run, with a configuration that is written into its folder."""
        topics = TopicNames(run.features, run.actions, run.examples, f"{run.examples}-deltas", f"{run.examples}-dead")
        config = RilletConfig(
            spec=Path("spec.toml"),
            data_dir=Path("data"),
            kafka=KafkaConfig(run.servers, topics),
            flink=FlinkConfig(execution_mode=self.execution_mode, parallelism=run.parallelism),
            health=HealthConfig(join_port=0, train_port=0, dump_port=0),
        )
        (run.folder / "spec.toml").write_text(dump_spec(SPEC), "utf-8")
        (run.folder / "rillet.toml").write_text(dump_config(config), "utf-8")
        return [sys.executable, "-m", "rillet", "join", "--config", str(run.folder / "rillet.toml")]

    def rows(self, record: TopicRecord) -> tuple[int, int] | None:
        """See :class:`Contestant`."""
        block = decode_as(ExampleBlock, record.value or b"")
        positives = int(np.count_nonzero(block.label_kind == LabelKind.POSITIVE))
        return positives, len(block) - positives

    def versions(self) -> Mapping[str, str]:
        """See :class:`Contestant`."""
        return {name: version(name) for name in ("rillet", "apache-flink", "rocksdict")}


@dataclass(frozen=True, slots=True)
class FlinkPeer:
    """One of the jobs of ``flink_peer.py``, in the same mini-cluster as ours, exactly once."""

    name: str
    what: str
    job: Literal["interval-join", "plain-join", "passthrough"]
    state_backend: Literal["rocksdb", "hashmap"] = "rocksdb"
    shapes: tuple[Shape, ...] = (IMPRESSION,)

    def prepare(self, data: Path) -> None:
        """See :class:`Contestant`."""

    def launch(self, run: Run) -> Launch:
        """See :class:`Contestant`."""
        command = [sys.executable, "-m", "rillet.benchmarks.join.flink_peer", self.job]
        for option, value in (
            ("--state-backend", self.state_backend),
            ("--servers", run.servers),
            ("--features", run.features),
            ("--actions", run.actions),
            ("--examples", run.examples),
            ("--folder", run.folder),
            ("--parallelism", run.parallelism),
        ):
            command += [option, str(value)]
        return Launch(command, python_environment())

    def rows(self, record: TopicRecord) -> tuple[int, int] | None:
        """See :class:`Contestant`."""
        return None if self.job == "passthrough" else label_of_key(record)

    def versions(self) -> Mapping[str, str]:
        """See :class:`Contestant`."""
        return {"apache-flink": version("apache-flink")}


class QuixStreams:
    """The interval join of Quix Streams, which keeps its state in rocksdict, exactly once; it has no negatives."""

    name = "quixstreams"
    what = "Quix Streams, join_interval, RocksDB state; positives alone"
    shapes = (IMPRESSION,)

    def __init__(self) -> None:
        self._python = Path()

    def prepare(self, data: Path) -> None:
        """See :class:`Contestant`."""
        self._python = peer_environment(data / _QUIX, (_QUIX,))

    def launch(self, run: Run) -> Launch:
        """See :class:`Contestant`."""
        command = [str(self._python), "-m", "peers.quix_streams", run.servers, run.features, run.actions, run.examples]
        command += [str(run.folder), str(WINDOW_MS), str(FlinkConfig().lateness_ms)]
        return Launch(command, {**os.environ, "PYTHONPATH": str(_PEERS)}, cwd=_PEERS)

    def rows(self, record: TopicRecord) -> tuple[int, int] | None:
        """See :class:`Contestant`."""
        return label_of_key(record)

    def versions(self) -> Mapping[str, str]:
        """See :class:`Contestant`."""
        return {"quixstreams": library_versions(self._python, (_QUIX,))[_QUIX]}


def label_of_key(record: TopicRecord) -> tuple[int, int]:
    """Positives and negatives of an example whose key is its label."""
    return (1, 0) if record.key == POSITIVE else (0, 1)


def contestants() -> dict[str, Contestant]:
    """All of them, in the order in which they run."""
    known: tuple[Contestant, ...] = (
        Ours("ours", "thread"),
        FlinkPeer("flink-sql", "Flink SQL, interval LEFT JOIN, RocksDB state", "interval-join"),
        FlinkPeer("flink-sql-heap", "Flink SQL, interval LEFT JOIN, heap state", "interval-join", "hashmap"),
        FlinkPeer("plain-pyflink", "PyFlink, state and timer per impression, RocksDB state", "plain-join"),
        QuixStreams(),
        FlinkPeer(
            "passthrough",
            "PyFlink without a join, one feature record of five goes on",
            "passthrough",
            shapes=(REQUEST, IMPRESSION),
        ),
        Ours("ours-process", "process"),
    )
    return {contestant.name: contestant for contestant in known}
