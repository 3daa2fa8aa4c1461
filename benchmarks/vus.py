"""VUS-PR: the volume under the precision-recall surface (Paparrizos et al., VLDB 2022).

Where an anomalous stretch begins and ends is never labelled to the row. So each stretch gets a slope on both
sides, and the area under the range-based precision-recall curve is averaged over all slopes from none to
`window` rows. There is no point adjustment: what counts is the share of the anomalous rows that are found, times
the share of the stretches of which anything is found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

THRESHOLDS = 250
"""Levels of the score at which precision and recall are taken, at equal steps of rank, as in the reference."""
WINDOW = 100
"""The widest slope, in rows, the same for all streams."""


def vus_pr(labels: Int64, score: Float64, window: int = WINDOW) -> float:
    """Volume under the precision-recall surface, 0 to 1, for labels [n] of 0 and 1 and scores [n], larger stranger.

    Raises ValueError where no row is anomalous.
    """
    if not np.any(labels):
        raise ValueError("VUS-PR is not defined where no row is anomalous: labels are all 0")
    order = np.argsort(-score, kind="stable")
    levels = score[order][np.linspace(0, len(score) - 1, THRESHOLDS).astype(np.int64)]
    flagged = np.searchsorted(-score[order], -levels, side="right")
    areas = [range_area(labels, soften(labels, width), score, levels, order, flagged) for width in range(window + 1)]
    return float(np.mean(areas))


def range_area(labels: Int64, soft: Float64, score: Float64, levels: Float64, order: Int64, flagged: Int64) -> float:
    """Area under the range-based precision-recall curve for soft labels [n].

    `order` sorts the rows from the strangest on, the first `flagged` [t] of them reach `levels` [t].
    """
    found = np.cumsum(soft[order])[flagged - 1]
    precision = found / flagged
    starts, ends = stretches(soft > 0)
    strangest = np.array([score[start:end].max() for start, end in zip(starts, ends, strict=True)])
    existence = (strangest[:, None] >= levels).mean(axis=0)
    positives = (labels.sum() + soft.sum()) / 2
    recall = np.minimum(found / positives, 1.0) * existence
    recall, precision = np.r_[0.0, recall], np.r_[1.0, precision]
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


def soften(labels: Int64, width: int) -> Float64:
    """Labels [n] with a slope of `width` // 2 rows on both sides of each stretch, at most 1."""
    soft = labels.astype(np.float64)
    distance = np.arange(1, width // 2 + 1)
    slope = np.sqrt(1 - distance / max(1, width))
    for start, end in zip(*stretches(labels > 0), strict=True):
        after = distance[distance <= len(labels) - end]
        soft[end - 1 + after] += slope[: len(after)]
        before = distance[distance <= start]
        soft[start - before] += slope[: len(before)]
    return np.minimum(soft, 1.0)


def stretches(inside: NDArray[np.bool_]) -> tuple[Int64, Int64]:
    """First row of each run of True in `inside` [n], and the row after its last."""
    edges = np.diff(np.r_[0, inside.astype(np.int64), 0])
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
