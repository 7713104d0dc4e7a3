"""A program's archive cannot make the server run code of its own; what exports of plain models hold is let through."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rillet.serving.archive import plain_archive
from rillet.serving.errors import ProgramError
from rillet.serving.program import DenseProgram
from tests.serving.helpers import WIDTH, Dense, demo_spec, exported, exported_linear

_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_GRAPH = "models/model.json"
Records = dict[str, bytes]


class _Exploit:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


@pytest.fixture(scope="module")
def records() -> Records:
    with zipfile.ZipFile(io.BytesIO(exported_linear())) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _zipped(records: Records, **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def _saved(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def _load(data: bytes) -> DenseProgram:
    return DenseProgram(data, segments=8, embedding_width=WIDTH, dense_width=0, tasks=2)


def _pickled_weight(records: Records, marker: Path) -> None:
    config = json.loads(records[_WEIGHTS])
    config["config"]["bias"]["use_pickle"] = True
    records[_WEIGHTS] = json.dumps(config).encode()
    records["data/weights/weight_0"] = _saved(_Exploit(marker))


def _constant(records: Records, file: str, content: bytes) -> None:
    meta = {"path_name": file, "is_param": False, "use_pickle": True, "tensor_meta": None}
    records[_CONSTANTS] = json.dumps({"config": {"c": meta}}).encode()
    records[f"data/constants/{file}"] = content


def _pickled_constant(records: Records, marker: Path) -> None:
    _constant(records, "tensor_0", _saved(_Exploit(marker)))


def _opaque_object(records: Records, marker: Path) -> None:
    _constant(records, "opaque_obj_0", pickle.dumps(_Exploit(marker)))


def _legacy_weights(records: Records, marker: Path) -> None:
    records["data/weights/model.pt"] = _saved(_Exploit(marker))


def _size_expression(records: Records, marker: Path) -> None:
    evil = f"__import__('pathlib').Path('{marker}').touch()"
    _replace_expression(records, evil)


def _size_expression_in_a_string(records: Records, marker: Path) -> None:
    _replace_expression(records, f"""Max("__import__('pathlib').Path('{marker}').touch()", 1)""")


def _replace_expression(records: Records, expression: str) -> None:
    graph = records[_GRAPH].decode()
    found = re.search(r'"expr_str": ("Symbol[^"]*")', graph)
    assert found is not None
    records[_GRAPH] = (graph[: found.start(1)] + json.dumps(expression) + graph[found.end(1) :]).encode()


_EXPLOITS = [
    _pickled_weight,
    _pickled_constant,
    _opaque_object,
    _legacy_weights,
    _size_expression,
    _size_expression_in_a_string,
]


@pytest.mark.parametrize("exploit", _EXPLOITS)
def test_code_in_an_archive_is_refused_before_it_runs(
    records: Records, tmp_path: Path, exploit: Callable[[Records, Path], None]
) -> None:
    bad, marker = dict(records), tmp_path / "ran"
    exploit(bad, marker)
    with pytest.raises(ProgramError):
        _load(_zipped(bad))
    assert not marker.exists()


@pytest.mark.parametrize("exploit", _EXPLOITS)
def test_each_exploit_works_on_the_bare_loader(
    records: Records, tmp_path: Path, exploit: Callable[[Records, Path], None]
) -> None:
    """Or the test above proves nothing."""
    bad, marker = dict(records), tmp_path / "ran"
    exploit(bad, marker)
    with contextlib.suppress(Exception):  # whatever it says after it has run
        torch.export.load(io.BytesIO(_zipped(bad)))
    assert marker.exists()


def test_pickled_sample_inputs_are_not_read(records: Records, tmp_path: Path) -> None:
    bad, marker = dict(records), tmp_path / "ran"
    bad["data/sample_inputs/model.pt"] = _saved(_Exploit(marker))
    logits = _load(_zipped(bad))(np.zeros((3, 8, WIDTH), np.float32), np.zeros((3, 0), np.float32))
    assert logits.shape == (3, 2)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/a.so", "extra/x", "version", "../x", "data/weights/weight_x"])
def test_records_of_no_plain_program_are_refused(records: Records, name: str) -> None:
    with pytest.raises(ProgramError, match="no plain program"):
        plain_archive(_zipped({**records, name: b"x"}))


def test_compressed_archives_are_refused_unread(records: Records) -> None:
    with pytest.raises(ProgramError, match="compressed"):
        plain_archive(_zipped(records, compression=zipfile.ZIP_DEFLATED))


def test_a_name_that_stands_twice_is_refused(records: Records) -> None:
    out = io.BytesIO(_zipped(records))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(f"other/{_WEIGHTS}", records[_WEIGHTS])
    with pytest.raises(ProgramError, match="twice"):
        plain_archive(out.getvalue())


def test_a_plain_program_scores_as_before() -> None:
    torch.manual_seed(0)
    model = Dense(8, 0, 2)
    embeddings = np.random.default_rng(0).normal(size=(5, 8, WIDTH)).astype(np.float32)
    expected = model(torch.from_numpy(embeddings), torch.zeros(5, 0)).detach().numpy()
    dense = _load(exported(model, demo_spec()))
    np.testing.assert_allclose(dense(embeddings, np.zeros((5, 0), np.float32)), expected, rtol=1e-5, atol=1e-6)
