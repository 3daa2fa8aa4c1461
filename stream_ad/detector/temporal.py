"""Temporal context: what a row's recent past adds to the row, as descriptors for the first stage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector.descriptors import FLOAT32_MAX
from stream_ad.detector.outages import find_outages

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Moments = tuple[Float64, Float64, Float64]
"""Count, mean and sum of squared deviations, each [d, n]; the count [1, n] where no value is missing."""

STATISTICS = 2
"""Rolling mean and rolling deviation."""
CALENDAR_COLUMNS = 4
DAY = 86_400.0
WEEK = 7 * DAY
MEMORY = 64 * 2**20
"""Bytes that all keys together may take."""
KEY_MEMORY = 480
"""Bytes that a key takes beside its values, as objects: measured, with names of 20 bytes."""
CACHED = 32_768
"""Values worked on at once: more fall out of the processor's caches."""
PAUSE_MEMORY = 2.0
"""Windows after which the longest pause between two rows counts half as much: see `find_outages`."""


@dataclass(slots=True)
class Past:
    """What is kept of a key."""

    rows: Float64
    """The latest [window - 1, d] at most, since the last outage."""
    time: float = np.nan
    """Of the latest row that had one, in seconds since 1970."""
    usual_pause: float = 0.0
    """The longest between two rows, in seconds: see `find_outages`."""


