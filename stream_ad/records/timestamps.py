"""Time stamps in and out: everything becomes int64 milliseconds since the epoch, UTC."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from stream_ad.records.batch import NO_TIMESTAMP
from stream_ad.records.numbers import DECIMAL

PER_MILLISECOND = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}
BY_SIZE = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (math.inf, "ns"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = -62_135_596_800_000
LAST = 253_402_300_799_999
"""Years 1 to 9999."""


def parse_timestamp(value: Any, unit: str, zone: ZoneInfo) -> int | None:
    """Milliseconds since the epoch; None for what is no time stamp.

    Numbers count in `unit`, or by their size with `auto` (< 1e11 s, < 1e14 ms, < 1e17 us, else ns); texts are
    ISO 8601, in `zone` if they name none, or such a number, by the rule of features. Days and months are never
    guessed. With `auto` a text of eight digits is a date where it can be one: as seconds it would lie in 1970.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _from_number(value, unit)
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        return _from_text(text, unit, zone)
    except (ValueError, OverflowError):
        return _from_number(float(text), unit) if DECIMAL.fullmatch(text) else None


def _from_number(value: int | float, unit: str) -> int | None:
    try:
        size = abs(float(value))
    except OverflowError:
        return None
    # Kafka and many devices write -1 for "no time".
    if not math.isfinite(size) or value == -1:
        return None
    if unit == "auto":
        unit = next(name for limit, name in BY_SIZE if size < limit)
    milliseconds = value * 1000 if unit == "s" else value / PER_MILLISECOND[unit]
    return min(LAST, max(FIRST, math.floor(milliseconds)))


def _from_text(text: str, unit: str, zone: ZoneInfo) -> int:
    # fromisoformat would find dates in epochs, too: 1712111230123 would be in the year 1712.
    a_date = "-" in text[1:] or (unit == "auto" and len(text) == len("20310304")) or not DECIMAL.fullmatch(text)
    if not a_date:
        raise ValueError(text)
    moment = datetime.fromisoformat(f"{text[:-1]}Z" if text.endswith("z") else text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return (moment - EPOCH) // timedelta(milliseconds=1)


def format_timestamp(milliseconds: int) -> str | None:
    """ISO 8601, UTC, with milliseconds; None for `NO_TIMESTAMP` and what is outside the years 1 to 9999.

    >>> format_timestamp(1930381200250)
    '2031-03-04T09:00:00.250Z'
    """
    if milliseconds == NO_TIMESTAMP or not FIRST <= milliseconds <= LAST:
        return None
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")
