"""Error messages that advise something: each is provoked, its advice followed, and then it works.

More of them are beside what they are of: locks, ports and folders in test_data_lock, test_config_checks and test_stack,
`rillet reset` in test_reset, a changed spec in test_changed_spec.
"""

from __future__ import annotations

import re
import shutil
import socket
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rillet.__main__ import main
from rillet.connectors.errors import ExampleFilesError, MetricFilesError
from rillet.connectors.example_writer import ExampleWriter
from rillet.connectors.metric_files import JsonLinesFile
from rillet.devstack.process import Process, free_port
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.errors import ConfigError, PortInUseError, ServiceError
from rillet.jobs.health import HealthServer
from rillet.jobs.train import wire_trainer
from rillet.pipelines.batch_stage import BatchOptions, BatchStage
from rillet.pipelines.errors import BatchStageError
from rillet.recordings.errors import RecordingError
from rillet.recordings.format import Recording, RecordingWriter
from rillet.schemas import ActionEvent, dump_spec, parse_spec
from rillet.sync import CorruptArtifactError, ModelStore
from rillet.trainer import CheckpointError, CheckpointStore, ModelError, OnlineTrainer, TrainerError, online
from tests.trainer.blocks import RAGGED, make_block


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "films.spec.toml").write_text(dump_spec(RAGGED))
    path = tmp_path / "rillet.toml"
    path.write_text(
        'spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n'
        f'[model]\nname = "films"\ndim = 4\nhidden = [8]\n[serving]\nport = {free_port()}\n'
    )
    return path


def _changed(path: Path, old: str, new: str) -> RilletConfig:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return load_config(path)


def _save(config: RilletConfig) -> CheckpointStore:
    store = CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=1)
    trainer = OnlineTrainer(RAGGED, config.model, config.table, config.trainer)
    trainer.save(store, {"publisher": {"epoch": 1, "position": 0}})
    return store


@pytest.mark.parametrize(
    ("old", "new"),
    [("dim = 8", "dim = 4"), ('name = "films"', 'name = "wider"'), ('data_dir = "var"', 'data_dir = "other"')],
    ids=["restore the configuration", "another name", "another data directory"],
)
def test_a_model_of_another_shape_is_trained_as_its_error_says(path: Path, old: str, new: str) -> None:
    _save(load_config(path))
    with pytest.raises(
        CheckpointError, match="restore the configuration, or give the new model another name or data di"
    ):
        wire_trainer(_changed(path, "dim = 4", "dim = 8"))
    wire_trainer(_changed(path, old, new)).close()


@pytest.mark.parametrize("advised", ["that version", "another name", "another data directory"])
def test_a_checkpoint_of_another_version_is_left_to_it_or_learned_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, advised: str
) -> None:
    monkeypatch.setattr(online, "CHECKPOINT_FORMAT", 999)
    store = _save(load_config(path))
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError,
        match=r"in format 999.*go on with that version, or give the model another name or data directory and let",
    ):
        wire_trainer(load_config(path))
    if advised == "that version":
        monkeypatch.setattr(online, "CHECKPOINT_FORMAT", 999)
        assert store.versions() == [1]
        wire_trainer(load_config(path)).close()
    else:
        old, new = ("films", "films2") if advised == "another name" else ("var", "other")
        key = "name" if advised == "another name" else "data_dir"
        wire_trainer(_changed(path, f'{key} = "{old}"', f'{key} = "{new}"')).close()


def test_a_checkpoint_without_an_array_of_quality_is_removed_to_start_anew(path: Path) -> None:
    config = load_config(path)
    store = _save(config)
    newest = store.load(1)
    progress = dict(newest.files["progress"])
    del progress["quality.0.begun"]
    store.save({**newest.files, "progress": progress}, newest.meta)
    with pytest.raises(
        CheckpointError, match=r"of quality: .*another version.*, or remove the checkpoints to start anew"
    ):
        wire_trainer(config)
    assert CliRunner().invoke(main, ["reset", "--model", "--yes", "--config", str(path)]).exit_code == 0
    wire_trainer(config).close()


