"""Ring: arrays that are filled round and round, so that they hold the latest rows."""

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


class Ring:
    """Which places of arrays of length `capacity` the last so many rows have; the arrays themselves are the owner's."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._end = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def take(self, n: int) -> Int64:
        """Places [min(n, capacity)] for the last of n new rows; those of the oldest rows are taken first."""
        n = min(n, self.capacity)
        places: Int64 = (self._end + np.arange(n)) % self.capacity
        self._end = (self._end + n) % self.capacity
        self._size = min(self.capacity, self._size + n)
        return places

    def places(self) -> Int64:
        """Where all rows are, oldest first."""
        places: Int64 = (self._end - self._size + np.arange(self._size)) % self.capacity
        return places

    def clear(self) -> None:
        """Hold no rows."""
        self._end = self._size = 0
