"""The figures of scikit-learn, imported at the first call: only the process that compares with them waits for that."""

from __future__ import annotations

from typing import Any


def roc_auc_score(*columns: Any, **options: Any) -> float:
    """Labels and scores to the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*columns, **options))


def log_loss(*columns: Any, **options: Any) -> float:
    """Labels and probabilities to the loss."""
    from sklearn.metrics import log_loss

    return float(log_loss(*columns, **options))
