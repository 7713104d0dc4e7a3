"""What the metrics and the scorers of a report are called."""

from __future__ import annotations

METRICS = ("auc", "auc_within", "normalised_entropy", "calibration")
BASELINES = ("frozen", "logistic", "popularity", "decayed_popularity")
#: baselines whose scores depend on the seed of initial weights
SEEDED_BASELINES = ("frozen", "logistic")
#: the scores that the recording itself holds
SERVED = "served"
