"""Binary cross-entropy that undoes negative sampling.

A negative is kept with a known rate r, so the log-odds among kept rows are those of all rows minus ln r.
Training on ``logit - ln r`` makes the logit itself the calibrated one that is served. Source: Wang, Zhang
and Wang 2021, "Nonuniform negative sampling and log odds correction".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sampled_bce(logits: Tensor, labels: Tensor, mask: Tensor, sampling_rate: Tensor) -> Tensor:
    """Sum of the losses over a batch's rows and the tasks that they have labels for, in nats.

    A sum, so that what an embedding row learns from an example does not depend on the batch size.

    >>> logits, labels, mask = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), torch.ones(2, 1)
    >>> kept_all = sampled_bce(logits, labels, mask, torch.ones(2))
    >>> kept_half = sampled_bce(logits, labels, mask, torch.full((2,), 0.5))  # as if the odds were 2 to 1 among them
    >>> round(float(kept_all), 3), round(float(kept_half), 3)
    (1.386, 1.504)

    :param logits: float32[n, T], not corrected.
    :param labels: float32[n, T], 0 or 1.
    :param mask: float32[n, T], 1 where the row has a label for the task.
    :param sampling_rate: float32[n], in (0, 1]; stamped on positives too.
    """
    corrected = logits - torch.log(sampling_rate).unsqueeze(1)
    return (functional.binary_cross_entropy_with_logits(corrected, labels, reduction="none") * mask).sum()
