"""How well scores tell anomalies from inliers: AUROC and average precision, as scikit-learn computes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


def auroc(labels: Bool, scores: Float64) -> float:
    """Probability that an anomaly scores higher than an inlier; a tie counts half.

    `labels` [n], true for anomalies; `scores` [n]. Raises ValueError where `check` does.
    """
    check(labels, scores)
    anomalies = int(labels.sum())
    inliers = len(labels) - anomalies
    rank_sum = rankdata(scores)[labels].sum()
    return float((rank_sum - anomalies * (anomalies + 1) / 2) / (anomalies * inliers))


def average_precision(labels: Bool, scores: Float64) -> float:
    """Precision at each threshold, weighted by the recall that it adds; rows of one score share a threshold.

    `labels` [n], true for anomalies; `scores` [n]. Raises ValueError where `check` does.
    """
    check(labels, scores)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = found[last_of_ties] / (last_of_ties + 1)
    recall = found[last_of_ties] / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def check(labels: Bool, scores: Float64) -> None:
    """Raise ValueError if a score is not finite, or if all labels are the same."""
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are NaN or infinite")
    if labels.all() or not labels.any():
        raise ValueError("the test part needs both anomalies and inliers, or nothing can be told apart")