class TemporalContext:
    """Extends rows by descriptors of their recent past, key by key.

    For each feature two descriptors over the last `window` rows of the key, the row itself among them, and over the
    last quarter of these if that is two rows or more, since some faults show in a moment and some in the long run:

    - the rolling mean, which shows shifts too small for a single row, because the noise averages out;
    - the fourth root of the rolling standard deviation, which is 0 for a stuck sensor and large for an unsteady
      one. The root makes a halved deviation about as visible as a doubled one, as a logarithm would, but it
      needs no unit and bears 0.

    Missing values are left out; where fewer than half of the window's values are there, a descriptor is NaN. So it is
    for a key's first rows, until the window is full: the mean of fewer rows moves more than any that was learned. With
    `calendar` four columns more: the time of day and the time of the week in UTC, each as a point on a circle.

    Rows before an outage are not the past of those after it: nobody knows what went on in between, and a mean over
    both would show a jump. The key begins anew.

    The past of each key is carried from call to call, so the result does not depend on how rows are cut into
    batches. Of the keys the least recently seen are forgotten when all together take more than 64 MiB.

    Parameters: `window`, rows of context, 0 for none. Raises ValueError for a negative window or one of 1, in
    which nothing can vary.

    >>> import numpy as np
    >>> context = TemporalContext(n_features=1, window=4)
    >>> context.extend(np.array([[1.0], [3.0], [2.0], [2.0], [5.0]])).round(2)
    array([[1.  ,  nan,  nan],
           [3.  ,  nan,  nan],
           [2.  ,  nan,  nan],
           [2.  , 2.  , 0.92],
           [5.  , 3.  , 1.05]])
    """

    def __init__(self, n_features: int, window: int, calendar: bool = False) -> None:
        if window < 0 or window == 1:
            raise ValueError(f"a temporal context of {window} rows is not possible: use 0 for none, or 2 and more")
        self.n_features = n_features
        self.window = window
        self.scales = tuple(rows for rows in (window, window // 4) if rows > 1)
        self.calendar = calendar
        self._past: OrderedDict[bytes | None, Past] = OrderedDict()
        self._most_keys = max(1, MEMORY // (KEY_MEMORY + 8 * n_features * max(0, window - 1)))

    @property
    def width(self) -> int:
        """Columns of an extended row."""
        return self.n_features * self._blocks + (CALENDAR_COLUMNS if self.calendar else 0)

    @property
    def _blocks(self) -> int:
        """How many columns of an extended row tell of each feature."""
        return 1 + STATISTICS * len(self.scales)

    @property
    def describes(self) -> Int64:
        """[width] which feature each column of an extended row tells of; -1 for the calendar, which tells of none."""
        of_features = np.tile(np.arange(self.n_features), self._blocks)
        return np.concatenate([of_features, np.full(self.width - len(of_features), -1)])

    def extend(
        self, values: Float64, keys: Sequence[bytes | None] | None = None, timestamps: Float64 | None = None
    ) -> Float64:
        """Rows `values` [n, d] in order of arrival, NaN for missing -> extended rows [n, width].

        The first d columns are the rows themselves. Rows of one of `keys` [n] share a past; without keys all rows
        do. `timestamps` [n] are seconds since 1970, NaN where unknown.
        """
        if len(values) == 0:
            return np.empty((0, self.width))
        times = np.full(len(values), np.nan) if timestamps is None else timestamps
        parts = [values]
        if self.window:
            parts += self._statistics(values, keys, times)
        if self.calendar:
            parts.append(calendar_circles(times))
        extended: Float64 = np.concatenate(parts, axis=1)
        return extended

    def _statistics(self, values: Float64, keys: Sequence[bytes | None] | None, times: Float64) -> list[Float64]:
        """Rolling mean and fourth root of the deviation at each scale, each [n, d]."""
        known = np.clip(values, -FLOAT32_MAX, FLOAT32_MAX)
        rows, place, position = self._with_past(known, keys, times)
        columns = np.ascontiguousarray(rows.T)
        found = np.empty((len(self.scales), STATISTICS, *values.T.shape))
        step = max(1, CACHED // max(1, columns.shape[1]))
        for first in range(0, self.n_features, step):
            some = slice(first, first + step)
            for (means, deviations), scale in zip(found, self.scales, strict=True):
                moments = rolling_moments(columns[some], position, scale)
                count, mean, squares = (part[:, place] for part in moments)
                enough = (count >= scale / 2) & (position[place] >= scale - 1)
                means[some] = np.where(enough, mean, np.nan)
                deviations[some] = np.where(enough, np.sqrt(np.sqrt(np.sqrt(squares / np.maximum(count, 1.0)))), np.nan)
        return [part.T for part in found.reshape(-1, *values.T.shape)]

    def _with_past(
        self, values: Float64, keys: Sequence[bytes | None] | None, times: Float64
    ) -> tuple[Float64, Int64, Int64]:
        """The rows sorted by key, each key's past before them, and remembered for the next call.

        Returns the rows [m, d], where in them each of `values` is [n], and how many rows of the same key come
        before each [m], since the last outage.
        """
        distinct: list[bytes | None] = [None] if keys is None else list(dict.fromkeys(keys))
        order, bounds = group_by_key(len(values), distinct, keys)
        pasts = [self._past.pop(key, Past(values[:0])) for key in distinct]
        latest, usual = np.array([past.time for past in pasts]), np.array([past.usual_pause for past in pasts])
        outage, latest, usual = find_outages(times[order], bounds, latest, usual, PAUSE_MEMORY * self.window)

        lengths = np.array([len(past.rows) for past in pasts])
        starts, ends = bounds[:-1] + np.cumsum(lengths) - lengths, bounds[1:] + np.cumsum(lengths)
        place = np.empty(len(values), dtype=np.int64)
        place[order] = np.arange(len(values)) + np.repeat(np.cumsum(lengths), np.diff(bounds))
        rows = np.empty((ends[-1], values.shape[1]))
        rows[place] = values
        for past, start in zip(pasts, starts.tolist(), strict=True):
            rows[start : start + len(past.rows)] = past.rows
        position = rows_since(np.concatenate([starts, place[order[outage]]]), len(rows))
        for i, (key, end) in enumerate(zip(distinct, ends.tolist(), strict=True)):
            kept = min(self.window - 1, int(position[end - 1]) + 1)
            self._past[key] = Past(rows[end - kept : end].copy(), float(latest[i]), float(usual[i]))
        while len(self._past) > self._most_keys:
            self._past.popitem(last=False)
        return rows, place, position


def rows_since(beginnings: Int64, n: int) -> Int64:
    """How many rows before each of n [n] there are since the last of the `beginnings`, of which 0 is one."""
    latest = np.zeros(n, np.int64)
    latest[beginnings] = beginnings
    return np.arange(n) - np.maximum.accumulate(latest)


def group_by_key(n: int, distinct: Sequence[bytes | None], keys: Sequence[bytes | None] | None) -> tuple[Int64, Int64]:
    """Row numbers [n] sorted by key, in order of arrival within a key, and where each key's rows begin and end."""
    if keys is None:
        return np.arange(n), np.array([0, n])
    number = {key: i for i, key in enumerate(distinct)}
    group = np.fromiter(map(number.__getitem__, keys), dtype=np.int64, count=n)
    return np.argsort(group, kind="stable"), np.r_[0, np.cumsum(np.bincount(group, minlength=len(distinct)))]


def rolling_moments(x: Float64, position: Int64, window: int) -> Moments:
    """Moments of the last `window` values of each feature of x [d, n], up to and with each row.

    `position` [n] says how many rows before each belong to the same key; others are not looked at. Windows are
    put together from blocks that double in length (Chan et al. 1979): that takes about log2(window) steps, gives
    exactly 0 where nothing moves, and keeps the movement of a counter near 2e9.
    """
    missing = np.isnan(x)
    if missing.any():
        block: Moments = ((~missing).astype(np.float64), np.where(missing, 0.0, x), np.zeros_like(x))
    else:
        block = (np.ones((1, x.shape[1])), x, np.zeros_like(x))
    length = 1
    whole, covered = (block, 1) if window & 1 else (None, 0)
    while length * 2 <= window:
        block = preceded(block, block, length, position)
        length *= 2
        if window & length:
            whole = block if whole is None else preceded(whole, block, covered, position)
            covered += length
    assert whole is not None
    return whole


def preceded(later: Moments, earlier: Moments, rows: int, position: Int64) -> Moments:
    """Moments that end at each row, joined by those that end so many `rows` before it, if the key has them."""
    count, mean, squares = (part.copy() for part in later)
    if rows >= len(position):
        return count, mean, squares
    other_count, other_mean, other_squares = (part[:, :-rows] for part in earlier)
    same_key = position[rows:] >= rows
    both = count[:, rows:] + other_count * same_key
    share = other_count * same_key / np.maximum(both, 1.0)
    step = other_mean - mean[:, rows:]
    mean[:, rows:] += step * share
    step *= step
    step *= count[:, rows:] * share
    step += other_squares * same_key
    squares[:, rows:] += step
    count[:, rows:] = both
    return count, mean, squares


def calendar_circles(timestamps: Float64) -> Float64:
    """Time of day and time of the week of seconds since 1970 [n], as cosines and sines [n, 4].

    The same hour of another day gives the very same numbers: a value that differs in its last digits alone would
    count as one that was never seen.
    """
    periods = np.array([DAY, WEEK])
    turns = 2.0 * np.pi * (timestamps[:, None] % periods) / periods
    return np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
