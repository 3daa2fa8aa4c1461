"""Regime change: a lasting new operating point told from faults, and what becomes of the rows it flagged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.window import InlierWindow

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

RECOVERY = 0.5
"""What an unflagged row takes from the evidence, to which a flagged one adds 1: where fewer than a third of the rows
are flagged, evidence cannot gather."""
COHERENT = 1.5
"""Isolation below which a row counts as one of many like it: half of the quarantined rows must be."""
EXTREME = 3.0
"""Isolation above which a row stays out."""
FEWEST = 500
"""Rows that make a change of regime in a young window, unless a tenth of its capacity are fewer."""
PIECES = 8
MOST_COMPARED = 1000
"""Each row is compared with so many others, which takes about 30 ms for 2,000 rows."""


class Phase(IntEnum):
    """Where the watch stands."""

    ORDINARY = 0
    ADAPTING = 1
    """The rows of the new operating point are in the window; no model that learned them is live yet."""
    HELD = 2
    """The operating point has changed, and alarms go on as `hold` wants it."""


class RegimeWatch:
    """Sees when the flagged rows of a window are a new operating point, and lets them in.

    Two things together make a regime change. It lasts: evidence gathers by one for each flagged row and falls by half
    of one for each other (the cumulative sum of Page 1954), and must reach `rows`, a tenth of the window's capacity.
    So a burst shorter than that never enters, all of the rows flagged it takes just so many, with half of them flagged
    four times as many. In a young window half of it will do: little has been seen, so most of what is new is normal,
    and the more seldom something new comes the longer it is doubted. And it is coherent: most of the quarantined rows
    have their like at other times, as near as inliers have theirs; faults of many kinds and a value that runs away do
    not.

    The rows let in take their places in the window; of the former operating point as many stay, evenly spread over its
    time, so that the next model knows both.

    Call `observe` after the window took the same rows, and `settled` when a model that learned the rows let in is
    live. `action` is adapt or hold.
    """

    def __init__(self, action: str, window: InlierWindow) -> None:
        self.action = action
        self.phase = Phase.ORDINARY
        self._window = window
        self._evidence = 0.0
        self._since = 0
        self._next_look = 0
        self._told = False

    @property
    def rows(self) -> int:
        """How much evidence makes a change."""
        tenth = self._window.quarantine.capacity // 2
        return min(tenth, max(FEWEST, tenth // 2)) if self._window.young else tenth

    @property
    def suspected(self) -> bool:
        """Whether so much is flagged that a change may be under way."""
        return self.phase != Phase.ORDINARY or self._evidence >= self.rows / 4

    def observe(self, score: Float64, least_rows: int = 0) -> str | None:
        """Take the scores [n] of the rows that the window took last; return what is done about a change found now.

        With `adapt` the rows of the new operating point are among the window's inliers then, at least `least_rows` in
        all if it held as many: train.
        """
        self._gather(score)
        if self._evidence == 0.0:
            self._told = False
        if self.phase == Phase.HELD and (self._evidence == 0.0 or self.action == "adapt"):
            self.phase = Phase.ORDINARY
            log.info("alarms are no longer held on to: the former operating point is back, or adapt is wanted now")
        if self.phase != Phase.ORDINARY or self._evidence < self.rows or self._window.seen < self._next_look:
            return None
        return self._decide(least_rows)

    def settled(self) -> None:
        """A model is live that learned what was let in: what it flags is judged anew."""
        self.phase = Phase.ORDINARY
        self._evidence = 0.0

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays, to be kept with the window's, for `restore`."""
        return {"regime": np.array([self.phase, self._evidence, self._since, self._next_look], np.float64)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave; arrays of an earlier version, without it, change nothing."""
        if "regime" in arrays:
            phase, self._evidence, since, next_look = arrays["regime"].tolist()
            self.phase, self._since, self._next_look = Phase(int(phase)), int(since), int(next_look)

    def _gather(self, score: Float64) -> None:
        step = np.where(score >= 1.0, 1.0, np.where(np.isfinite(score), -RECOVERY, 0.0))
        level = self._evidence + np.cumsum(step)
        level -= np.minimum.accumulate(np.minimum(level, 0.0))
        if len(empty := np.flatnonzero(level == 0.0)):
            self._since = self._window.seen - len(score) + int(empty[-1]) + 1
        # Kept at most: after a long change ordinary rows must be able to clear it.
        self._evidence = min(float(self.rows), float(level[-1])) if len(level) else self._evidence

    def _decide(self, least_rows: int) -> str | None:
        """Look at the quarantined rows; let them in, or say why not."""
        self._next_look = self._window.seen + self.rows
        held = self._window.quarantine.ordered()
        recent = np.flatnonzero(held.position >= self._since)
        isolated = isolation(held.values[recent], self._window.inliers.ordered().values)
        facts = {"flagged": len(recent), "isolation": round(float(np.median(isolated)), 2)}
        if np.median(isolated) > COHERENT:
            if not self._told:
                log.warning(
                    "for long most rows have been flagged, but they are no operating point: they differ among "
                    "themselves. They are taken for faults and not learned. Look at the source; if this is how it "
                    "runs now, begin anew with an empty registry.path",
                    extra=facts,
                )
            self._told = True
            return None
        if self.action == "hold":
            self.phase = Phase.HELD
            log.warning(
                "the operating point has changed; alarms go on, since training.on_regime_change is hold: set it to "
                "adapt if the new one is normal",
                extra=facts,
            )
            return "hold"
        chosen = np.zeros(len(held), np.bool_)
        chosen[recent] = (isolated <= EXTREME) & ~far_above(held.score[recent])
        self._let_in(chosen, least_rows)
        log.warning(
            "the operating point has changed: flagged rows that are like each other are learned as normal now. If they "
            "are faults, set training.on_regime_change to hold and roll back (stream-ad models rollback)",
            extra=facts | {"let_in": int(chosen.sum())},
        )
        return "adapt"

    def _let_in(self, chosen: Bool, least_rows: int) -> None:
        self.phase = Phase.ADAPTING
        self._window.admit(chosen)
        new = int((self._window.inliers.ordered().position >= self._since).sum())
        # Among many more rows of the former operating point the new ones would be the rare and strange ones, and
        # calibration would let most of the budget fall on them.
        self._window.thin(max(new, least_rows - new), before=self._since)


def isolation(rows: Float64, inliers: Float64) -> Float64:
    """How far each of the rows [k, d] lies from its nearest like among them, in units of what inliers [n, d] do. [k]

    Both in order of time, NaN for missing. The unit is the distance that nine in ten inliers keep below. A value that
    runs away is like itself a moment ago but not a while ago; hence the nearest row in another piece of time counts.
    """
    # A model that flags all there ever was leaves nothing to measure by but the rows themselves.
    inliers = inliers[-len(rows) :] if len(inliers) else rows
    scale = spread_of(inliers)
    scale = np.where(scale > 0.0, scale, spread_of(rows))
    scale = np.where(scale > 0.0, scale, 1.0)
    unit = max(1e-9, float(np.quantile(nearest_elsewhere(inliers / scale), 0.9)))
    return nearest_elsewhere(rows / scale) / unit


def spread_of(rows: Float64) -> Float64:
    """[d] standard deviations of rows [n, d] as their middle nine tenths tell them; 0 for a column without values."""
    spread = np.zeros(rows.shape[1])
    known = ~np.isnan(rows).all(axis=0)
    low, high = np.nanquantile(rows[:, known], [0.05, 0.95], axis=0)
    spread[known] = (high - low) / 3.3
    return spread


def nearest_elsewhere(rows: Float64) -> Float64:
    """Distance of each of the rows [k, d] to the nearest one in another of `PIECES` pieces of them. [k]"""
    known = ~np.isnan(rows).all(axis=0)
    rows = rows[:, known] - np.nanmedian(rows[:, known], axis=0)
    rows = np.clip(np.nan_to_num(rows), -1e3, 1e3)
    piece = np.arange(len(rows)) * PIECES // len(rows)
    some = np.linspace(0, len(rows) - 1, min(len(rows), MOST_COMPARED)).astype(np.int64)
    length = np.square(rows).sum(axis=1)
    nearest = np.empty(len(rows))
    for one in range(PIECES):
        here, others = piece == one, some[piece[some] != one]
        squared = length[here, None] + length[others] - 2.0 * rows[here] @ rows[others].T
        nearest[here] = squared.min(axis=1)
    return np.sqrt(np.maximum(0.0, nearest))


def far_above(score: Float64) -> Bool:
    """Which of the scores [k] lie far above the bulk of them: bool [k]."""
    low, high = np.quantile(score, [0.25, 0.75])
    above: Bool = score > high + 3.0 * (high - low)
    return above
