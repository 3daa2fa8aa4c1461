"""When to train."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0


@dataclass(slots=True)
class Triggers:
    """Asks for a training after so many rows or so long, on the process's clock, never on record stamps.

    After a failed training the next one waits, twice as long each time, whatever asks for it.
    """

    min_rows: int
    every_rows: int | None
    every_seconds: float | None
    min_interval_seconds: float
    young_rows: int = 0
    """Until so many rows have been seen, each time their number has grown by half is enough: the first models know
    little."""
    last_started: float | None = None
    rows_at_start: int = 0
    failures: int = 0
    has_model: bool = False
    wanted: str | None = None
    """`regime` or `drift`, once a change was found, until a training starts."""

    def due(self, now: float, rows_seen: int, window_rows: int) -> str | None:
        """The name of the trigger that asks for a training now: `first`, `regime`, `drift`, `rows` or `time`."""
        if window_rows < self.min_rows:
            return None
        since = None if self.last_started is None else now - self.last_started
        if since is not None and since < self.wait():
            return None
        if not self.has_model:
            return "first"
        if self.wanted is not None:
            return self.wanted
        if self.every_rows is not None and rows_seen - self.rows_at_start >= self._rows_apart(self.every_rows):
            return "rows"
        if self.every_seconds is not None and since is not None and since >= self.every_seconds:
            return "time"
        return None

    def _rows_apart(self, every_rows: int) -> int:
        young = 0 < self.rows_at_start < self.young_rows
        return min(every_rows, self.rows_at_start // 2) if young else every_rows

    def wait(self) -> float:
        """Seconds that must lie between the start of one training and the next."""
        if self.failures == 0:
            return self.min_interval_seconds
        retry = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** (self.failures - 1))
        return max(self.min_interval_seconds, retry)

    def started(self, now: float, rows_seen: int) -> None:
        self.last_started = now
        self.rows_at_start = rows_seen
        self.wanted = None

    def finished(self, good: bool) -> None:
        self.failures = 0 if good else self.failures + 1
