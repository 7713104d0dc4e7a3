"""The dense part of the model: a ``torch.export`` program and its current weights; needs no model code."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping

import numpy as np
import torch

from rillet.schemas.arrays import Float32s
from rillet.serving.archive import plain_archive
from rillet.serving.errors import ProgramError


class DenseProgram:
    """``logits float32[n, T] = program(embeddings float32[n, S, E], dense float32[n, Dd])``. One thread only."""

    def __init__(self, program: bytes, *, segments: int, embedding_width: int, dense_width: int, tasks: int) -> None:
        """
        :param program: what ``torch.export.save`` wrote.
        :raises ProgramError: it does not load, would run code of its own, or does not have these shapes.
        """
        try:
            exported = torch.export.load(io.BytesIO(plain_archive(program)))
            # The guards cost more than the model for a request of ten rows; the shapes are ours and checked below.
            self._module: torch.nn.Module = exported.module(check_guards=False)
        except ProgramError:
            raise
        # Arbitrary bytes make the loader fail in many ways (zip, json, schema version): all mean the same here.
        except Exception as error:
            raise ProgramError(f"the dense program does not load: {type(error).__name__}: {error}") from error
        self._thread = 0
        self._state: dict[str, torch.Tensor] = dict(self._module.state_dict())
        self._tasks = tasks
        for rows in (1, 3):  # 3 finds a program exported for one row
            try:
                logits = self(
                    np.zeros((rows, segments, embedding_width), np.float32), np.zeros((rows, dense_width), np.float32)
                )
            except (RuntimeError, TypeError, ValueError) as error:
                raise ProgramError(
                    f"the dense program does not take embeddings [{rows}, {segments}, {embedding_width}] and "
                    f"dense [{rows}, {dense_width}]: {error}"
                ) from error
            if logits.shape != (rows, tasks):
                raise ProgramError(f"the dense program gives {list(logits.shape)}, expected [{rows}, {tasks}]")

    def __call__(self, embeddings: Float32s, dense: Float32s) -> Float32s:
        """Logits float32[n, T] of embeddings float32[n, S, E] and dense float32[n, Dd]."""
        if (thread := threading.get_ident()) != self._thread:
            # OpenMP keeps a number of threads per calling thread, so what the process set at its start does not
            # apply here. More than one make small batches slower, and spin while others need the processor.
            torch.set_num_threads(1)
            self._thread = thread
        with torch.inference_mode():
            # forward and not the call: the call runs the exporter's input constraints, see above.
            logits = self._module.forward(torch.from_numpy(embeddings), torch.from_numpy(dense))
        array: Float32s = logits.numpy()
        return array

    def load_weights(self, weights: Mapping[str, Float32s]) -> None:
        """Replaces all weights; between two calls, so that every call sees one version.

        :raises ProgramError: other names or shapes than the program's, or a number that is not finite. The weights are
            as before then.
        """
        if weights.keys() != self._state.keys():
            raise ProgramError(
                f"dense weights: names {sorted(weights.keys() ^ self._state.keys())} are not on both sides"
            )
        for name, tensor in self._state.items():
            array = weights[name]
            if tuple(array.shape) != tuple(tensor.shape):
                raise ProgramError(f"dense weights: {name} is {list(array.shape)}, expected {list(tensor.shape)}")
            if not np.isfinite(array).all():
                raise ProgramError(f"dense weights: {name} has a number that is not finite")
        with torch.no_grad():
            for name, tensor in self._state.items():
                tensor.copy_(torch.from_numpy(np.array(weights[name])))
