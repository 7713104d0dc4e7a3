"""Binary cross-entropy that undoes how rows were chosen, so that the logit itself is calibrated.

What a model is asked is the log-odds z of an impression. What it is taught are rows, whose log-odds differ from z in a
known way; the loss is that of the rows. r is the rate at which negatives were kept.

* Pair rows (``positives_first``, ``aligned``): an impression is a positive row, or a negative row with probability r.
  Among the rows the log-odds are z - ln r. Source: Wang, Zhang and Wang 2021, "Nonuniform negative sampling and log
  odds correction".
* Exposure rows (``immediate``): an impression is a negative row with probability r, and a positive row as well if an
  action comes, with p = sigmoid(z). Among the rows the odds are p : r, the log-odds ln p - ln r. At r = 1 this is what
  Ktena et al. 2019, "Addressing delayed feedback for continuous training", section 4.5, call fake negative calibration.
  With b = p / (p + r), the share of positives among the rows, the likelihood has the gradient (1 - p)(b - label): what is
  too high falls slowly, so that noise settles too high. The gradient b - label vanishes at the same z, pulls from both
  sides alike, and is that of a convex loss, ln(r + (1 + r) e^z) / (1 + r) - label * z. It finds low rates later, so a
  model begins with the likelihood and leaves it (``likelihood_share``).
* A late positive comes after its pair gave a negative row, which was kept and sent. It is learned as a positive, and takes
  back what that row taught: the loss of a negative row. An action that comes late to a pair whose negative the sample left
  out gives an ordinary positive row: there is nothing to take back. With e the probability of an action in time, p that of any
  action, and P and N the gradients of a positive and a negative row, a pair's gradient is in expectation

      e P + (1 - p) r N  +  (p - e) (r (N + P - N) + (1 - r) P)  =  p P + r (1 - p) N,

  that of pair rows whose actions all came in time: whatever e is, so however short the wait before the negative, at any rate, by
  pair or by score. P - N is -1, so a late positive pulls up by its whole weight wherever the score is, and its own loss has no
  minimum; that of both rows together has. Its negative was learned at the weights of then and is taken back at those of now,
  which differ by the steps in between.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sampled_bce(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    sampling_rate: Tensor,
    exposure: Tensor,
    late: Tensor,
    likelihood_share: float = 1.0,
) -> Tensor:
    """Sum of the negative log-likelihoods over a batch's rows and the tasks that they have labels for, in nats.

    A sum, so that what an embedding row learns from an example does not depend on the batch size.

    >>> logits, labels, mask = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), torch.ones(2, 1)
    >>> no, half = torch.zeros(2, dtype=torch.bool), torch.full((2,), 0.5)
    >>> kept_all = sampled_bce(logits, labels, mask, torch.ones(2), exposure=no, late=no)
    >>> kept_half = sampled_bce(logits, labels, mask, half, exposure=no, late=no)  # as if the odds were 2 to 1 among them
    >>> round(float(kept_all), 3), round(float(kept_half), 3)
    (1.386, 1.504)

    :param logits: float32[n, T], not corrected.
    :param labels: float32[n, T], 0 or 1.
    :param mask: float32[n, T], 1 where the row has a label for the task.
    :param sampling_rate: float32[n], in (0, 1]; stamped on positives too.
    :param exposure: bool[n], True for exposure rows, see the module's text.
    :param late: bool[n], True for late positives, each of which takes back a negative row.
    :param likelihood_share: of the gradient of exposure rows; the rest is that of the convex loss. The value is the
        likelihood's in any case.
    """
    log_odds = torch.where(exposure.unsqueeze(1), functional.logsigmoid(logits), logits)
    corrected = log_odds - torch.log(sampling_rate).unsqueeze(1)
    losses = functional.binary_cross_entropy_with_logits(corrected, labels, reduction="none")
    if late.any():
        losses = losses.index_put((late,), losses[late] - functional.softplus(corrected[late]))
    if likelihood_share < 1 and exposure.any():
        rate = sampling_rate.unsqueeze(1)
        convex = torch.logaddexp(rate.log(), logits + rate.log1p()) / (1 + rate) - labels * logits
        mixed = likelihood_share * losses + (1 - likelihood_share) * convex
        losses = torch.where(exposure.unsqueeze(1), losses.detach() + mixed - mixed.detach(), losses)
    return (losses * mask).sum()
