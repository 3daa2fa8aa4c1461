"""Between trainings: the level of p at which rows are flagged, moved so that the budget holds on the stream."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.truncation import bins, fall_off, suspects

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

BOUND = 4.0
"""The level stays within this factor of the budget, whatever comes."""
MEMORY = 100.0
"""Rows are forgotten as slowly as lets the last MEMORY / budget count."""
FIRST_STEP = 1000
"""Rows before the level moves for the first time, and at least from then on."""
STEP = 0.05
"""It moves again when there are so many more rows, as a share of those that count."""


class AdaptiveLevel:
    """The level at which as many of the stream's inliers have a smaller p-value as the budget allows.

    Adaptive conformal inference (Gibbs and Candes 2021) moves the level by each alarm that was false. Here nobody
    says which were false, and to count them all would let 3 % of anomalies lift the threshold until they are missed.
    So the level follows the inliers among the rows around the threshold, as `fall_off` tells them from anomalies. The
    live model has learned none of these rows, and there are more of them than it was calibrated on. Steps get
    smaller with the rows seen, down to a floor (Angelopoulos, Barber and Bates 2024), and `BOUND` is the limit of
    what anomalies that look like inliers can do.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._edges = bins(budget)
        self.swapped()

    def swapped(self) -> None:
        """Another model gives the p-values from now on: begin anew, at the budget."""
        self.rate = self.budget
        """Rows with a p-value up to this are flagged."""
        self._counts = np.zeros(len(self._edges) - 1)
        self._rows = 0.0
        self._fresh: list[tuple[Float64, Int64]] = []
        """p-values and sequences of the batches since the last step."""
        self._n_fresh = 0

    @property
    def stretch(self) -> float:
        """What makes of log p / log budget, the score by the budget, log p / log rate: 1.0 stands at the level then."""
        return math.log(self.budget) / math.log(self.rate)

    def observe(self, p_value: Float64, sequence: Int64 | None = None) -> None:
        """Learn from the conformal p-values [n] of a batch, after it was judged. Rows of one `sequence` [n] follow each
        other; without it all do."""
        self._fresh.append((p_value, np.zeros(len(p_value), np.int64) if sequence is None else sequence))
        self._n_fresh += len(p_value)
        if self._n_fresh >= max(FIRST_STEP, STEP * self._rows):
            self._step()

    def _step(self) -> None:
        """Move with the rows since the last step: all at once, since batches may be too short to show a fault."""
        p_value, sequence = (np.concatenate(column) for column in zip(*self._fresh, strict=True))
        self._fresh, self._n_fresh = [], 0
        log_p = np.log(p_value)
        depth = math.log(self.budget) - log_p[~suspects(log_p / math.log(self.rate), self.budget, sequence)]
        self._counts += np.histogram(depth, self._edges)[0]
        self._rows += int((depth < self._edges[-1]).sum())
        found = fall_off(self._counts, self._rows, self.budget)
        self.rate = self.budget * min(BOUND, max(1.0 / BOUND, math.exp(-found.depth_of_budget())))
        kept = min(1.0, MEMORY / self.budget / max(1.0, self._rows))
        self._counts *= kept
        self._rows *= kept
