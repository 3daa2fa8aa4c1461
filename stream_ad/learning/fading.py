"""Rows of a stream that fade with age: of the latest all are there, of earlier ones the fewer the longer ago."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector.resting import SHARE

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

PIECES = 64
"""Parts of the capacity; who makes room for the rows of one is chosen at once, since that takes a look at all."""
NOWHERE = -1
"""Position of a place without a row."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of numbers, and what the window knows of each."""

    values: Float64
    """[n, d]"""
    position: Int64
    """[n] how many rows had been offered before."""
    since: Int64
    """[n] the position from which its age counts: its own, or where it was let in later."""
    score: Float64
    """[n] NaN where there was no model yet, or where something else let the row in."""
    sequence: Int64
    """[n] rows of one number follow each other, as those of a record key do."""
    suspect: Bool
    """[n] whether it was part of something that went on, as its neighbours told before they faded."""
    rests: Bool
    """[n] whether it is one of many at rest: see `stream_ad.detector.resting`."""

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, which: Bool | Int64 | slice) -> Rows:
        return Rows(*(getattr(self, field.name)[which] for field in fields(Rows)))

    def faded(self, now: int) -> Float64:
        """How far each has faded [n] at this position: see `faded`."""
        return faded(self.since, lot(self.position), now)

    def and_by_time(self, others: Rows) -> tuple[Rows, Bool]:
        """These and others in order of time, and which are the others."""
        order = np.argsort(np.concatenate([self.position, others.position]), kind="stable")
        joined = Rows(*(np.concatenate([getattr(self, f.name), getattr(others, f.name)]) for f in fields(Rows)))
        return joined[order], order >= len(self)


class FadingRows:
    """At most `capacity` rows: of those of some age a share that is inversely proportional to it.

    The latest c are all there, of those from a to 2 a rows ago c log 2, whatever a is. So rows of yesterday and of last
    week are kept at any pace of the stream, and a window of some minutes knows the cycles of a plant. After T rows c is
    what c (1 + log(T / c)) = capacity gives: of 20,000 after a million 3,000. A window of the latest rows alone would
    forget what comes only now and then, and a sample of all rows alike what is new. (Biased reservoirs, Aggarwal, VLDB
    2006, forget exponentially and have a time scale to choose.)
    """

    def __init__(self, capacity: int, n_features: int) -> None:
        self.capacity = capacity
        self._most_at_rest = int(SHARE * capacity)
        self._next = np.arange(capacity)
        """Places that the next rows take: free ones, or those of the rows that have faded most."""
        self._kept = Rows(
            np.empty((capacity, n_features)),
            np.full(capacity, NOWHERE),
            np.zeros(capacity, np.int64),
            np.zeros(capacity),
            np.zeros(capacity, np.int64),
            np.zeros(capacity, np.bool_),
            np.zeros(capacity, np.bool_),
        )
        self._lot = np.zeros(capacity)
        """Of each row: to draw it takes longer than to look how far all have faded."""

    def __len__(self) -> int:
        return int(np.count_nonzero(self._kept.position != NOWHERE))

    def add(self, rows: Rows) -> None:
        """Take rows in order of time, later ones than those before."""
        piece = max(1, self.capacity // PIECES)
        for start in range(0, len(rows), piece):
            some = rows[start : start + piece]
            if len(some) > len(self._next):
                self._next = self._most_faded(piece, int(some.position[0]))
            places, self._next = self._next[: len(some)], self._next[len(some) :]
            for field in fields(Rows):
                getattr(self._kept, field.name)[places] = getattr(some, field.name)
            self._lot[places] = lot(some.position)

    def _most_faded(self, n: int, now: int) -> Int64:
        """Places [n] of the rows that have faded most, those without a row first; of rows at rest if they are too
        many."""
        held = self._kept.position != NOWHERE
        how_far = np.where(held, faded(self._kept.since, self._lot, now), np.inf)
        resting = held & self._kept.rests
        if np.count_nonzero(resting) > self._most_at_rest:
            how_far[~resting] = -1.0
        most = np.argpartition(how_far, self.capacity - n)[self.capacity - n :]
        return most[np.argsort(-how_far[most])]

    def replace(self, rows: Rows) -> None:
        """Hold these rows, oldest first, in place of all others."""
        self._kept.position[:] = NOWHERE
        self._next = np.arange(self.capacity)
        self.add(rows)

    def scale(self, factor: float) -> None:
        """Multiply all scores."""
        self._kept.score[:] *= factor

    def suspect(self, position: Int64) -> None:
        """Mark the rows at these positions, of those that are here."""
        self._kept.suspect[np.isin(self._kept.position, position)] = True

    def sample(self, n: int) -> Float64:
        """Some n of the rows [k, d], or all if there are no more."""
        held = np.flatnonzero(self._kept.position != NOWHERE)
        return self._kept.values[held[:: max(1, len(held) // n)]]

    def rest(self, which: Callable[[Float64], Bool], now: int) -> None:
        """Mark those at rest, as `which` tells from the values [n, d]; of too many those are forgotten that have faded
        most."""
        self._kept.rests[:] = which(self._kept.values)
        resting = np.flatnonzero(self._kept.rests & (self._kept.position != NOWHERE))
        how_far = faded(self._kept.since[resting], self._lot[resting], now)
        self._kept.position[resting[np.argsort(how_far)[self._most_at_rest :]]] = NOWHERE

    def complete(self, now: int, rests: bool = False) -> float:
        """The age up to which none has faded of those at rest, or of the others, as those that are left tell; infinite
        if they tell nothing."""
        held = (self._kept.position != NOWHERE) & (self._kept.rests == rests)
        return float(faded(self._kept.since[held], self._lot[held], now).max(initial=0.0)) or math.inf

    def ordered(self) -> Rows:
        """Copies of all rows, oldest first."""
        held = np.flatnonzero(self._kept.position != NOWHERE)
        return self._kept[held[np.argsort(self._kept.position[held], kind="stable")]]


def faded(since: Int64, lot: Float64, now: int) -> Float64:
    """How far rows have faded [n]: those that are left are all below some c.

    A row's age, times a number that it drew once and for all from (0, 1): that is below c with probability c / age.
    """
    return np.maximum(0, now - since) * lot


def lot(position: Int64) -> Float64:
    """A number in (0, 1) for each position [n], the same each time (the finaliser of SplitMix64, Steele et al. 2014).

    So inliers and flagged rows of one time fade alike, and a restart changes nothing.
    """
    x = position.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) >> np.uint64(11)
    return (x.astype(np.float64) + 0.5) / 2.0**53
