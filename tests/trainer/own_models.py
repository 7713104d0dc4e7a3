"""Models of a user's own that cannot learn from every row."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rillet.trainer.dense_inputs import LIMIT


class LogToBound(nn.Module):
    """Takes the logarithm of what dense features lack to their bound: those at the bound cannot be learned from."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.network = nn.Linear(segments * row_dim + dense, tasks)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        return cast(Tensor, self.network(torch.cat([embeddings.flatten(1), (LIMIT - dense).log()], 1)))


class NormalisedLogToBound(LogToBound):
    """The same after batch normalisation, through which one row spoils all."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__(segments, row_dim, dense, tasks)
        self.norm = nn.BatchNorm1d(dense)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        return cast(Tensor, self.network(torch.cat([embeddings.flatten(1), self.norm((LIMIT - dense).log())], 1)))


class SteepBias(nn.Module):
    """The square of one row's gradient is below the largest float32, and that of several rows' is not."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        return embeddings.sum((1, 2)).unsqueeze(1) + 1e19 * self.bias
