"""Numbers that mean 'no reading': strong evidence goes into the configuration, weak evidence into a comment."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.data_report import suspicious_values
from stream_ad.proposing.fields import Field

Float64 = NDArray[np.float64]

FEWEST = 3
MOST_DOUBTFUL = 2
LEAST_REST = 10
NINES = re.compile(r"-?9{2,}(\.9+)?")
LIMITS = frozenset(
    [
        *(255.0, 32767.0, -32768.0, 65535.0, 2147483647.0, -2147483648.0, 4294967295.0),
        *(-1e10, 1e10, -1e20, 1e20, -1e30, 1e30, 9.96920996838687e36),
        *(float(np.finfo(np.float32).max), float(np.finfo(np.float32).min)),
    ]
)
REPORTED = re.compile(r"(?P<value>\S+) (?P<count>\d+) times; ")


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A number that most likely means 'no reading'."""

    value: float
    evidence: str
    strong: bool
    fields: frozenset[str]
    """Where it was seen."""


def find_sentinels(features: list[Field]) -> list[Sentinel]:
    """Look through the features.

    Strong: a number that is used for this (9999, the limits of integers), repeated, far outside of what the
    field has otherwise, and within no other feature's range, since `schema.missing_values` holds for all of them.
    """
    places: dict[float, dict[str, int]] = {}
    rare: list[Sentinel] = []
    for one in features:
        for value, count in _known_ones(one.known):
            places.setdefault(value, {})[one.name] = count
    for value in [value for value, where in places.items() if sum(where.values()) < FEWEST]:
        [name] = list(places.pop(value))[:1]
        evidence = f"{value:.10g}: once or twice in {name}, too rarely to be sure"
        rare.append(Sentinel(value, evidence, strong=False, fields=frozenset([name])))
    found = []
    for value, where in places.items():
        others = [one.name for one in features if _within(value, one.known)]
        seen = [f"{name} {count} times" for name, count in where.items()]
        evidence = f"{value:.10g}: {', '.join(seen[:3])}{' …' if len(seen) > 3 else ''}"
        if others:
            evidence += f"; not set, since {others[0]} has such values as readings"
        else:
            evidence += ", far outside of all other values"
        found.append(Sentinel(value, evidence, strong=not others, fields=frozenset(where)))
    return [*found, *rare, *_doubtful(features, set(places))]


def _known_ones(known: Float64) -> list[tuple[float, int]]:
    """Sentinels of the usual forms in one column, with how often they come."""
    values, counts = np.unique(known, return_counts=True)
    found = []
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if is_usual(value) and _outside(value, known[known != value]):
            found.append((value, count))
    return found


def is_usual(value: float) -> bool:
    """Whether programs write this number for 'no reading'.

    >>> [is_usual(value) for value in (-9999.0, 65535.0, -99.9, 998.0)]
    [True, True, True, False]
    """
    return value in LIMITS or NINES.fullmatch(f"{value:.8g}") is not None


def _outside(value: float, rest: Float64) -> bool:
    rest = rest[np.array([not is_usual(one) for one in rest.tolist()], np.bool_)] if len(rest) else rest
    if len(rest) < LEAST_REST:
        return False
    low, high = np.quantile(rest, [0.05, 0.95])
    reach = 2.0 * (high - low)
    return bool(value < min(rest.min(), low - reach) or value > max(rest.max(), high + reach))


def _within(value: float, known: Float64) -> bool:
    """Whether a column has readings on both sides of a value."""
    rest = known[known != value]
    if not len(rest):
        return False
    low, high = np.quantile(rest, [0.05, 0.95])
    return bool(low <= value <= high)


def _doubtful(features: list[Field], known: set[float]) -> list[Sentinel]:
    """What the training's report would call suspicious, for a person to decide."""
    found = []
    for one in features:
        column = np.where(np.isin(one.numbers, list(known)) | ~np.isfinite(one.numbers), np.nan, one.numbers)
        texts = suspicious_values(column[:, None], [one.name])
        if len(texts) > MOST_DOUBTFUL:
            continue  # the tails of a field that mostly stands still
        for text in texts:
            match = REPORTED.search(text.removeprefix(f"{one.name}: "))
            if match:
                value = float(match["value"])
                evidence = f"{value:g}: {one.name} {match['count']} times, far outside of its other values"
                found.append(Sentinel(value, evidence, strong=False, fields=frozenset([one.name])))
    return found
