from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rillet.trainer import CheckpointStore, CorruptCheckpointError


def _files(seed: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {
        "table": {"fids": rng.integers(0, 99, 5), "empty": np.empty((0, 3), np.float32)},
        "dense": {"w": rng.normal(size=(2, 3)).astype(np.float32), "step": np.array(3.0, np.float32)},
    }


def _store(path: Path, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(str(path / "checkpoints"), keep=keep)


def _newest(store: CheckpointStore) -> tuple[int, list[str]]:
    refused: list[str] = []
    checkpoint = store.load_newest(lambda error: refused.append(str(error)))
    assert checkpoint is not None
    return checkpoint.version, refused


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    store = _store(tmp_path)
    version = store.save(_files(1), {"positions": {"0": [5, 2]}})
    checkpoint = store.load(version)
    assert checkpoint.meta == {"positions": {"0": [5, 2]}}
    for stem, arrays in _files(1).items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(checkpoint.files[stem][name], array)
            assert checkpoint.files[stem][name].dtype == array.dtype
            assert checkpoint.files[stem][name].shape == array.shape


def test_works_on_any_fsspec_file_system() -> None:
    store = CheckpointStore("memory://checkpoint-test", keep=1)
    store.save(_files(1), {})
    store.save(_files(2), {})
    assert _newest(store) == (2, [])
    assert store.versions() == [2]


def test_only_the_newest_versions_are_kept(tmp_path: Path) -> None:
    store = _store(tmp_path, keep=2)
    for seed in range(4):
        store.save(_files(seed), {})
    assert store.versions() == [3, 4]


@pytest.mark.parametrize("name", ["table.safetensors", "dense.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named_and_the_version_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    store = _store(tmp_path)
    store.save(_files(1), {})
    store.save(_files(2), {})
    path = tmp_path / "checkpoints" / "checkpoint-000000000002" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data if damage == "flip" else data[:-4])
    version, refused = _newest(store)
    assert version == 1
    assert len(refused) == 1
    assert name in refused[0]


@pytest.mark.parametrize("edit", ["cut", "positions"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, edit: str) -> None:
    store = _store(tmp_path)
    store.save(_files(1), {})
    store.save(_files(2), {"positions": {"0": [5, 2]}})
    path = tmp_path / "checkpoints" / "checkpoint-000000000002" / "manifest.json"
    if edit == "cut":
        path.write_text(path.read_text()[:-20])
    else:
        manifest = json.loads(path.read_text())
        manifest["meta"]["positions"]["0"] = [6, 2]
        path.write_text(json.dumps(manifest))
    version, refused = _newest(store)
    assert version == 1
    assert "manifest.json" in refused[0]


def test_starting_from_nothing_is_refused_when_every_version_is_damaged(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save(_files(1), {})
    (tmp_path / "checkpoints" / "checkpoint-000000000001" / "table.safetensors").write_bytes(b"")
    with pytest.raises(CorruptCheckpointError, match=r"table\.safetensors"):
        store.load_newest(lambda error: None)


def test_a_version_cut_off_before_its_manifest_does_not_count(tmp_path: Path) -> None:
    store = _store(tmp_path)
    assert store.load_newest(lambda error: None) is None
    store.save(_files(1), {})
    unfinished = tmp_path / "checkpoints" / "checkpoint-000000000002"
    unfinished.mkdir()
    (unfinished / "table.safetensors").write_bytes(b"half")
    assert _newest(store) == (1, [])
    assert store.save(_files(3), {}) == 3
    assert not unfinished.exists()
