"""Outages: where the rows of a key stop for so long that those before say nothing of those after."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

LONG = 8.0
"""An outage is so many times as long as the longest pause that is usual."""
LONGEST = 86_400.0
"""Seconds. A pause that is longer counts as this: a single wrong time must not make all others short for good."""
NOTHING = -50.0
"""Logarithm of the seconds below which a pause is none: rows sent together have one time."""


def find_outages(
    times: Float64, bounds: Int64, latest: Float64, usual: Float64, half_life: float
) -> tuple[Bool, Float64, Float64]:
    """Which rows are the first after an outage.

    `times` [n] are seconds, NaN where unknown, key by key, in order of arrival within a key; key i has the rows from
    `bounds[i]` to `bounds[i + 1]`, one at least. Of each key `latest` [k] is the time of its last row before these, NaN
    if there is none, and `usual` [k] the longest usual pause in seconds, 0 if none is known.

    Usual is the longest pause there was, which counts half as much every `half_life` rows: rows that come at an even
    pace have a short one, those that are sent by the hundred a long one. So in any `half_life` log2(LONG) rows one
    pause of a length is an outage at most.

    Returns true [n] for the first rows after an outage, and `latest` and `usual` after these rows.
    """
    first, last = bounds[:-1], bounds[1:] - 1
    key = np.repeat(np.arange(len(first)), np.diff(bounds))
    place = np.arange(len(times)) - first[key]
    known = np.maximum.accumulate(np.where(np.isnan(times), -1, np.arange(len(times))))
    filled = np.where(known >= first[key], times[known], latest[key])
    previous = np.append(np.nan, filled[:-1])
    previous[first] = latest
    pause = np.clip(np.nan_to_num(filled - previous, nan=0.0), 0.0, LONGEST)

    decay = math.log(2.0) / half_life
    with np.errstate(divide="ignore"):
        length, began = np.log(pause), np.log(usual) - decay
    # The largest so far, all grown to one moment, and keys further apart than any two of them are, so that one pass
    # does for all.
    strength = length + decay * place
    strength[first] = np.maximum(strength[first], began)
    apart = (1000.0 + decay * len(times)) * key
    strength = np.maximum.accumulate(strength + apart) - apart
    before = np.append(-np.inf, strength[:-1]) - decay * place
    before[first] = began
    outage = (before > NOTHING) & (length > math.log(LONG) + before)
    return outage, filled[last], np.exp(strength[last] - decay * place[last])
