"""Drift: whether the live model still sees in the stream what it saw when it went live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from river.base import DriftDetector
from river.drift import ADWIN, KSWIN, PageHinkley

Float64 = NDArray[np.float64]

UNIT_ROWS = 32
"""Rows whose means are one value to the detectors. Batches are of any size: were they the units, a small one would
weigh as much as a large one."""
KSWIN_UNIT_ROWS = 256
"""KSWIN takes about a millisecond a value and signal, a thousand times as long as the others."""
BASELINE_UNITS = 32
"""Units after a swap that say where each signal lies and how much it moves."""
FALSE_DRIFT = 2e-3
"""ADWIN's delta, shared out between the signals, which are tested for months. In 3.3 million rows of stationary
simulated plants, of twelve features, nothing was found with this delta, and 14 drifts with one of 0.1. A residual that
doubles is found within about 2,000 rows, one that grows by half within 3,000 to 5,000."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A change that was found in one signal."""

    signal: str
    """score: mean score of unflagged rows; flagged: share of flagged rows; residual: mean residual of a feature."""
    feature: str
    """The feature whose residual it is; empty for the other signals."""

    def __str__(self) -> str:
        """In words, for the log."""
        names = {"score": "score of unflagged rows", "flagged": "share of flagged rows"}
        return names.get(self.signal, f"residual of {self.feature}")


class DriftWatch:
    """Watches what a model says of the rows of a stream, with a change detector on each signal.

    The signals are the mean score of unflagged rows, the share of flagged rows, and the mean residual of each feature
    over unflagged rows. Means over `UNIT_ROWS` rows are fed, as distances from the median of the first units after
    `reset`, in spreads of these, squashed into [0, 1] as ADWIN wants them. With ADWIN it takes about 0.4 us a row of
    twelve features.

    Parameters: `method`, one of adwin (Bifet and Gavaldà 2007), kswin (Raab et al. 2020), page_hinkley (Page 1954),
    none; `features`, their names [d].
    """

    def __init__(self, method: str, features: Sequence[str]) -> None:
        self.method = method
        self._unit_rows = KSWIN_UNIT_ROWS if method == "kswin" else UNIT_ROWS
        self._signals = [Drift("score", ""), Drift("flagged", ""), *(Drift("residual", name) for name in features)]
        self.reset()

    def reset(self) -> None:
        """Begin anew, as after a swap: another model sees the same rows with other eyes."""
        n = len(self._signals)
        self._detectors = [] if self.method == "none" else [make_detector(self.method, n) for _ in self._signals]
        self._rest = np.empty((0, n))
        self._baseline = np.empty((0, n))
        self._centre = self._spread = np.empty(0)

    def observe(self, score: Float64, residual: Float64) -> list[Drift]:
        """Take scores [n] and residuals [n, d], in spreads of the feature, NaN where it is missing, of rows in order
        of arrival; return what was found to have changed. Rows without a score are passed over."""
        if not self._detectors:
            return []
        flagged = score >= 1.0
        rows = np.column_stack([score, flagged, residual])
        rows[flagged, 0], rows[flagged, 2:] = np.nan, np.nan
        self._rest = np.concatenate([self._rest, rows[np.isfinite(score)]])
        units = len(self._rest) // self._unit_rows
        full, self._rest = np.split(self._rest, [units * self._unit_rows])
        means = mean_of_known(full.reshape(units, self._unit_rows, len(self._signals)))
        if not self._centre.size:
            means = self._compare_with(means)
        distance = (means - self._centre) / self._spread if len(means) else means
        return [drift for values in squash(distance).tolist() for drift in self._feed(values)]

    def _compare_with(self, means: Float64) -> Float64:
        """Gather the means of units [units, k] until there are enough to say what is usual; then return them all."""
        self._baseline = np.concatenate([self._baseline, means])
        if len(self._baseline) < BASELINE_UNITS:
            return means[:0]
        self._centre, self._spread = centre_and_spread(self._baseline[:BASELINE_UNITS])
        return self._baseline

    def _feed(self, values: list[float]) -> list[Drift]:
        """Give each detector the value of its signal in one unit; NaN is none."""
        found = []
        for signal, detector, value in zip(self._signals, self._detectors, values, strict=True):
            if value == value:
                detector.update(value)
                if detector.drift_detected:
                    found.append(signal)
        return found


def make_detector(method: str, signals: int) -> DriftDetector:
    """River's detector of this name, so strict that all signals together rarely find what is not there."""
    if method == "adwin":
        return ADWIN(delta=FALSE_DRIFT / signals, clock=4)
    if method == "kswin":
        return KSWIN(alpha=1e-4 * FALSE_DRIFT / signals, window_size=60, stat_size=20, seed=0)
    if method == "page_hinkley":
        return PageHinkley(delta=0.15, threshold=15.0)
    raise ValueError(f"no drift detector is called {method!r}: use adwin, kswin, page_hinkley or none")


def mean_of_known(rows: Float64) -> Float64:
    """Means [units, k] of rows [units, n, k] over what is known; NaN where nothing is."""
    known = ~np.isnan(rows)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, rows, 0.0).sum(axis=1) / np.maximum(1, count), np.nan)


def centre_and_spread(means: Float64) -> tuple[Float64, Float64]:
    """Median [k] and spread [k] of the means [units, k]; robust, since a fault may fall among the first units."""
    known = ~np.isnan(means).all(axis=0)
    centre, spread = np.zeros(means.shape[1]), np.ones(means.shape[1])
    centre[known] = np.nanmedian(means[:, known], axis=0)
    # 1.48 times the median deviation is the standard deviation of a normal distribution.
    spread[known] = 1.48 * np.nanmedian(np.abs(means[:, known] - centre[known]), axis=0)
    # A signal that stood still, such as no row flagged at all, must not be said to change by the first flagged row.
    least = np.maximum(1.0 / UNIT_ROWS, 0.01 * np.abs(centre))
    return centre, np.maximum(spread, least)


def squash(distance: Float64) -> Float64:
    """Distances in spreads into (0, 1); NaN stays."""
    return 0.5 + 0.5 * np.tanh(0.5 * distance)
