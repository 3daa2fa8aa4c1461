"""Between trainings: the level of p at which rows are flagged, moved so that the budget holds on the stream."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

BODY = 10.0
"""Rows with a p-value up to so many times the budget tell where the threshold should be."""
NEAR = 0.5
"""How far beyond the threshold, in log p, rows are still counted one by one; beyond that nearly all are anomalies."""
BINS = 40
PRIOR_ROWS = 50.0
"""The model's own calibration counts as much as so many of these rows."""
MEMORY = 100.0
"""Rows are forgotten as slowly as lets the last MEMORY / budget count."""
CARRIED = 5.0
"""At a swap what was found counts as much as CARRIED / budget rows of the new model would."""
BOUND = 4.0
"""The level stays within this factor of the budget, whatever comes."""
STEPS = 10


class AdaptiveLevel:
    """Finds the level `rate` at which as many of the stream's inliers have a smaller p-value as the budget allows.

    Adaptive conformal inference (Gibbs and Candes 2021) moves the level by each alarm that was false. Here nobody
    says which alarms were; counting all would let 3 % of anomalies lift the threshold until they are missed. So
    the level is read off where inliers dominate: their p-values fall off as a power of p (exponentially in log p,
    estimated as by Hill 1975), anomalies spread over log p far beyond. What lies far beyond the threshold tells how
    many anomalies there are to a unit of log p and counts for nothing else, so a burst of faults moves nothing.
    Steps get smaller with the rows seen, down to a floor (Angelopoulos, Barber and Bates 2024).
    """

    def __init__(self, false_alarm_rate: float) -> None:
        self.rate = false_alarm_rate
        """Rows with a p-value up to this are flagged."""
        self.budget = false_alarm_rate
        self._first = -math.log(min(BODY, 0.5 / false_alarm_rate))
        self._edges = np.linspace(self._first, -math.log(false_alarm_rate), BINS + 1)
        self._counts = np.zeros(BINS)
        self._rows = 0.0
        self._level, self._slope = 1.0, 1.0

    def observe(self, p_value: Float64) -> None:
        """Learn from the conformal p-values [n] of a batch, after it was judged."""
        depth = np.log(self.budget) - np.log(p_value)
        self._counts += np.histogram(depth, self._edges)[0]
        self._rows += len(p_value)
        self._forget(MEMORY)
        self._estimate()

    def swapped(self) -> None:
        """Another model gives the p-values from now on."""
        self._forget(CARRIED)
        self._estimate()

    def _forget(self, memory: float) -> None:
        kept = min(1.0, memory / self.budget / max(1.0, self._rows))
        self._rows *= kept
        self._counts *= kept

    def _estimate(self) -> None:
        """Expectation maximisation: how likely the rows of each bin are inliers, then how these fall off.

        Depth is log(budget / p): 0 at the budget, growing with strangeness. Of inliers deeper than the cut nothing is
        seen for anomalies; they are taken to go on as they fall off before it.
        """
        width = self._edges[1] - self._edges[0]
        depth = self._edges[:-1] + 0.5 * width - self._first
        near = self._edges[1:] <= max(0.0, -math.log(self.rate / self.budget)) + NEAR
        length = near.sum() * width
        expected = self._rows * self.budget * math.exp(-self._first)
        level, slope = self._level, self._slope
        for _ in range(STEPS):
            beyond = expected * level * math.exp(-slope * length)
            anomalies = max(0.0, self._counts[~near].sum() - beyond) / max(1, (~near).sum())
            inliers = expected * level * slope * width * np.exp(-slope * depth[near])
            count = self._counts[near] * inliers / (inliers + anomalies + 1e-12)
            rows = count.sum() + beyond
            total = (count * depth[near]).sum() + beyond * (length + 1.0 / slope)
            level = (rows + PRIOR_ROWS) / (expected + PRIOR_ROWS)
            slope = (rows + PRIOR_ROWS) / (total + PRIOR_ROWS)
        self._level, self._slope = level, slope
        at = self._first + (math.log(level) - self._first) / slope
        self.rate = self.budget * min(BOUND, max(1.0 / BOUND, math.exp(-at)))
