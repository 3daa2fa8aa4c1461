"""How many records to ask for in one poll: the client counts records, but memory and time go by their bytes."""

from __future__ import annotations

FIRST_RECORDS = 16
MOST_BYTES = 8 << 20


class PollSize:
    """Begins with few records and doubles up to `most` as long as their values are small together.

    A record can be one row or 10,000 of them. Small ones reach `most` within a few polls.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.records = min(FIRST_RECORDS, most)

    def observe(self, values: list[bytes | None]) -> None:
        """Take in what a poll gave. One that was too large tells how many fit, a small one only if it was full."""
        size = sum(map(len, filter(None, values)))
        if size > MOST_BYTES:
            self.records = max(1, len(values) * MOST_BYTES // size)
        elif len(values) >= self.records and 2 * size <= MOST_BYTES:
            self.records = min(2 * self.records, self._most)
