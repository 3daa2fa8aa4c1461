"""What scores while there is no model yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from river.anomaly import HalfSpaceTrees
from river.preprocessing import MinMaxScaler

Float64 = NDArray[np.float64]


class ColdStart:
    """Half-space trees (Tan, Ting and Liu 2011) that learn each row as it is scored.

    Their scores lie between 0 and 1 and are not calibrated: they rank rows, they raise no alert. They take
    about 0.1 ms a row, one row after the other.
    """

    def __init__(self, seed: int) -> None:
        self._scaler = MinMaxScaler()
        self._trees = HalfSpaceTrees(n_trees=10, height=8, window_size=250, seed=seed)

    def score(self, x: Float64) -> Float64:
        """Scores [n] in [0, 1] of rows x [n, d]; missing features are left out of a row."""
        return np.array([self._score_one(dict(enumerate(row))) for row in x.tolist()])

    def _score_one(self, row: dict[int, float]) -> float:
        known = {feature: value for feature, value in row.items() if value == value}
        self._scaler.learn_one(known)
        scaled = self._scaler.transform_one(known)
        score = self._trees.score_one(scaled)
        self._trees.learn_one(scaled)
        return float(score)
