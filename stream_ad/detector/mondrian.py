"""Mondrian calibration: p-values among the rows of their own key, where these are far stranger than the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

DECADE = math.log(10.0)
SHARES = (0.1, 0.05)
"""Of a key's rows, whose depths tell how it is. No rarer ones: some per cent of faults of one machine must not lift
its threshold above themselves."""
LEAST_ROWS = 10
"""Of fewer a tenth is not one row: nothing is known of their key."""
PRIOR_ROWS = 20
"""That a key is like the others counts as much as so many of its rows."""
TIMES = 2.0
"""So many times its part of the budget a key may have. Less would cost anomalies of keys that are but a little stranger
than others, and what is strange for one key is so for all, more or less."""
LEAST_SCALE, MOST_SCALE = 0.05, 2.0
"""Of the depths beyond a tenth; 1 is that of all rows. A few strange rows of a key that is hardly known must not make
more of it."""


@dataclass(frozen=True, slots=True)
class MondrianCalibration:
    """What p-values become for those keys of which far too many rows look strange.

    One threshold for all keys keeps the budget over all, not for each: a machine unlike the others is rare among their
    rows, so most alerts are its. A Mondrian conformal predictor (Vovk, Gammerman and Shafer 2005, section 4.5)
    calibrates each category by its own rows. Here no row has a p-value below half of that among the rows of its
    key, so that none flags much more than twice its part of normal rows; keys that are quieter than others stay
    so, and keys of which nothing is known are judged as all are.

    Of a key two numbers are known: the depths -log p that a tenth and a hundredth of its rows reach. Between them the
    depth grows straight with -log p among its own rows, beyond them as fast as that of all.
    """

    sequence: Int64
    """[k] of the keys that need it, ascending: see `Batch.sequences`."""
    tenth: Float64
    """[k] of the depth -log p for all keys, that a tenth of the key's rows reaches."""
    hundredth: Float64
    """[k] likewise."""

    def __len__(self) -> int:
        return len(self.sequence)

    @classmethod
    def none(cls) -> MondrianCalibration:
        """Of no key."""
        return cls(np.empty(0, np.int64), np.empty(0), np.empty(0))

    @classmethod
    def fit(cls, p_value: Float64, sequence: Int64) -> MondrianCalibration:
        """Learn from p-values [n] of inliers that calibrated them, each of a key [n]."""
        order = np.argsort(sequence, kind="stable")
        keys, first, count = np.unique(sequence[order], return_index=True, return_counts=True)
        known = count >= LEAST_ROWS
        if len(keys) < 2 or not known.any():
            return cls.none()
        of_key = np.split(-np.log(p_value[order]), first[1:])
        tenth, hundredth = np.array([tail(of_key[i]) for i in np.flatnonzero(known)]).T
        found = cls(keys[known], tenth, hundredth)
        strange = np.maximum(*(found.excess(depth, np.arange(len(found))) for depth in (tenth, hundredth))) > 0.0
        return cls(found.sequence[strange], tenth[strange], hundredth[strange])

    def p_value(self, p_value: Float64, sequence: Int64) -> Float64:
        """p-values [n] of rows of these keys [n], from those by the calibration for all."""
        if len(self) == 0:
            return p_value
        place = np.minimum(np.searchsorted(self.sequence, sequence), len(self) - 1)
        known = self.sequence[place] == sequence
        depth = -np.log(p_value[known])
        own = p_value.copy()
        own[known] = np.exp(self.excess(depth, place[known]) - depth)
        return own

    def excess(self, depth: Float64, key: Int64) -> Float64:
        """[n] by how much rows at these depths [n], of the keys with these numbers [n], look stranger than they are."""
        tenth, hundredth = self.tenth[key], self.hundredth[key]
        seen = np.minimum(depth, hundredth)
        beyond = DECADE * (seen - tenth) / (hundredth - tenth)
        own = np.where(seen < tenth, DECADE * seen / tenth, DECADE + beyond)
        excess: Float64 = np.maximum(0.0, seen - own - math.log(TIMES))
        return excess


def tail(depth: Float64) -> tuple[float, float]:
    """Depths that a tenth and a hundredth of the rows at these depths [n] and of `PRIOR_ROWS` ordinary ones reach; the
    second one drawn out from a tenth and a twentieth."""
    ordinary = -np.log((np.arange(PRIOR_ROWS) + 0.5) / PRIOR_ROWS)
    tenth, twentieth = np.quantile(np.concatenate([depth, ordinary]), [1.0 - share for share in SHARES])
    scale = float(twentieth - tenth) / math.log(SHARES[0] / SHARES[1])
    return float(tenth), float(tenth) + DECADE * min(MOST_SCALE, max(LEAST_SCALE, scale))
