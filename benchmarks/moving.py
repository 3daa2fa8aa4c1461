"""What becomes of the alerts where a plant moves, by day and night, for good, or by wear, or stands still.

    python benchmarks/moving.py --kinds day ramp walk --rows 300000

Ten sensors follow three loads that wander within some ten rows. Besides, the plant

- stays as it is (`still`);
- has a cycle of 86,400 rows, a day at one row a second, in four of its sensors, by 3 of its loads' spreads (`day`);
- moves on all the time, by 2 of these spreads in 50,000 rows (`ramp`);
- wanders, by 3 of them in 50,000 rows (`walk`);
- takes another operating point, 4 of them away, every 60,000 rows (`steps`);
- wears out: a fifth is added to one sensor's readings in every 50,000 rows (`wear`);
- stands still for 60,000 of every 80,000 rows, when all sensors are at zero but for a noise of 0.01 (`rest`);
- makes another product in 300 of every 6,000 rows, at other levels and with other relations of its sensors (`product`).

None of that is a fault. Every 2,000 rows, while it runs and makes its usual product, a sensor of it is off by 3 spreads
for 5 to 20 rows, which is. All goes through the learning loop, with the defaults but for the length of training: the
first model after 2,000 rows, a window of 20,000, a training at least every 50,000. Times the budget is the share of
sound rows that were flagged over the budget, found the share of faulty rows that were, both in each quarter of the
stream, while it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy.signal import lfilter

if __name__ == "__main__":  # the file alone was named: the checkout has to be on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.budget import RECIPES
from benchmarks.loop import Loop, Schedule
from benchmarks.results import markdown

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

KINDS = ("still", "day", "ramp", "walk", "steps", "wear", "rest", "product")
SENSORS = 10
LOADS = 3
MEMORY = 0.9
"""Correlation of a load with itself one row before."""
MOVING = np.array([1.0, 0.7, -0.5, 0.3] + [0.0] * 6)
"""How much each sensor moves with the plant."""
DAY = 86_400
SPAN = 50_000
POINT_ROWS = 60_000
WORN = 5
"""The sensor that wears out."""
RUNS, AFTER = 20_000, 80_000
"""It runs for so many rows, and again after so many."""
RUNNING = 5.0
"""How far all sensors are from where they rest, on average, while it runs."""
PRODUCT_ROWS, PRODUCT_AFTER = 300, 6000
PRODUCT_OFF = 3.0
EVERY_FAULT = 2000
OFF = 3.0
BATCH = 500
QUARTERS = 4
SCHEDULE = Schedule(first_rows=2000, every_rows=SPAN)


def position(kind: str, n: int, rng: np.random.Generator) -> Float64:
    """Where the plant is [n], in spreads of its loads."""
    row = np.arange(n)
    where: Float64 = np.zeros(n)
    match kind:
        case "day":
            where = 3.0 * np.sin(2.0 * np.pi * row / DAY)
        case "ramp":
            where = 2.0 * row / SPAN
        case "walk":
            where = 3.0 * np.cumsum(rng.normal(size=n)) / np.sqrt(SPAN)
        case "steps":
            where = 4.0 * rng.normal(size=n // POINT_ROWS + 1)[row // POINT_ROWS]
    return where


@dataclass(frozen=True, slots=True)
class Rows:
    """A stream of a plant that moves."""

    values: Float64
    """[n, SENSORS]"""
    faulty: Bool
    """[n]"""
    runs: Bool
    """[n] Where the plant does not stand still."""


def stream(kind: str, n: int, seed: int) -> Rows:
    """n rows, the first of which are sound."""
    rng = np.random.default_rng(seed)
    loads = lfilter([np.sqrt(1.0 - MEMORY**2)], [1.0, -MEMORY], rng.normal(size=(n, LOADS)), axis=0)
    values = driven_by(loads, rng)
    values += position(kind, n, rng)[:, None] * MOVING
    if kind == "wear":
        values[:, WORN] *= 1.0 + 0.2 * np.arange(n) / SPAN
    runs = np.full(n, kind != "rest") | (np.arange(n) % AFTER < RUNS)
    if kind == "rest":
        values += RUNNING
        values[~runs] = 0.01 * rng.normal(size=(n, SENSORS))[~runs]
    other = np.full(n, kind == "product") & (np.arange(n) % PRODUCT_AFTER < PRODUCT_ROWS)
    if kind == "product":
        values[other] = driven_by(loads, rng)[other] + PRODUCT_OFF
    faulty = np.zeros(n, dtype=bool)
    for start in range(SCHEDULE.first_rows, n, EVERY_FAULT):
        fault = slice(start, start + int(rng.integers(5, 20)))
        if not runs[fault].all() or other[fault].any():
            continue
        faulty[fault] = True
        values[fault, rng.integers(SENSORS)] += rng.choice([-OFF, OFF])
    return Rows(values, faulty, runs)


def driven_by(loads: Float64, rng: np.random.Generator) -> Float64:
    """What the sensors show under these loads [n, LOADS]."""
    values: Float64 = loads @ rng.normal(size=(LOADS, SENSORS)) + 0.3 * rng.normal(size=(len(loads), SENSORS))
    return values


def by_quarter(values: Float64, which: Bool) -> list[str]:
    """Means of those of the values [n], in each quarter of the stream."""
    quarters = zip(np.array_split(values, QUARTERS), np.array_split(which, QUARTERS), strict=True)
    return [f"{part[chosen].mean():.3g}" for part, chosen in quarters]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.001])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="brisk")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    first, table = SCHEDULE.first_rows, []
    with Progress(console=Console(stderr=True)) as progress:
        for kind, budget in product(arguments.kinds, arguments.budgets):
            rows = stream(kind, arguments.rows, arguments.seed)
            loop = Loop(SENSORS, budget, SCHEDULE, RECIPES[arguments.recipe], arguments.seed)
            loop.start(rows.values[:first])
            starts = progress.track(range(first, len(rows.values), BATCH), description=f"{kind}, budget {budget:g}")
            flagged = np.concatenate([loop.step(rows.values[start : start + BATCH])[1] for start in starts])
            runs, faulty = rows.runs[first:], rows.faulty[first:]
            asked = Counter(training.trigger for training in loop.trainings)
            alerts, found = by_quarter(flagged / budget, runs & ~faulty), by_quarter(100.0 * flagged, faulty)
            trainings = ", ".join(f"{count} {trigger}" for trigger, count in asked.items())
            table.append([kind, f"{budget:g}", " / ".join(alerts), " / ".join(found), trainings])
    print(markdown(["plant", "budget", "times the budget", "found, %", "trainings"], table))


if __name__ == "__main__":
    main()