def test_a_model_that_has_run_away_learns_again_as_its_error_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "REFUSED_BATCHES_LIMIT", 3)
    config, rng = load_config(path), np.random.default_rng(0)
    store = CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=3)
    blocks = [make_block(rng, 50) for _ in range(9)]

    def trainer(rate: float) -> OnlineTrainer:
        model, table = replace(config.model, dense_learning_rate=rate), replace(config.table, learning_rate=rate)
        settings = replace(config.trainer, batch_size=50, first_batch_size=50)
        made = OnlineTrainer(RAGGED, model, table, settings)
        made.restore(store, lambda error: pytest.fail(str(error)))
        return made

    def learn(made: OnlineTrainer, until: int) -> None:
        for offset in range(made.positions.get(0, (0, 0))[0], until):
            made.offer(0, offset, blocks[offset], 0)
            made.train(0, more=True)

    sound, runs_away = trainer(0.01), trainer(1e30)
    learn(sound, 2)
    sound.save(store)
    runs_away.restore(store, lambda error: pytest.fail(str(error)))
    learn(runs_away, 4)
    runs_away.save(store)
    with pytest.raises(ModelError, match="lower the learning rates, delete the newest checkpoints"):
        learn(runs_away, len(blocks))
    with pytest.raises(ModelError):
        learn(trainer(0.01), len(blocks))  # lower rates alone do not help
    first, *newer = sorted(config.checkpoint_dir(RAGGED).glob("checkpoint-*"))
    assert len(newer) == 1
    shutil.rmtree(newer[0])
    again = trainer(0.01)
    learn(again, len(blocks))
    assert (first.exists(), again.counters.rows) == (True, 50 * len(blocks))


@pytest.mark.parametrize("damaged", ['{"format": 999}', "{"])
def test_example_files_that_cannot_be_read_on_are_written_again_elsewhere(tmp_path: Path, damaged: str) -> None:
    ExampleWriter(str(tmp_path / "files"), RAGGED, "topic examples").open()
    (manifest,) = (tmp_path / "files").iterdir()
    manifest.write_text(damaged)
    with pytest.raises(ExampleFilesError, match="write the rows again, to another address"):
        ExampleWriter(str(tmp_path / "files"), RAGGED, "topic examples").open()
    ExampleWriter(str(tmp_path / "again"), RAGGED, "topic examples").open()


def test_a_recording_of_another_version_is_generated_again_in_its_place(tmp_path: Path) -> None:
    def generate() -> None:
        with RecordingWriter(tmp_path, RAGGED, "synthetic") as writer:
            writer.write(ActionEvent("r", 1_700_000_000_000, 1, "watch"))

    generate()
    info = tmp_path / "recording.json"
    info.write_text(info.read_text().replace(f"{RAGGED.hash:#x}", "0x1"))
    with pytest.raises(RecordingError, match=r"written by another version.*record or generate it again"):
        Recording(tmp_path)
    generate()
    assert Recording(tmp_path).info.actions == 1


def test_a_model_without_an_intact_checkpoint_begins_anew_after_the_reset_that_its_error_names(path: Path) -> None:
    config = load_config(path)
    _save(config)
    for manifest in config.checkpoint_dir(RAGGED).rglob("manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError, match="Remove them to start anew, with `rillet reset --model`"):
        wire_trainer(config)
    reset = CliRunner().invoke(main, ["reset", "--model", "--yes", "--config", str(path)])
    assert reset.exit_code == 0, reset.output
    wire_trainer(config).close()


def test_a_configuration_that_was_not_found_is_found_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "elsewhere").mkdir()
    monkeypatch.chdir(path.parent / "elsewhere")
    refused = CliRunner().invoke(main, ["check-config"])
    assert refused.stderr.rstrip().endswith("name a configuration with --config")
    assert CliRunner().invoke(main, ["check-config", "--config", str(path)]).exit_code == 0


