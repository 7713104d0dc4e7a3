"""Figures to compare with: those of scikit-learn, and the AUC and the loss of weighted rows by their definitions.

scikit-learn takes over a second to import: only test_quality.py asks for it, and only the process that runs it waits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rillet.schemas.arrays import Float64s


def roc_auc_score(*columns: Any, **options: Any) -> float:
    """Labels and scores to the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*columns, **options))


def log_loss(*columns: Any, **options: Any) -> float:
    """Labels and probabilities to the loss."""
    from sklearn.metrics import log_loss

    return float(log_loss(*columns, **options))


def weighted_auc(labels: Any, scores: Any, weights: Any = None) -> float:
    """The share of the pairs' weight in which the positive has the higher score; of ties, half."""
    positive = np.asarray(labels) == 1
    weights = np.ones(len(positive)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(scores[~positive])
    negatives = scores[~positive][order]
    up_to: Float64s = np.concatenate([[0.0], np.cumsum(weights[~positive][order])])
    below, tied_too = (up_to[np.searchsorted(negatives, scores[positive], side)] for side in ("left", "right"))
    return float(np.average((below + tied_too) / 2, weights=weights[positive]) / up_to[-1])


def weighted_log_loss(labels: Any, probabilities: Any, weights: Any) -> float:
    """The mean of the negative logarithms of what each label was given."""
    return float(np.average(-np.log(np.where(labels == 1, probabilities, 1 - probabilities)), weights=weights))
