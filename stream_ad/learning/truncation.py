"""How many of the rows around the threshold are inliers: by how p-values fall off there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

BODY = 3.0
"""Rows with a p-value of up to so many times the budget take part: nearly all of those above it are inliers."""
FAR = 2.0
"""No inlier is expected with a score above this: one goes there with probability alpha^2."""
PRIOR_ROWS = 8.0
"""That the calibration is right counts as much as so many rows."""
FLATTEST, STEEPEST = 0.4, 2.0
BODY_BINS, TAIL_BINS = 10, 30
STEPS = 50
RARE = 0.001
"""p-value of rows that are no inliers where several come together."""
RADII = (1, 2, 4, 8, 16, 32, 64)
"""Rows to both sides of a row that are looked at."""
COINCIDENCE = 1000.0
"""An inlier has company by chance once in so many rows, for each radius."""
PIECES = 8
"""Of a sequence's rows, in time, by which it shows whether all of it is strange."""


@dataclass(frozen=True, slots=True)
class FallOff:
    """Inliers and anomalies around the threshold, by depth = log(alpha / p): 0 at the budget, growing with strangeness.

    Of a calibrated model alpha * n * exp(-depth) inliers lie at a unit of depth: below the budget that form is kept,
    beyond it they may fall off at another slope. Anomalies spread evenly.
    """

    expected: float
    """Inliers beyond the budget if the calibration is right: alpha * n."""
    density: float
    """Inliers to a unit of depth at the budget, over `expected`."""
    slope: float
    """Of log density beyond the budget."""
    anomalies: float
    """To a unit of depth."""

    def inlier_probability(self, depth: Float64) -> Float64:
        """How likely rows at these depths [n] are inliers."""
        inliers = inliers_at(depth, self.expected, self.density, self.slope)
        probability: Float64 = inliers / (inliers + self.anomalies + 1e-12)
        return probability

    def depth_of_budget(self) -> float:
        """The depth beyond which as many inliers lie as the budget allows."""
        ratio = self.density / self.slope
        if ratio > 1.0:
            return math.log(ratio) / self.slope
        return -math.log1p((1.0 - ratio) / self.density)


def bins(alpha: float) -> Float64:
    """Edges of the bins of depth that `fall_off` wants counts for: a score of 1 is at 0, one of `FAR` at the end."""
    body = math.log(min(BODY, 0.5 / alpha))
    end = -(FAR - 1.0) * math.log(alpha)
    return np.append(np.linspace(-body, 0.0, BODY_BINS, endpoint=False), np.linspace(0.0, end, TAIL_BINS + 1))


def fall_off(counts: Float64, n: float, alpha: float) -> FallOff:
    """Estimate from the rows in each bin of depth, of n rows up to the last bin, by expectation maximisation.

    All flagged rows cannot be inliers, or anomalies would lift the threshold over themselves, and not none, or each
    retrain would lower it. That inliers get rarer with depth and anomalies do not tells them apart; that the density
    goes on through the threshold, where most rows are inliers, tells how many there are; the slope (as by Hill 1975)
    how far they reach. Few rows leave it at what the calibration promised.
    """
    edges = bins(alpha)
    depth = 0.5 * (edges[1:] + edges[:-1])
    tail = np.maximum(depth, 0.0)
    expected = alpha * n
    density, slope = 1.0, 1.0
    deepest = depth > 2.0 / 3.0 * edges[-1]
    anomalies = float(counts[deepest].sum()) / (edges[-1] / 3.0)
    for _ in range(STEPS):
        inliers = inliers_at(depth, expected, density, slope)
        inliers = counts * inliers / (inliers + anomalies + 1e-12)
        anomalies = float((counts - inliers).sum()) / (edges[-1] - edges[0])
        reach = math.expm1(-edges[0]) + 1.0 / slope
        density = (float(inliers.sum()) + PRIOR_ROWS) / (expected * reach + PRIOR_ROWS)
        slope = math.sqrt((density * expected + PRIOR_ROWS) / (float(inliers @ tail) + PRIOR_ROWS))
        slope = min(STEEPEST, max(FLATTEST, slope))
    return FallOff(expected, density, slope, anomalies)


