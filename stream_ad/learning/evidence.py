"""Evidence of a change: how long rows have been flagged, and the spells in which most were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.fading import Rows

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

RECOVERY = 0.5
"""What an unflagged row takes from the evidence, to which a flagged one adds 1: where fewer than a third of the rows
are flagged, evidence cannot gather."""
SPELL = 0.0625
"""Share of the evidence that makes a change: with less of it at its height a time is no spell, and left to itself."""


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which most rows were flagged, until evidence of it was gone."""

    first: int
    """Position of its first row."""
    last: int
    height: float
    """Of the evidence."""
    key: int | None = None
    """The sequence whose rows these were, or all."""

    def as_numbers(self) -> tuple[int, int, int, int, int]:
        """To be kept."""
        return self.first, self.last, round(self.height), self.key is not None, self.key or 0

    @classmethod
    def of_numbers(cls, first: int, last: int, height: int, of_key: int, key: int) -> Spell:
        """Undo `as_numbers`."""
        return cls(first, last, height, key if of_key else None)

    def holds(self, rows: Rows) -> Bool:
        """Which of the rows [n] are of it."""
        within: Bool = (rows.position >= self.first) & (rows.position <= self.last)
        return within if self.key is None else within & (rows.sequence == self.key)


@dataclass(slots=True)
class Evidence:
    """How long rows have been flagged, those of one key or all."""

    level: float = 0.0
    since: int = 0
    """Position of the first row that it has gathered from."""
    next_look: int = 0
    told: bool = False
    """Whether it was said already that these rows are taken for faults."""
    height: float = 0.0
    """The highest level since."""
    last: int = 0
    """Position of the last row that it has gathered from."""

    def gather(self, score: Float64, position: Int64, most: int, key: int | None = None) -> Spell | None:
        """Take the scores [n] of the next rows, of a `key` or all, and their positions [n] in the window; return the
        spell that ended with them."""
        step = np.where(score >= 1.0, 1.0, np.where(np.isfinite(score), -RECOVERY, 0.0))
        level = self.level + np.cumsum(step)
        level -= np.minimum.accumulate(np.minimum(level, 0.0))
        ended = None
        if len(empty := np.flatnonzero(level == 0.0)):
            before, after = np.split(level, [empty[-1]])
            height = max(self.height, float(before.max(initial=0.0)))
            if height >= SPELL * most:
                ended = Spell(self.since, int(position[empty[-1]]), height, key)
            self.since, self.height, level = int(position[empty[-1]]) + 1, 0.0, after
        self.height = max(self.height, float(level.max(initial=0.0)))
        if len(position):
            self.last = int(position[-1])
        # Kept at most: after a long change ordinary rows must be able to clear it.
        self.level = min(float(most), float(level[-1])) if len(level) else self.level
        self.told = self.told and self.level > 0.0
        return ended
