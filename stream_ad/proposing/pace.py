"""How many rows to learn from, and how often: from the rate of a stream or the length of a file."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MIN_ROWS = 2000
DEFAULT_WINDOW_ROWS = 20_000
LEAST_MIN_ROWS = 50
"""What the configuration allows."""
FIRST_MODEL_SECONDS = 600.0
WINDOW_SECONDS = 3600.0
RETRAIN_SECONDS = 900.0
WINDOWS = (10_000, 100_000)
MOST_WINDOW_CELLS = 50_000_000
"""400 MB."""
WINDOWS_TO_RETRAIN = 2.5
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
ROWS_PER_ALARM = 10
"""A window of this many times 1/rate shows what the rate is; fewer bring the warning of `stream-ad lint`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Section `training`, and the budget that so many rows can show."""

    min_rows: int
    window_rows: int
    every_rows: int | None
    every_seconds: float | None
    false_alarm_rate: float
    reasons: dict[str, str]
    """By key, why."""


def of_stream(rows: int, per_second: float | None, features: int) -> Pace:
    """For a topic that holds `rows` now and gets `per_second` more (None: not known)."""
    wanted = DEFAULT_MIN_ROWS
    window = DEFAULT_WINDOW_ROWS
    every = round(WINDOWS_TO_RETRAIN * DEFAULT_WINDOW_ROWS)
    pace = "the rate is not known, its records came all at once: these are the defaults"
    if per_second is not None:
        pace = f"{rate_text(per_second)} were measured"
        # A model of few rows flags too many; a fast stream has more of them in no time.
        wanted = int(min(DEFAULT_WINDOW_ROWS, max(200, FIRST_MODEL_SECONDS * per_second)))
        window = int(min(WINDOWS[1], max(WINDOWS[0], WINDOW_SECONDS * per_second)))
        every = int(max(WINDOWS_TO_RETRAIN * window, RETRAIN_SECONDS * per_second))
    min_rows = two_digits(max(LEAST_MIN_ROWS, min(wanted, rows // 2)))
    window = two_digits(max(min_rows, min(window, MOST_WINDOW_CELLS // max(1, features))))
    reasons = {
        "min_rows": f"{rows} rows are there now; {pace}"
        + (f"; so many take {seconds_text(min_rows / per_second)}" if per_second else ""),
        "window_rows": f"{seconds_text(window / per_second)} at that rate, and then some of all rows so far"
        if per_second
        else "the default",
        "every_rows": f"{seconds_text(every / per_second)} at that rate" if per_second else "the default",
    }
    return Pace(min_rows, window, two_digits(every), 3600.0, false_alarm_rate(window), reasons)


def of_file(rows: int, features: int) -> Pace:
    """For a file of `rows`: `stream-ad train` can learn from it, and so can a worker before its end."""
    min_rows = two_digits(max(LEAST_MIN_ROWS, min(DEFAULT_MIN_ROWS, int(0.4 * rows))))
    window = max(min_rows, min(rows, DEFAULT_WINDOW_ROWS, MOST_WINDOW_CELLS // max(1, features)))
    every = round(WINDOWS_TO_RETRAIN * DEFAULT_WINDOW_ROWS) if rows > WINDOWS[1] else None
    reasons = {
        "min_rows": f"two fifths of the {rows} rows of the file, {LEAST_MIN_ROWS} at least",
        "window_rows": "all of the file" if window == rows else "the least" if rows < window else "the default",
        "every_rows": "the default" if every else "the file is too short to learn twice",
    }
    return Pace(min_rows, window, every, None, false_alarm_rate(window), reasons)


def false_alarm_rate(window: int) -> float:
    """The smallest rate that a window of so many rows can show."""
    return next((rate for rate in RATES if rate * window >= ROWS_PER_ALARM), RATES[-1])


def two_digits(rows: float) -> int:
    """Rounded down to two digits: 1234 -> 1200."""
    whole = int(rows)
    step: int = 10 ** max(0, len(str(whole)) - 2)
    return whole // step * step


def rate_text(per_second: float) -> str:
    """A rate as people say it."""
    if per_second >= 1.0:
        return f"{float(f'{per_second:.3g}'):,g} rows a second"
    if per_second >= 1.0 / 60.0:
        return f"{60.0 * per_second:.3g} rows a minute"
    return f"{3600.0 * per_second:.3g} rows an hour"


def seconds_text(seconds: float) -> str:
    for name, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"
