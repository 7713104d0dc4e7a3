"""Bases appear whole or not at all, and what was altered is refused by name."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from rillet.sync import Base, BaseNotFoundError, CorruptArtifactError, Manifest, ModelStore, StoreUnavailableError
from rillet.sync.store import DENSE, EMBEDDINGS, MANIFEST, PROGRAM, SPEC


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    url = str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return ModelStore(url, "m")


def base(version: int, epoch: int = 1, rows: int = 3) -> Base:
    manifest = Manifest(
        model="m", table="embeddings", version=version, epoch=epoch, next_sequence=2, next_offsets={0: 10 * version},
        model_hash=-7, dim=2, rows=rows, newest_event_ms=5, newest_ingest_ms=6, created_ms=7,
    )  # fmt: skip
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + version
    return Base(manifest, np.arange(1, rows + 1), values, {"b": np.ones(2), "a": np.zeros(0)}, b"\0program", "spec €")


def path_of(store: ModelStore, name: str) -> str:
    return f"{store.url}/m/{name}"


def alter(store: ModelStore, name: str) -> None:
    fs, path = fsspec.core.url_to_fs(path_of(store, name))
    data = bytearray(fs.cat_file(path))
    data[-1] ^= 1
    fs.pipe_file(path, bytes(data))


def remove(store: ModelStore, name: str) -> None:
    fs, path = fsspec.core.url_to_fs(path_of(store, name))
    fs.rm_file(path)


def folder_of(store: ModelStore, name: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(path_of(store, name))
    return sorted(str(entry).rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False))


def test_a_base_comes_back_as_written(store: ModelStore) -> None:
    written = base(4)
    manifest = store.write_base(written)
    found = store.newest_base()

    assert found.manifest == manifest
    assert replace(manifest, files={}) == written.manifest
    assert np.array_equal(found.fids, written.fids)
    assert np.array_equal(found.rows, written.rows)
    assert {name: value.tolist() for name, value in found.dense.items()} == {"a": [], "b": [1.0, 1.0]}
    assert (found.program, found.spec_toml) == (b"\0program", "spec €")
    assert folder_of(store, "base-000000000004") == sorted([EMBEDDINGS, DENSE, PROGRAM, SPEC, MANIFEST])


def test_an_empty_table_makes_a_base(store: ModelStore) -> None:
    store.write_base(base(1, rows=0))
    assert store.newest_base().rows.shape == (0, 2)


def test_equal_contents_are_equal_bytes(store: ModelStore) -> None:
    first, second = store.write_base(base(1)), store.write_base(base(1))
    assert first.files == second.files


def test_a_store_without_a_base_says_so(store: ModelStore) -> None:
    assert store.bases().manifests == ()
    assert store.newest_version() == 0
    with pytest.raises(BaseNotFoundError, match="no usable base of model 'm'"):
        store.newest_base()


def test_a_base_without_its_manifest_is_not_seen(store: ModelStore) -> None:
    store.write_base(base(1))
    store.write_base(base(2))
    remove(store, f"base-000000000002/{MANIFEST}")
    assert store.newest_base().manifest.version == 1
    assert store.newest_version() == 2


@pytest.mark.parametrize("name", [EMBEDDINGS, DENSE, PROGRAM, SPEC])
@pytest.mark.parametrize("harm", [alter, remove])
def test_a_damaged_base_is_refused_by_name_and_the_one_before_it_taken(
    store: ModelStore, name: str, harm: object
) -> None:
    store.write_base(base(1))
    store.write_base(base(2))
    harm(store, f"base-000000000002/{name}")  # type: ignore[operator]
    refused: list[CorruptArtifactError] = []

    assert store.newest_base(on_refused=refused.append).manifest.version == 1
    assert len(refused) == 1
    assert f"base-000000000002/{name}" in str(refused[0])


def test_a_torn_manifest_is_refused_by_name(store: ModelStore) -> None:
    store.write_base(base(1))
    store.write_base(base(2))
    fs, path = fsspec.core.url_to_fs(path_of(store, f"base-000000000002/{MANIFEST}"))
    fs.pipe_file(path, fs.cat_file(path)[:100])
    refused: list[CorruptArtifactError] = []

    assert store.newest_base(on_refused=refused.append).manifest.version == 1
    assert "base-000000000002/manifest.json is no manifest" in str(refused[0])


def test_when_all_are_damaged_the_error_names_them(store: ModelStore) -> None:
    store.write_base(base(1))
    alter(store, f"base-000000000001/{EMBEDDINGS}")
    with pytest.raises(BaseNotFoundError, match=r"damaged: .*base-000000000001/embeddings.safetensors has SHA-256"):
        store.newest_base()


def test_rows_that_are_not_finite_make_a_base_unusable(store: ModelStore) -> None:
    poisoned = base(2)
    poisoned.rows[1, 1] = np.nan
    store.write_base(base(1))
    store.write_base(poisoned)
    assert store.newest_base().manifest.version == 1


def test_a_newer_epoch_beats_a_newer_version(store: ModelStore) -> None:
    store.write_base(base(3, epoch=2))
    store.write_base(base(4, epoch=1))
    assert [manifest.version for manifest in store.bases().manifests] == [3, 4]
    assert store.newest_base().manifest.version == 3


def test_only_acceptable_bases_are_taken(store: ModelStore) -> None:
    for version in (1, 2, 3):
        store.write_base(base(version))
    assert store.newest_base(lambda manifest: manifest.next_offset <= 25).manifest.version == 2
    with pytest.raises(BaseNotFoundError, match=r"not fitting: base-000000000003 \(next offset 30, .* -0x7\)"):
        store.newest_base(lambda manifest: False)


def test_models_do_not_see_each_other(store: ModelStore) -> None:
    store.write_base(base(1))
    assert ModelStore(store.url, "other").bases().manifests == ()


def test_garbage_collection_keeps_the_newest(store: ModelStore) -> None:
    for version in range(1, 6):
        store.write_base(base(version))
        store.write_dense(version, {"w": np.ones(1)})
    remove(store, f"base-000000000002/{MANIFEST}")

    deleted = store.collect_garbage(keep_bases=2, keep_dense=3)

    assert [manifest.version for manifest in store.bases().manifests] == [5, 4]
    assert folder_of(store, "") == ["base-000000000004", "base-000000000005", "dense"]
    assert folder_of(store, "dense") == [f"{version:012d}.safetensors" for version in (3, 4, 5)]
    assert len(deleted) == 5
    assert store.newest_base().manifest.version == 5


def test_garbage_collection_leaves_a_base_that_is_being_written(store: ModelStore) -> None:
    store.write_base(base(1))
    store.write_base(base(2))
    remove(store, f"base-000000000002/{MANIFEST}")
    assert store.collect_garbage(keep_bases=1, keep_dense=1) == []
    assert f"{PROGRAM}" in folder_of(store, "base-000000000002")


def test_dense_weights_come_back_and_are_checked(store: ModelStore) -> None:
    weights = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(3)}
    path, digest = store.write_dense(8, weights)
    found = store.load_dense(path, digest)

    assert path == "dense/000000000008.safetensors"
    assert sorted(found) == ["a.weight", "step"]
    assert np.array_equal(found["a.weight"], weights["a.weight"])
    assert {name: value.shape for name, value in found.items()} == {"a.weight": (2, 3), "step": ()}
    alter(store, path)
    with pytest.raises(CorruptArtifactError, match=r"000000000008\.safetensors has SHA-256"):
        store.load_dense(path, digest)
    remove(store, path)
    with pytest.raises(CorruptArtifactError, match="missing"):
        store.load_dense(path, digest)


@pytest.mark.parametrize(
    "path",
    [
        "/{root}/other/dense/000000000001.safetensors",
        "../other/dense/000000000001.safetensors",
        "dense/../../other/dense/000000000001.safetensors",
        "dense/000000000001.safetensors\n",
        "base-000000000001/dense.safetensors",
    ],
)
def test_a_dense_path_that_the_store_does_not_write_is_refused_unread(tmp_path: Path, path: str) -> None:
    store, other = ModelStore(str(tmp_path), "m"), ModelStore(str(tmp_path), "other")
    digest = other.write_dense(1, {"w": np.ones(1)})[1]
    store.write_dense(1, {"w": np.ones(1)})
    store.write_base(replace(base(1), dense={"w": np.ones(1)}))
    with pytest.raises(CorruptArtifactError, match="is no path of a dense blob of model 'm'"):
        store.load_dense(path.format(root=str(tmp_path).lstrip("/")), digest)


def test_a_manifest_that_lists_a_file_of_elsewhere_is_refused(store: ModelStore) -> None:
    store.write_base(base(1))
    manifest = store.write_base(base(2))
    files = {**manifest.files, "../../secret": manifest.files[SPEC]}
    fs, path = fsspec.core.url_to_fs(path_of(store, f"base-000000000002/{MANIFEST}"))
    fs.pipe_file(path, replace(manifest, files=files).to_json())
    refused: list[CorruptArtifactError] = []

    assert store.newest_base(on_refused=refused.append).manifest.version == 1
    assert "'../../secret'" in str(refused[0])


def test_a_folder_that_vanishes_while_written_is_an_unavailable_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(str(tmp_path), "m")
    monkeypatch.setattr(store._files._fs, "makedirs", lambda path, exist_ok: None)
    with pytest.raises(StoreUnavailableError, match="cannot be written"):
        store.write_base(base(1))


def test_a_file_system_that_does_not_exist_is_named() -> None:
    with pytest.raises(StoreUnavailableError, match="nosuch://bucket"):
        ModelStore("nosuch://bucket", "m")


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailableError, match=r"file/m/.*cannot be written"):
        ModelStore(str(tmp_path / "file"), "m").write_base(base(1))


def test_a_model_is_deleted_with_all_of_its_files_and_none_of_somebody_elses(store: ModelStore) -> None:
    store.delete()
    store.write_base(base(1))
    store.write_dense(2, {"a": np.ones(2)})
    fs, path = fsspec.core.url_to_fs(path_of(store, "base-000000000001/notes.txt"))
    fs.pipe_file(path, b"somebody's")
    own, others = store.contents()
    assert (own[0], len(own), others) == (f"base-000000000001/{MANIFEST}", 6, ["base-000000000001/notes.txt"])
    store.delete()
    assert store.contents() == ([], ["base-000000000001/notes.txt"])
    fs.rm_file(path)
    store.delete()
    assert not fs.exists(path_of(store, "").rstrip("/")) or not fs.ls(path_of(store, "").rstrip("/"))
