"""What counts as a number: one rule for every source."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)
DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST_SHOWN = 40


class NotANumber(ValueError):
    """A feature holds something that is neither a number nor a missing value."""


def to_number(value: Any, missing_words: frozenset[str]) -> float:
    """A JSON value as a number, NaN where it means 'no reading'; infinite where a float cannot hold it.

    Null, an empty text and the missing words are missing; true and false are 1 and 0; a text that is a plain
    decimal number, blanks trimmed, is that number. Raises `NotANumber` for anything else.
    """
    if value is None:
        return np.nan
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return np.inf if value > 0 else -np.inf
    if isinstance(value, str):
        text = value.strip()
        if not text or text in missing_words:
            return np.nan
        if DECIMAL.fullmatch(text):
            return float(text)
    raise NotANumber(shown(value))


def shown(value: Any) -> str:
    """A value as it may stand in a message; of an object or array only that, it may be nested without end."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"an array of {len(value)}"
    text = repr(value) if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def clip(values: NDArray[np.float64], sentinels: tuple[float, ...]) -> NDArray[np.bool_]:
    """Turn sentinels into NaN and clip what float32 cannot hold, in place; True for rows that were clipped.

    values [n, d] -> [n].
    """
    if sentinels:
        values[np.isin(values, sentinels)] = np.nan
    clipped: NDArray[np.bool_] = np.any(np.abs(values) > FLOAT32_MAX, axis=1)
    if clipped.any():
        np.clip(values, -FLOAT32_MAX, FLOAT32_MAX, out=values)
    return clipped
