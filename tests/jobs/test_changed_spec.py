"""A changed spec at train and serve, as docs/operations/changing-the-spec.md tells it; the joiner's records are written here."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from rillet.connectors.topics import topic_ends
from rillet.devstack.process import free_port
from rillet.jobs.config import RilletConfig, load_config
from rillet.jobs.services import probe, ready_url
from rillet.schemas import FeatureSpec, dump_spec, encode, parse_spec
from tests.trainer.blocks import RAGGED, make_block

pytestmark = pytest.mark.integration

WITH_STUDIO = parse_spec(dump_spec(RAGGED) + '\n[[item]]\nname = "studio"\nslot = 19\nkind = "id"\n')
WITH_TAGS = parse_spec(dump_spec(RAGGED) + '\n[[item]]\nname = "tags"\nslot = 21\nkind = "token"\nmax_values = 4\n')
TIMEOUT_S = 60.0


@pytest.fixture
def config(tmp_path: Path, broker: str, topics: Callable[..., str]) -> RilletConfig:
    names = "\n".join(f'{name} = "{topics(name)}"' for name in ("examples", "deltas", "dead_letters"))
    (tmp_path / "rillet.toml").write_text(
        f'spec = "films.spec.toml"\ndata_dir = "var"\n[kafka]\nbootstrap_servers = "{broker}"\npartitions = 1\n'
        f'[kafka.topics]\nfeatures = "{topics("features")}"\n{names}\n'
        '[model]\nname = "films"\ndim = 4\nhidden = [8]\n[trainer]\nbatch_size = 64\n'
        f"[health]\ntrain_port = 0\n[serving]\nport = {free_port()}\nbase_poll_interval_ms = 100\n"
    )
    _use(tmp_path, RAGGED)
    return load_config(tmp_path / "rillet.toml")


def _use(folder: Path, spec: FeatureSpec) -> None:
    (folder / "films.spec.toml").write_text(dump_spec(spec))


def _join(config: RilletConfig, spec: FeatureSpec, blocks: int) -> None:
    """What a joiner on a spec would write: blocks of ten rows."""
    producer = Producer({"bootstrap.servers": config.kafka.bootstrap_servers})
    for seed in range(blocks):
        block = make_block(np.random.default_rng(seed), 10, spec)
        producer.produce(config.kafka.topics.examples, encode(block), b"0")
    assert producer.flush(30) == 0


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rillet", *arguments, "--config", str(folder / "rillet.toml")]


def _train(folder: Path) -> str:
    """`rillet train --until-latest`; what it logged."""
    command = _command(folder, "train", "--until-latest")
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@contextmanager
def _serve(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(_command(folder, "serve"), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}")


@pytest.mark.timeout(300)
def test_a_changed_spec_is_trained_and_served_beside_the_old_one_and_back_again(
    config: RilletConfig, tmp_path: Path
) -> None:
    url = ready_url(config, "serve")
    assert url is not None
    _join(config, RAGGED, 30)
    assert "300 rows" in _train(tmp_path)

    _use(tmp_path, WITH_STUDIO)
    _join(config, WITH_STUDIO, 5)
    with _serve(tmp_path) as server:
        # Within seconds it says which base is there, and waits for one of its own spec.
        told = _line_with(server, "not ready")
        assert (
            f"of feature spec, crosses and transforms {RAGGED.model_hash:#x}, ours are {WITH_STUDIO.model_hash:#x}"
            in told
        )
        assert probe(url) == 503
        # The advice: start `rillet train` on our spec.
        said = _train(tmp_path)
        _until(lambda: probe(url) == 200)
    assert f"30 records of feature spec {RAGGED.hash:#x} were passed over" in said
    assert "model films begins anew" in said
    assert "50 rows" in said

    # Back to the old spec: its model goes on where it was, and is served again. It learns from what was joined under the
    # new one since, which it is told of.
    _use(tmp_path, RAGGED)
    (tmp_path / "studio.spec.toml").write_text(dump_spec(WITH_STUDIO))
    path = tmp_path / "rillet.toml"
    path.write_text(f'also_accepts = ["studio.spec.toml"]\n{path.read_text()}')
    _join(config, RAGGED, 2)
    said = _train(tmp_path)
    assert "going on from checkpoint" in said
    assert "370 rows" in said
    assert "passed over" not in said
    with _serve(tmp_path):
        _until(lambda: probe(url) == 200)
    # A spec that is new goes on from the model on the old one.
    _use(tmp_path, WITH_TAGS)
    (tmp_path / "ragged.spec.toml").write_text(dump_spec(RAGGED))
    path.write_text(path.read_text().replace('["studio', '["ragged.spec.toml", "studio'))
    _join(config, WITH_TAGS, 1)
    said = _train(tmp_path)
    assert re.search(r"going on from checkpoint \d+ of .*item.tags: added \(slot 21, token\)", said)
    assert "380 rows" in said
    with _serve(tmp_path):
        _until(lambda: probe(url) == 200)
    assert topic_ends(config.kafka.connection, config.kafka.topics.dead_letters) == {0: (0, 0)}
