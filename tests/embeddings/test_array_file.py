"""Files that are written piece by piece are read by safetensors, and are refused when they lack something."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load

from rillet.embeddings import array_file


@pytest.mark.parametrize("rows", [0, 1, 3, 1000])
def test_safetensors_reads_what_was_written_in_pieces(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "_PIECE_BYTES", 100)
    rng = np.random.default_rng(0)
    arrays = {"rows": rng.random((rows, 7), np.float32), "fids": rng.integers(0, 1 << 60, rows), "clock": np.arange(3)}
    halves = [half for array in arrays.values() for half in np.array_split(array, 2)]
    pieces = list(array_file.pieces(array_file.sizes_of(arrays), halves))
    assert max(map(len, pieces[1:])) <= 100
    found = load(b"".join(pieces))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(("given", "message"), [(3, "4 bytes early"), (5, "4 bytes late")])
def test_contents_of_another_size_are_refused(given: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        list(array_file.pieces({"a": (np.dtype(np.float32), (4,))}, [np.zeros(given, np.float32)]))
