from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from rillet.trainer.loss import sampled_bce


def test_the_correction_recovers_the_unsampled_log_odds() -> None:
    # 10 positives and 90 negatives of which a tenth survives: the loss is least at the true log-odds.
    labels = torch.cat([torch.ones(100), torch.zeros(90)]).unsqueeze(1)
    rate = torch.full((190,), 0.1)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sampled_bce(bias.expand(190, 1), labels, torch.ones(190, 1), rate)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.sigmoid(bias).item() == pytest.approx(100 / 1000, rel=1e-3)


def test_masked_tasks_neither_count_nor_get_a_gradient() -> None:
    logits = torch.tensor([[0.3, 5.0], [2.0, -0.7]], requires_grad=True)
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = sampled_bce(logits, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), mask, torch.ones(2))
    loss.backward()
    expected = log_loss([1, 0], 1 / (1 + np.exp([-0.3, 0.7])), normalize=False)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad[mask == 0] == 0).all()
