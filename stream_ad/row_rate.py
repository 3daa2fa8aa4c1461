"""How many rows a second arrive, by the process's clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

Places = Mapping[tuple[str, int], int]
"""Records not read yet, by topic and partition."""

SPAN_SECONDS = 60.0
LEAST_SPANS = 3
MOST_SPANS = 1440
"""A day of them."""


class RowRate:
    """Measures the arrival of rows; their own time stamps are not trusted.

    A backlog is read as quickly as the machine can, which says nothing of how quickly rows come: what arrives is what
    was read plus what the lag grew by. A minute in which partitions came, went or were set back does not count.
    """

    def __init__(self) -> None:
        self._spans: deque[float] = deque(maxlen=MOST_SPANS)
        self._since: tuple[float, float, float, dict[tuple[str, int], int]] | None = None

    @property
    def per_second(self) -> float | None:
        """The mean over up to a day; None while fewer than three minutes were measured."""
        if len(self._spans) < LEAST_SPANS:
            return None
        return sum(self._spans) / len(self._spans)

    def observe(self, now: float, rows: float, records: float, lag: Places) -> None:
        """At `now` (monotonic seconds) so many rows from so many records have been read in all, and so many wait."""
        if self._since is None or lag.keys() != self._since[3].keys():
            self._since = (now, rows, records, dict(lag))
            return
        then, rows_then, records_then, lag_then = self._since
        if now - then < SPAN_SECONDS:
            return
        self._since = (now, rows, records, dict(lag))
        read = records - records_then
        arrived = read + sum(lag.values()) - sum(lag_then.values())
        if arrived >= 0:
            rows_each = (rows - rows_then) / read if read else 1.0
            self._spans.append(arrived * rows_each / (now - then))