def inliers_at(depth: Float64, expected: float, density: float, slope: float) -> Float64:
    """Inliers to a unit of depth [n]."""
    return expected * density * np.exp(-np.where(depth > 0.0, slope, 1.0) * depth)


def inlier_probability(score: Float64, alpha: float) -> Float64:
    """How likely each of the rows with these scores [n] under the budget alpha is an inlier. [n]

    1 in the body, 0 above `FAR`.
    """
    depth = (1.0 - score) * math.log(alpha)
    edges = bins(alpha)
    found = fall_off(np.histogram(depth, edges)[0].astype(np.float64), int((depth < edges[-1]).sum()), alpha)
    return np.where(depth < edges[0], 1.0, np.where(score < FAR, found.inlier_probability(depth), 0.0))


def suspects(score: Float64, alpha: float, sequence: Int64) -> Bool:
    """Which rows with these scores under the budget alpha are part of something that goes on: see `in_company`. All [n]
    in time order, NaN where no model gave a score."""
    rare = min(RARE, alpha)
    return in_company(score >= math.log(rare) / math.log(alpha), rare, sequence)


def in_company(strange: Bool, chance: float, sequence: Int64) -> Bool:
    """Which rows have more `strange` ones around them than the `chance` of one explains. All [n] in time order; rows
    of one `sequence` are neighbours.

    A fault goes on for some rows, and begins and ends with ones that are not flagged. Next to the budget's few inliers
    those are many: in the window they would lift the next threshold, and that let in more of them. What the neighbours
    of an inlier are says little of its own score, so leaving out all rows in company cuts little off the inliers'
    distribution. The count within a radius is a scan statistic (Naus 1965), where rows are independent a Poisson
    variable; where more rows are strange everywhere, or all the time in one sequence, more company is asked of each.
    """
    n = len(strange)
    if not strange.any():
        return np.zeros(n, dtype=bool)
    order = np.argsort(sequence, kind="stable")
    grouped, there = sequence[order], strange[order]
    first, end = np.searchsorted(grouped, grouped, "left"), np.searchsorted(grouped, grouped, "right")
    total = np.concatenate([[0], np.cumsum(there)])
    chances = np.maximum(max(chance, float(total[-1]) / n), usual_share(total, first, end))
    levels, level = np.unique(chances, return_inverse=True)
    place = np.arange(n)
    found = np.zeros(n, dtype=bool)
    for radius in RADII:
        around = total[np.minimum(place + radius + 1, end)] - total[np.maximum(place - radius, first)]
        enough = np.array([chance_count(2.0 * radius * one) for one in levels])
        found |= around - there >= enough[level]
    company = np.empty(n, dtype=bool)
    company[order] = found
    return company


def usual_share(total: Int64, first: Int64, end: Int64) -> Float64:
    """Share [n] of strange rows in most of the `PIECES` of each row's sequence, which reaches from `first` [n] to `end`
    [n], of which there are so many in `total` [n + 1] before each: a fault fills few of them, a machine that always
    looks strange all."""
    begins = np.flatnonzero(np.diff(first, prepend=-1))
    edges = first[begins, None] + (end - first)[begins, None] * np.arange(PIECES + 1) // PIECES
    share = np.diff(total[edges], axis=1) / np.maximum(1, np.diff(edges, axis=1))
    usual: Float64 = np.repeat(np.median(share, axis=1), (end - first)[begins])
    return usual


def chance_count(mean: float) -> int:
    """The least count that a Poisson variable with this mean reaches once in `COINCIDENCE` at most."""
    count, term = 0, math.exp(-mean)
    beyond = 1.0 - term
    while beyond > 1.0 / COINCIDENCE:
        count += 1
        term *= mean / count
        beyond -= term
    return count + 1
