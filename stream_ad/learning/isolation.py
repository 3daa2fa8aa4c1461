"""Isolation: whether rows have their like, as those of an operating point do, and faults of many kinds do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.evidence import Spell
from stream_ad.learning.fading import Rows

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

COHERENT = 1.5
"""Isolation below which a row counts as one of many like it: half of the quarantined rows must be."""
LIVELIER = 3.0
"""Times the spread that a plant had, at least, if it stood still and runs now."""
ORDERLY = 0.8
"""Distances between its rows, at most, to those between rows with the same values put together at random."""
PIECES = 8
FEWEST_ALIKE = 16
"""Rows of each of two spells that can tell."""
FARTHEST = 1000.0
"""Spreads beyond which distances grow as logarithms do."""
MOST_COMPARED = 1000
"""Each row is compared with so many others, which takes about 30 ms for 2,000 rows."""


def are_alike(spell: Spell, other: Spell, held: Rows, inliers: Float64) -> bool:
    """Whether most rows of a spell that are `held` have their like among those of another one."""
    of_spell = spell.holds(held)
    both = [np.flatnonzero(which) for which in (of_spell, other.holds(held) & ~of_spell)]
    # As many of each, since rows are nearer to each other the more there are, and those of the earlier one have faded.
    few = min(len(rows) for rows in both)
    if few < FEWEST_ALIKE:
        return False
    rows = np.concatenate([rows[np.linspace(0, len(rows) - 1, few).astype(np.int64)] for rows in both])
    which = np.repeat([0, 1], few)
    return bool(np.median(isolation(held.values[rows], inliers, which)) <= COHERENT)


def isolation(rows: Float64, inliers: Float64, piece: Int64 | None = None) -> Float64:
    """How far each of the rows [k, d] lies from its nearest like among them, in units of what inliers [n, d] do. [k]

    Both in order of time, NaN for missing. The unit is the distance that nine in ten inliers keep below. A value that
    runs away is like itself a moment ago but not a while ago; hence the nearest row in another piece of time counts,
    or in another `piece` [k].
    Distances are in spreads of the inliers, but those of a plant that began to run in its own: at rest it had none.
    """
    # A model that flags all there ever was leaves nothing to measure by but the rows themselves.
    inliers = inliers[-len(rows) :] if len(inliers) else rows
    usual = spread_of(inliers)
    scale = np.where(usual > 0.0, usual, spread_of(rows))
    scale = np.where(scale > 0.0, scale, 1.0)
    like = inliers / scale
    now = np.median([spread_of(piece) for piece in np.array_split(rows, PIECES)], axis=0)
    if begins_to_run(rows, usual, now):
        # Rest does not tell how near rows are that move: as near as if no two features hung together, or nearer.
        like = np.random.default_rng(0).normal(size=rows.shape)
        scale = np.where(now > 0.0, now, scale)
    unit = max(1e-9, float(np.quantile(nearest_elsewhere(like), 0.9)))
    return nearest_elsewhere(rows / scale, piece) / unit


def begins_to_run(rows: Float64, usual: Float64, now: Float64) -> bool:
    """Whether rows [k, d] are of a plant that runs, unlike inliers with the `usual` spreads [d]: from moment to moment
    most features move far more `now` [d], and they do not read anything at all, but hang together, among each other or
    from row to row."""
    moves = now > 0.0
    if not moves.any() or np.mean(now[moves] > LIVELIER * usual[moves]) < 0.5:
        return False
    rows = rows[:, moves] / now[moves]
    anything = np.random.default_rng(0).permuted(rows, axis=0)
    together = np.median(nearest_elsewhere(rows)) / np.median(nearest_elsewhere(anything))
    steady = np.nanmedian(np.abs(np.diff(rows, axis=0))) / np.nanmedian(np.abs(np.diff(anything, axis=0)))
    return bool(min(together, steady) < ORDERLY)


def spread_of(rows: Float64) -> Float64:
    """[d] standard deviations of rows [n, d] as their middle nine tenths tell them; 0 for a column without values."""
    spread = np.zeros(rows.shape[1])
    known = ~np.isnan(rows).all(axis=0)
    low, high = np.nanquantile(rows[:, known], [0.05, 0.95], axis=0)
    spread[known] = (high - low) / 3.3
    return spread


def nearest_elsewhere(rows: Float64, piece: Int64 | None = None) -> Float64:
    """Distance of each of the rows [k, d] to the nearest one in another `piece` [k], or else in another of `PIECES`
    pieces of them. [k]"""
    known = ~np.isnan(rows).all(axis=0)
    rows = rows[:, known] - np.nanmedian(rows[:, known], axis=0)
    rows = np.nan_to_num(rows)
    # What is far out must not overflow, nor end up in one and the same place.
    rows = np.clip(rows, -FARTHEST, FARTHEST) * (1.0 + np.log(np.maximum(1.0, np.abs(rows) / FARTHEST)))
    piece = np.arange(len(rows)) * PIECES // len(rows) if piece is None else piece
    some = np.linspace(0, len(rows) - 1, min(len(rows), MOST_COMPARED)).astype(np.int64)
    length = np.square(rows).sum(axis=1)
    nearest = np.empty(len(rows))
    for one in np.unique(piece).tolist():
        here, others = piece == one, some[piece[some] != one]
        squared = length[here, None] + length[others] - 2.0 * rows[here] @ rows[others].T
        nearest[here] = squared.min(axis=1)
    return np.sqrt(np.maximum(0.0, nearest))
