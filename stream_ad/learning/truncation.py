"""What the flagged rows tell of a distribution that was cut off at the threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

MILD = 1.5
"""Only flagged rows with a score below this help to calibrate the next model: an inlier goes further with
probability alpha^1.5 alone, a real fault mostly does."""
NEAR = 1.25
FAR = 2.0
"""Flagged rows up to NEAR are inliers and anomalies, those from NEAR to FAR nearly all anomalies."""
PRIOR_SPREAD = 0.3
"""How far, relatively, the number of flagged inliers is expected to be from the budget."""


def inlier_probability(score: Float64, unflagged: int, alpha: float) -> Float64:
    """How likely each flagged row is an inlier, from its score [k] >= 1 and the number of unflagged rows. [k]

    The p-values of inliers are uniform, so their scores fall off as alpha^score; those of anomalies spread out.
    What lies between NEAR and FAR tells how many anomalies there are to a unit of score, and what is more
    than that below NEAR is inliers. Counting all flagged rows in would let anomalies lift the threshold over
    themselves, counting none would lower it by each retrain. The estimate is drawn towards the budget, which is
    what it should be, as far as few rows make it uncertain.
    """
    near = 1.0 - alpha ** (NEAR - 1.0)
    far = alpha ** (NEAR - 1.0) - alpha ** (FAR - 1.0)
    ratio = (NEAR - 1.0) / (FAR - NEAR)
    count_near = float((score < NEAR).sum())
    count_far = float(((score >= NEAR) & (score < FAR)).sum())
    gain = near - ratio * far
    estimate = (count_near - ratio * count_far) / gain
    variance = (count_near + ratio**2 * count_far + 1.0) / gain**2
    budget = alpha * unflagged / (1.0 - alpha)
    prior_variance = (PRIOR_SPREAD * budget) ** 2 + 1e-9
    inliers = max(0.0, (estimate / variance + budget / prior_variance) / (1.0 / variance + 1.0 / prior_variance))
    anomalies_by_score = max(0.0, count_far - far * inliers) / (FAR - NEAR)
    inliers_by_score = inliers * -np.log(alpha) * alpha ** (score - 1.0)
    probability: Float64 = inliers_by_score / (inliers_by_score + anomalies_by_score + 1e-12)
    return np.where(score < MILD, probability, 0.0)
