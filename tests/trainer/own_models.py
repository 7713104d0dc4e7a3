"""Models of a user's own that cannot learn from every row."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class LogOfDense(nn.Module):
    """Takes the logarithm of dense features: those of 0 cannot be learned from."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.network = nn.Linear(segments * row_dim + dense, tasks)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        return cast(Tensor, self.network(torch.cat([embeddings.flatten(1), dense.log()], 1)))


class NormalisedLogOfDense(LogOfDense):
    """The same after batch normalisation, through which one row spoils all."""

    def __init__(self, segments: int, row_dim: int, dense: int, tasks: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__(segments, row_dim, dense, tasks)
        self.norm = nn.BatchNorm1d(dense)

    def forward(self, embeddings: Tensor, dense: Tensor) -> Tensor:
        """float32[n, S, E], float32[n, Dd] -> logits float32[n, T]."""
        return cast(Tensor, self.network(torch.cat([embeddings.flatten(1), self.norm(dense.log())], 1)))
