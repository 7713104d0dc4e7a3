"""The trainer that is wired from a configuration; nothing is reached before it runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rillet.connectors.delta_log import KafkaDeltaLog
from rillet.connectors.errors import MetricFilesError
from rillet.jobs import train
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.errors import ConfigError, ServiceError
from rillet.jobs.train import wire_trainer
from rillet.schemas import ClosedError, Task, dump_spec
from rillet.trainer import CheckpointError, CheckpointStore, OnlineTrainer
from tests.trainer.blocks import RAGGED


@pytest.fixture
def config(tmp_path: Path) -> RilletConfig:
    (tmp_path / "films.spec.toml").write_text(dump_spec(RAGGED))
    (tmp_path / "rillet.toml").write_text(
        'spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n'
        '[model]\nname = "films"\ndim = 4\nhidden = [8]\n'
    )
    return load_config(tmp_path / "rillet.toml")


def test_it_can_be_made_and_closed_without_a_broker(config: RilletConfig) -> None:
    loop = wire_trainer(config)
    assert not loop.ready
    loop.close()
    assert "example-reader" not in {thread.name for thread in threading.enumerate()}


def test_a_model_goes_on_from_its_checkpoint_on_an_accepted_spec(
    tmp_path: Path, config: RilletConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rillet.jobs.train")
    trainer = OnlineTrainer(RAGGED, config.model, config.table, config.trainer)
    trainer.counters.rows = 77
    trainer.positions = {0: (5, 0)}
    trainer.save(CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=1), {"publisher": None})
    spec = replace(RAGGED, tasks=(*RAGGED.tasks, Task("share", "share", 1_000)))
    (tmp_path / "old.spec.toml").write_text(dump_spec(RAGGED))
    (tmp_path / "films.spec.toml").write_text(dump_spec(spec))
    text = (tmp_path / "rillet.toml").read_text()
    (tmp_path / "rillet.toml").write_text(f'also_accepts = ["old.spec.toml"]\n{text}')
    loop = wire_trainer(load_config(tmp_path / "rillet.toml"))
    try:
        assert loop._trainer.counters.rows == 77
        assert loop._trainer.positions == {0: (5, 0)}
    finally:
        loop.close()
    told = [record.getMessage() for record in caplog.records if "going on from checkpoint 1 of" in record.getMessage()]
    assert len(told) == 1
    assert "(tasks.share: added (action share): goes on; its output starts at its initial weights)" in told[0]


def test_a_seed_below_zero_is_refused_with_its_key(tmp_path: Path, config: RilletConfig) -> None:
    path = tmp_path / "rillet.toml"
    path.write_text(path.read_text() + "seed = -1\n")
    with pytest.raises(ConfigError, match=r"model.*seed.*-1"):
        load_config(path)


@pytest.mark.parametrize("key", ["metrics_file", "tensorboard_dir"])
def test_files_of_metrics_lie_below_data_dir_and_are_refused_with_their_key_before_anything_is_reached(
    tmp_path: Path, config: RilletConfig, key: str
) -> None:
    config = replace(config, trainer=replace(config.trainer, **{key: "metrics/out"}))
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "metrics").write_text("a file where a folder is needed")
    with pytest.raises(MetricFilesError, match=rf"^trainer\.{key}: {tmp_path}/var/metrics.* cannot be written"):
        wire_trainer(config).run(threading.Event())


def test_a_checkpoint_of_another_model_is_refused(config: RilletConfig, tmp_path: Path) -> None:
    trainer = OnlineTrainer(RAGGED, config.model, config.table, config.trainer)
    trainer.save(
        CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=1), {"publisher": {"epoch": 1, "position": 0}}
    )
    wire_trainer(config).close()
    (tmp_path / "rillet.toml").write_text((tmp_path / "rillet.toml").read_text().replace("dim = 4", "dim = 8"))
    with pytest.raises(CheckpointError, match="row_dim"):
        wire_trainer(load_config(tmp_path / "rillet.toml"))


@pytest.mark.parametrize("blocked", ["checkpoints", "store"])
def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start_instead_of_a_warning_for_ever(
    config: RilletConfig, tmp_path: Path, blocked: str
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / blocked).write_text("a file in the way of a folder")
    with pytest.raises(ServiceError, match=rf"{tmp_path}/var/{blocked}\S* cannot be written to"):
        wire_trainer(config)


def test_a_model_of_another_name_in_the_same_data_dir_begins_anew(config: RilletConfig, tmp_path: Path) -> None:
    trainer = OnlineTrainer(RAGGED, config.model, config.table, config.trainer)
    trainer.save(
        CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=1), {"publisher": {"epoch": 1, "position": 0}}
    )
    text = (tmp_path / "rillet.toml").read_text()
    # Other sizes are refused under the name that has the checkpoint; another name has none.
    (tmp_path / "rillet.toml").write_text(text.replace('"films"\ndim = 4', '"wider_films"\ndim = 8'))
    other = load_config(tmp_path / "rillet.toml")
    assert other.model.name == "wider_films"
    assert other.checkpoint_dir(RAGGED).parents[1] == config.checkpoint_dir(RAGGED).parents[1]
    wire_trainer(other).close()
    assert CheckpointStore(str(other.checkpoint_dir(RAGGED)), keep=1).versions() == []


def test_a_changed_spec_begins_a_new_model_beside_the_old_one_which_is_there_when_the_spec_is_changed_back(
    config: RilletConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = OnlineTrainer(RAGGED, config.model, config.table, config.trainer)
    trainer.save(
        CheckpointStore(str(config.checkpoint_dir(RAGGED)), keep=1), {"publisher": {"epoch": 1, "position": 0}}
    )
    caplog.set_level("INFO", "rillet.jobs.train")
    spec = (tmp_path / "films.spec.toml").read_text()
    (tmp_path / "films.spec.toml").write_text(spec + '\n[[item]]\nname = "studio"\nslot = 19\nkind = "id"\n')
    wire_trainer(config).close()
    assert "going on from checkpoint" not in caplog.text
    (tmp_path / "films.spec.toml").write_text(spec)
    wire_trainer(config).close()
    assert "going on from checkpoint 1" in caplog.text


def test_its_delta_log_is_closed_with_it(config: RilletConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    logs: list[KafkaDeltaLog] = []

    class Watched(KafkaDeltaLog):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            logs.append(self)

    monkeypatch.setattr(train, "KafkaDeltaLog", Watched)
    wire_trainer(config).close()
    with pytest.raises(ClosedError):
        logs[0].append(b"key", b"value")