def test_a_label_window_with_too_many_stretches_takes_the_length_that_its_error_names(path: Path) -> None:
    spec = replace(RAGGED, tasks=(replace(RAGGED.tasks[0], window_ms=86_400_000),))
    config = load_config(path)

    def trainer(stretch_ms: int) -> OnlineTrainer:
        settings = replace(config.trainer, quality_stretch_ms=stretch_ms)
        return OnlineTrainer(spec, config.model, config.table, settings)

    with pytest.raises(TrainerError) as refused:
        trainer(1)
    advised = re.search(r"set (\d+) or more, or 0$", str(refused.value))
    assert advised is not None
    trainer(int(advised[1]))
    trainer(0)


def test_a_batch_stage_of_a_model_that_has_learned_already_is_left_out_or_anothers() -> None:
    def planned(options: BatchOptions | None, positions: dict[int, tuple[int, int]]) -> BatchStage | None:
        return BatchStage.planned(options, None, positions, RAGGED, topic="examples", seed=0)

    options = BatchOptions(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(BatchStageError, match="leave the option out, or give the model another name or data directory"):
        planned(options, {0: (5, 0)})
    assert planned(None, {0: (5, 0)}) is None
    # A model of another name has no positions yet; that there are no files is another matter, told with its advice.
    with pytest.raises(ExampleFilesError, match="write some with `rillet dump` or `rillet join --recording`"):
        planned(options, {})


OTHER_SPEC = parse_spec(dump_spec(RAGGED).replace("window_ms = 1000", "window_ms = 2000"))


@pytest.mark.parametrize("other", ["spec", "topic", "files"])
def test_a_dump_into_what_others_have_written_goes_to_another_folder(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "files"
    if other == "files":
        folder.mkdir()
        (folder / "notes.txt").write_text("a file of somebody")
    else:
        spec, topic = (OTHER_SPEC, "examples") if other == "spec" else (RAGGED, "others")
        ExampleWriter(str(folder), spec, f"topic {topic}").open()
    with pytest.raises(ExampleFilesError, match=r"name another address|name an empty or new folder"):
        ExampleWriter(str(folder), RAGGED, "topic examples").open()
    ExampleWriter(str(tmp_path / "new"), RAGGED, "topic examples").open()
    if other == "spec":  # "or the configuration of that spec"
        ExampleWriter(str(folder), OTHER_SPEC, "topic examples").open()


def test_metrics_go_to_another_path_where_the_first_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MetricFilesError, match="name another path, or leave the setting out"):
        JsonLinesFile(tmp_path / "file" / "metrics.jsonl", "trainer.metrics_file").start()
    other = JsonLinesFile(tmp_path / "metrics.jsonl", "trainer.metrics_file")
    other.start()
    other.close()


def test_probes_are_answered_on_another_port_or_not_at_all() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match=r"choose another in \[health\], 0 is off"):
            HealthServer(taken.getsockname()[1], lambda: True).start()
    for port in (free_port(), 0):
        server = HealthServer(port, lambda: True)
        server.start()
        server.close()


def test_a_process_that_runs_already_starts_again_once_it_is_stopped(tmp_path: Path) -> None:
    process = Process("sleeper", tmp_path)
    process.start(["sleep", "60"])
    try:
        with pytest.raises(ServiceError, match=r"sleeper runs already \(pid \d+\): stop it first"):
            process.start(["sleep", "60"])
        assert process.stop()
        process.start(["sleep", "60"])
    finally:
        process.stop(kill=True)


def test_a_base_whose_manifest_is_damaged_is_gone_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "films" / "base-000000000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    store = ModelStore(str(tmp_path), "films")
    (refused,) = store.bases().refused
    assert isinstance(refused, CorruptArtifactError)
    assert str(refused).endswith("delete its folder")
    (folder / "manifest.json").unlink()
    folder.rmdir()
    assert store.bases().refused == ()


def test_a_misspelt_key_is_understood_as_it_is_suggested(path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        _changed(path, "[serving]\n", "[trainer]\nbatchsize = 7\n[serving]\n")
    suggested = re.search(r"trainer\.batchsize: unknown key; did you mean (\w+)\?", str(refused.value))
    assert suggested is not None
    assert _changed(path, "batchsize", suggested[1]).trainer.batch_size == 7
