"""What in the training rows a person should look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ad.detector.folds import PASTS_OF_BLOCK, typical_length
from stream_ad.detector.temporal import CALENDAR_COLUMNS

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

FEWEST_REPEATS = 3
LEAST_STEPS = 16
FALLS_SHARE = 0.01
COUNTER_VALUES = 10
LEAST_PASTS = 2 * PASTS_OF_BLOCK
"""So many times as many rows as `schema.window` has show what means over them usually are: two blocks, to learn and to
calibrate."""
KEYS_OF_MESSAGES = 0.9
"""So many keys to a row do not name machines, of which some would have sent several."""


def findings(
    extended: Float64,
    features: list[str],
    unknown: Bool,
    context: Mapping[str, Any],
    succeeding: tuple[Float64, Int64],
) -> dict[str, list[str]]:
    """All that there is to say of training rows [n, width], extended by their `context`, the window and the calendar of
    the schema, under the names that it has in the training report.

    `unknown` [width] are the columns that the detector takes for missing. `succeeding` are rows [m, width] with the
    number of the sequence that each belongs to [m].
    """
    d = len(features)
    x, (following, sequence) = extended[:, :d], succeeding
    return {
        "suspicious_values": suspicious_values(x, features),
        "coarse_in_float32": too_coarse_for_float32(x, features),
        "counters": counters(following[:, :d], features, sequence),
        "hardly_known": hardly_known(x, features, unknown[:d]),
        "short_sequences": short_sequences(sequence, context["window"]),
        "calendar": unseen_hours(extended) if context["calendar"] else [],
    }


def suspicious_values(x: Float64, features: list[str]) -> list[str]:
    """Values of x [n, d] that lie far outside and come back again and again: most likely 'no reading'.

    One text a value, such as 'temp_c: -9999 five times'.
    """
    found = []
    for name, column in zip(features, x.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) < FEWEST_REPEATS:
            continue
        low, high = np.quantile(known, [0.05, 0.95])
        reach = 5.0 * (high - low)
        outside = known[(known < low - reach) | (known > high + reach)] if reach > 0.0 else known[:0]
        values, counts = np.unique(outside, return_counts=True)
        found += [
            f"{name}: {value:g} {count} times; if it means 'no reading', list it in schema.missing_values"
            for value, count in zip(values, counts, strict=True)
            if count >= FEWEST_REPEATS
        ]
    return found


def too_coarse_for_float32(x: Float64, features: list[str]) -> list[str]:
    """Columns of x [n, d] whose spread is lost where values travel as float32.

    The detector centres in float64, so this matters only if producers send float32.
    """
    found = []
    for name, column in zip(features, x.T, strict=True):
        known = column[~np.isnan(column)]
        # The deviation of a constant is rounding, and need not be 0.
        spread = float(known.std()) if len(known) and known.min() < known.max() else 0.0
        step = float(np.spacing(np.float32(np.abs(known).max()))) if len(known) else 0.0
        if 0.0 < spread < LEAST_STEPS * step:
            found.append(f"{name}: spread {spread:.3g}, but float32 moves in steps of {step:.3g} there")
    return found


def hardly_known(x: Float64, features: list[str], unknown: Bool) -> list[str]:
    """Columns of x [n, d] that the detector takes for missing, `unknown` [d], since it saw too few values."""
    counts = np.count_nonzero(~np.isnan(x), axis=0).tolist()
    return [
        f"{name}: {count} values in {len(x)} rows are too few to know it by: it counts as missing until the next model"
        for name, count, is_unknown in zip(features, counts, unknown.tolist(), strict=True)
        if is_unknown
    ]


def counters(x: Float64, features: list[str], sequence: Int64) -> list[str]:
    """Columns of x [n, d] that only go up among the rows of one `sequence` [n], such as those of a record key."""
    return [
        f"{name}: never falls, like a counter, so all that comes is beyond what was learned; send its change "
        "instead, or take it out of schema.features"
        for name, column in zip(features, x.T, strict=True)
        if never_falls(column[~np.isnan(column)], steps_within(column, sequence))
    ]


def steps_within(column: Float64, sequence: Int64) -> Float64:
    """Differences from one known value of a column [n] to the next of the same sequence [n]."""
    order = np.argsort(sequence, kind="stable")
    order = order[~np.isnan(column[order])]
    with np.errstate(invalid="ignore"):
        steps: Float64 = np.diff(column[order])[np.diff(sequence[order]) == 0]
    return steps[np.isfinite(steps)]


def never_falls(known: Float64, steps: Float64, distinct_share: float = 0.0) -> bool:
    """Whether values do nothing but rise, again and again; a few falls are those of counters that were reset."""
    if np.count_nonzero(steps > 0.0) < COUNTER_VALUES:
        return False
    distinct = len(np.unique(known)) >= max(COUNTER_VALUES, distinct_share * len(known))
    return distinct and float((steps < 0.0).mean()) <= FALLS_SHARE


def short_sequences(sequence: Int64, window: int) -> list[str]:
    """Whether most rows are of sequences [n] of which there are too few to judge a row with a `window` of them."""
    keys = len(np.unique(sequence))
    if keys < 2:
        return []
    if keys > KEYS_OF_MESSAGES * len(sequence):
        return [
            f"{len(sequence)} rows have {keys} keys: they name messages, or so many machines that hardly one comes "
            "twice. No row is known to follow another, none has a past (schema.window), and each alert is an episode "
            "of its own. Name the field that tells where a row comes from in schema.key, let producers send no key, or "
            "learn from more rows (training.window_rows)"
        ]
    typical = typical_length(torch.from_numpy(sequence))
    if typical >= LEAST_PASTS * window:
        return []
    return [
        f"{keys} keys share the window, with some {typical} rows of each: too few to know what {window} rows in "
        f"succession are like. Learn from {LEAST_PASTS * window * keys} rows (training.min_rows, "
        "training.window_rows), or lower schema.window"
    ]


def unseen_hours(extended: Float64) -> list[str]:
    """What of the day and the week the rows [n, width], extended by the calendar, do not span.

    To a model learned from them an hour that it has not seen is an anomaly.
    """
    circles = extended[:, -CALENDAR_COLUMNS:]
    circles = circles[~np.isnan(circles).any(axis=1)]
    if not len(circles):
        return ["no row has a time: schema.calendar changes nothing; name the field that holds it in schema.timestamp"]
    half = CALENDAR_COLUMNS // 2
    turn = np.arctan2(circles[:, half:], circles[:, :half]) / (2.0 * np.pi) % 1.0
    found = []
    for part, unit, whole, of in ((turn[:, 0], "hours", 24, "day"), (turn[:, 1], "days", 7, "week")):
        seen = len(np.unique(np.floor(part * whole).astype(np.int64) % whole))
        if seen < whole:
            found.append(
                f"the rows come from {seen} of the {whole} {unit} of a {of}: with schema.calendar all others will "
                "raise alarms; learn from more (training.window_rows, training.min_rows), or set it to false"
            )
    return found


def burst_left_out(rows: NDArray[np.int64]) -> list[str]:
    """What to tell of rows that were not learned from because they look like a burst of anomalies."""
    if not len(rows):
        return []
    return [
        f"{len(rows)} rows between row {rows[0]} and row {rows[-1]} of the window follow on each other, or on rows of "
        "their key, and look like none of the others: they were taken for a fault and not learned from"
    ]
