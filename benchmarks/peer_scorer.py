"""A peer's process as one more scorer of a backtest: same requests, same labels, same delays."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from rillet.backtest.errors import BacktestError
from rillet.benchmarks.peers.frames import Arrays, read_frame, write_frame
from rillet.schemas import ExampleBlock, FeatureEvent, FeatureSpec
from rillet.schemas.arrays import Float32s, Int64s, UInt16s, range_indices
from rillet.schemas.example_rows import fids_of_blocks

_FOLDER = Path(__file__).resolve().parent
_END_S = 10.0


class PeerScorer:
    """Scores and learns one task in a process of another environment.

    A label is 0 or 1. A negative that survived sampling at rate r is learned with weight 1/r, as the peers' users would.
    """

    def __init__(self, python: Path, module: str, options: str, spec: FeatureSpec, task: int = 0) -> None:
        """
        :param python: interpreter of an environment that has the peer.
        :param module: of ``benchmarks/peers``.
        :param options: what the module takes.
        """
        self._what = f"{module} {options}"
        self._spec = spec
        self._tasks, self._task = len(spec.tasks), task
        self._context, self._item = len(spec.context), len(spec.item)
        self._dense = len(spec.dense)
        self._blocks: list[ExampleBlock] = []
        #: rows learned and scored
        self.learned_rows = self.scored_rows = 0
        #: CPU time spent on writing rows in the library's form, and inside the library; known once it is closed
        self.prepare_s = self.library_s = math.nan
        path = os.pathsep.join([str(_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(  # noqa: S603
            [str(python), "-m", f"peers.{module}", str(len(spec.slots)), str(self._dense), options],
            cwd=_FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # One thread, as everything that is compared by the time of a core.
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def learn(self, visible_ms: int, block: ExampleBlock) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        self._blocks.append(block)

    def publish(self, now_ms: int, *, dense: bool) -> None:
        """See :class:`~rillet.backtest.scorers.Scorer`."""
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return
        columns = {
            name: np.concatenate([getattr(block, name) for block in blocks]) for name in ("dense", "sampling_rate")
        }
        labels, mask = (
            np.concatenate([getattr(block, name) for block in blocks]).reshape(-1, self._tasks)[:, self._task]
            for name in ("labels", "mask")
        )
        columns["fids"], some_lengths = fids_of_blocks(blocks, self._spec)
        lengths = self._lengths(some_lengths, len(mask))
        kept = np.flatnonzero(mask)
        starts = np.concatenate(([0], np.cumsum(lengths.sum(axis=1, dtype=np.int64))))
        weights = np.where(labels == 0, 1 / columns["sampling_rate"].astype(np.float64), 1.0)
        self.learned_rows += len(kept)
        self._send(
            "learn",
            {
                "fids": columns["fids"][range_indices(starts[kept], starts[kept + 1] - starts[kept])],
                "lengths": lengths[kept].reshape(-1),
                "dense": columns["dense"].reshape(len(mask), self._dense)[kept].reshape(-1),
                "labels": labels[kept],
                "weights": weights[kept],
            },
        )

    def score(self, requests: Sequence[FeatureEvent]) -> Float32s:
        """See :class:`~rillet.backtest.scorers.Scorer`; NaN for the tasks that are not the peer's."""
        fids, lengths = self._columns(requests)
        self.scored_rows += len(lengths)
        dense = np.concatenate([event.dense for event in requests])
        self._send("score", {"fids": fids, "lengths": lengths.reshape(-1), "dense": dense})
        _, arrays = self._answer()
        logits = np.full((len(lengths), self._tasks), np.nan, np.float32)
        logits[:, self._task] = arrays["scores"]
        return logits

    def rows_per_second(self) -> float:
        """Rows learned and scored per second of CPU time, with their preparation; NaN until it is closed."""
        return (self.learned_rows + self.scored_rows) / (self.prepare_s + self.library_s)

    def close(self) -> None:
        """Asks for the time that it took, and ends the process."""
        process = self._process
        try:
            if process.poll() is None:
                self._send("figures", {})
                values, _ = self._answer()
                self.prepare_s, self.library_s = values["prepare_s"], values["library_s"]
        finally:
            with suppress(BrokenPipeError):  # it has ended, and what was buffered has nowhere to go
                self._stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _columns(self, requests: Sequence[FeatureEvent]) -> tuple[Int64s, UInt16s]:
        """Fids of every impression, its request's context first, and lengths uint16[rows, S]."""
        fids: list[Int64s] = []
        lengths: list[UInt16s] = []
        for event in requests:
            rows = len(event.impression_ids)
            of_context = _or_ones(event.context_lengths, self._context).reshape(1, -1)
            of_items = _or_ones(event.item_lengths, rows * self._item).reshape(rows, self._item)
            ends = np.cumsum(of_items.sum(axis=1, dtype=np.int64)).tolist()
            begin = 0
            for end in ends:
                fids += (event.context_fids, event.item_fids[begin:end])
                begin = end
            lengths.append(np.concatenate((np.repeat(of_context, rows, axis=0), of_items), axis=1))
        return np.concatenate(fids), np.concatenate(lengths)

    def _lengths(self, lengths: UInt16s | None, rows: int) -> UInt16s:
        return _or_ones(lengths, rows * (self._context + self._item)).reshape(rows, -1)

    @property
    def _stdin(self) -> BinaryIO:
        return cast(BinaryIO, self._process.stdin)

    def _send(self, kind: str, arrays: Arrays) -> None:
        try:
            write_frame(self._stdin, kind, arrays)
        except OSError as error:
            raise self._ended() from error

    def _answer(self) -> tuple[dict[str, float], Arrays]:
        frame = read_frame(cast(BinaryIO, self._process.stdout))
        if frame is None:
            raise self._ended()
        return frame[1], frame[2]

    def _ended(self) -> BacktestError:
        return BacktestError(f"{self._what}: its process ended with {self._process.wait()}; see its last words above")


def _or_ones(lengths: UInt16s | None, count: int) -> UInt16s:
    return np.ones(count, np.uint16) if lengths is None else lengths
