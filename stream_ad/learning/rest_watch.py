"""Rest watch: looks now and then where the stream rests, so that the window keeps but few of those rows."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ad.detector.resting import Rest, lasts

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

LOOKS = 8
"""Times that it is looked where the stream rests, while as many rows come as the window holds."""
ROWS = 256
"""Rows of the window, and as many of the latest part of its capacity, that show where the stream rests."""


class RestWatch:
    """Where a stream rests, as a window of `capacity` rows and the latest rows of the stream tell together: of those at
    rest the window has but few."""

    def __init__(self, capacity: int) -> None:
        self._every = max(1, capacity // LOOKS)
        self._rest: Rest | None = None
        self._latest: list[tuple[Float64, Int64]] = []
        """Some of the rows since the last look, and their sequences."""
        self._looked_at = 0

    def begin(self, seen: int) -> None:
        """Go on after so many rows that were offered before."""
        self._looked_at = seen

    def observe(self, values: Float64, sequence: Int64, seen: int, window: Callable[[int], Float64] | None) -> bool:
        """Take rows [n, d] with their sequences [n], the latest of `seen`; return whether it was found where the stream
        rests. `window` gives as many of its rows [k, d] as it is asked for; none while nothing in it fades."""
        position = np.arange(seen - len(values), seen)
        some = position % max(1, self._every // ROWS) == 0
        if some.any():
            self._latest.append((values[some], sequence[some]))
        if seen - self._looked_at < self._every:
            return False
        latest, of_latest = (np.concatenate(column) for column in zip(*self._latest, strict=True))
        self._latest, self._looked_at = [], seen
        return window is not None and self._look(window(ROWS), latest, of_latest)

    def _look(self, kept: Float64, latest: Float64, of_latest: Int64) -> bool:
        rest = Rest.found_in(torch.from_numpy(np.concatenate([kept, latest])))
        if rest is not None and lasts(rest.holds(torch.from_numpy(latest)), torch.from_numpy(of_latest)):
            if self._rest is None:
                log.info("many rows hardly differ, as of a plant at rest: few are kept, so that the others do not fade")
            self._rest = rest
            return True
        if self.holds(latest).any():
            self._rest = None  # what it was is not rest any more; while nothing rests it may come again
        return False

    def holds(self, values: Float64) -> Bool:
        """Which of the rows [n, d] are at rest."""
        if self._rest is None:
            return np.zeros(len(values), dtype=bool)
        return self._rest.holds(torch.from_numpy(np.ascontiguousarray(values))).numpy()
