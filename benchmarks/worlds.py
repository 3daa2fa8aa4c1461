"""Simulated worlds: the plant with what may happen to it over months, each from a seed.

What the worlds add is measured in spreads. The spread of a sensor is that around its linear regression on the
others: an offset of six spreads is what the plant itself calls a fault that can be found row by row.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.streams import Source, Stream
from stream_ad.simulation import Plant

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

TRAIN_ROWS = 2000
ROWS = 18_000
FAULT_RATE = 1.0
"""Faults of the plant in a thousand rows."""
FINDABLE = 6.0
"""Spreads from which on an offset counts as an anomaly."""
BURST_ROWS = 600
SPELLS = 6
"""Of recurring change."""
POISON_PERCENT = (0, 2, 5, 10)
DRIFT_SPEED = 0.25
"""Spreads in a thousand rows, of all sensors: half as fast as the slowest attacker."""
ATTACK_SPEEDS = (0.5, 1.0, 2.0, 4.0)
"""Spreads in a thousand rows, of one sensor."""
ATTACK_REACH = 12.0


def stationary(seed: int, most: int) -> Stream:
    """Nothing but the plant's own faults."""
    train, rows, labels = plant(seed, most)
    return world("stationary", train, rows, labels)


def fault_burst(seed: int, most: int) -> Stream:
    """Three sensors are off at once for a long time: a real fault, which must stay flagged to its end."""
    train, rows, labels = plant(seed, most)
    rng = np.random.default_rng([seed, 10])
    where = slice(len(rows) // 2, len(rows) // 2 + BURST_ROWS)
    for sensor in rng.choice(rows.shape[1], 3, replace=False):
        rows[where, sensor] += rng.choice([-1.0, 1.0]) * rng.uniform(8.0, 12.0) * spread(train)[sensor]
    labels[where] = True
    return world("fault-burst", train, rows, labels)


def slow_drift(seed: int, most: int) -> Stream:
    """All sensors age, each in its own direction, and all that is normal."""
    train, rows, labels = plant(seed, most)
    sign = np.random.default_rng([seed, 11]).choice([-1.0, 1.0], rows.shape[1])
    rows += np.arange(len(rows))[:, None] / 1000.0 * DRIFT_SPEED * sign * spread(train)
    return world("slow-drift", train, rows, labels)


def lasting_change(seed: int, most: int) -> Stream:
    """Halfway another operating point, and it stays."""
    train, rows, labels = plant(seed, most)
    change = len(rows) // 2
    rows[change:] = elsewhere(rows[change:], train, seed)
    return world("lasting-change", train, rows, labels, (change,))


def recurring_change(seed: int, most: int) -> Stream:
    """To another operating point and back, again and again."""
    train, rows, labels = plant(seed, most)
    spell = np.arange(len(rows)) * SPELLS // len(rows)
    away = spell % 2 == 1
    rows[away] = elsewhere(rows[away], train, seed)
    return world("recurring-change", train, rows, labels, tuple((np.flatnonzero(np.diff(spell)) + 1).tolist()))


def poisoned(kind: str, percent: int, seed: int, most: int) -> Stream:
    """A sensor is off in some of the rows that train the first model, and later again, ten times.

    Nothing else is off. `kind` is burst or scattered: one stretch of the training rows, or single rows of it.
    """
    train, rows, _ = plant(seed, most, fault_rate=0.0)
    rng = np.random.default_rng([seed, 12])
    sensor, offset = int(rng.integers(rows.shape[1])), rng.choice([-1.0, 1.0]) * rng.uniform(8.0, 12.0)
    offset *= spread(train)[sensor]
    n = len(train) * percent // 100
    start = int(rng.integers(len(train) - n))
    where = np.arange(start, start + n) if kind == "burst" else rng.choice(len(train), n, replace=False)
    train[where, sensor] += offset
    labels = np.zeros(len(rows), dtype=bool)
    for start in np.linspace(0, len(rows), 11, dtype=int)[:-1]:
        labels[start + 100 : start + 140] = True
    rows[labels, sensor] += offset
    return world(f"poison-{kind}-{percent}", train, rows, labels)


def attacked(speed: float, seed: int, most: int) -> Stream:
    """Somebody moves one sensor slowly, `speed` spreads in a thousand rows up to twelve, and leaves it there."""
    train, rows, _ = plant(seed, most, fault_rate=0.0)
    rng = np.random.default_rng([seed, 13])
    sensor, sign = int(rng.integers(rows.shape[1])), rng.choice([-1.0, 1.0])
    offset = np.minimum(np.arange(len(rows)) / 1000.0 * speed, ATTACK_REACH)
    rows[:, sensor] += sign * offset * spread(train)[sensor]
    return world(f"attacker-{speed:g}", train, rows, offset >= FINDABLE)


def plant(seed: int, most: int, fault_rate: float = FAULT_RATE) -> tuple[Float64, Float64, Bool]:
    """Training rows, the rows after them, and which of these are faults."""
    made = Plant(seed, fault_rate, fault_free_rows=TRAIN_ROWS, drift=False).rows(TRAIN_ROWS + min(most, ROWS))
    values = made.values.copy()
    return values[:TRAIN_ROWS], values[TRAIN_ROWS:], made.fault[TRAIN_ROWS:] > 0


def spread(rows: Float64) -> Float64:
    """[d] spread of each sensor around its linear regression on the others."""
    precision = np.linalg.inv(np.cov(rows.T))
    result: Float64 = 1.0 / np.sqrt(np.diag(precision))
    return result


def elsewhere(rows: Float64, train: Float64, seed: int) -> Float64:
    """Rows as they are at another operating point: each sensor with another gain and another centre."""
    rng = np.random.default_rng([seed, 14])
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    gain = rng.uniform(0.8, 1.25, rows.shape[1])
    shift = rng.choice([-1.0, 1.0], rows.shape[1]) * rng.uniform(1.0, 3.0, rows.shape[1])
    result: Float64 = mean + (rows - mean) * gain + shift * deviation
    return result


def world(name: str, train: Float64, rows: Float64, labels: Bool, changes: tuple[int, ...] = ()) -> Stream:
    return Stream(name, train, rows, labels, in_time=True, changes=changes)


WORLDS = [
    Source("stationary", stationary),
    Source("fault-burst", fault_burst),
    Source("slow-drift", slow_drift),
    Source("lasting-change", lasting_change),
    Source("recurring-change", recurring_change),
    *(
        Source(f"poison-{kind}-{percent}", partial(poisoned, kind, percent))
        for kind in ("burst", "scattered")
        for percent in POISON_PERCENT
    ),
    *(Source(f"attacker-{speed:g}", partial(attacked, speed)) for speed in ATTACK_SPEEDS),
]
