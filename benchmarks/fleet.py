"""What becomes of the alerts where many machines share a topic, and one of them is unlike the others.

    python benchmarks/fleet.py --machines 20 100 400 --retrains 4

Machines of ten sensors that follow four loads take turns. Each has a centre of its own, half a spread away in each
sensor as a rule; one runs 8 spreads away in three of them. Now and then a sensor of some machine is off by 8 spreads
for ten of its rows. The stream goes through the loop of the product: a first window of 20,000 sound rows, and a
training after every 20,000 more.

Times the budget is the share of sound rows that were flagged over the budget, from the first model to the end. Found is
the share of rows that are flagged once a sensor of theirs is moved by 8 spreads; these do not go into the loop. Both
for the odd machine and for all others, and with the rows' keys and without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.budget import RECIPES
from benchmarks.loop import Loop, Schedule
from benchmarks.results import markdown

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

SENSORS, LOADS = 10, 4
OWN_SPREAD = 0.5
ODD, ODD_SENSORS, FAR = 0, 3, 8.0
FAULTY_SENSOR = 5
FAULT_ROWS = 10
EVERY_FAULT = 2500
BATCH = 500
KEYS = {False: "no", True: "yes"}


@dataclass(frozen=True, slots=True)
class Rows:
    """What the machines send, in order of arrival."""

    values: Float64
    machine: Int64
    faulty: Bool

    def __getitem__(self, which: slice) -> Rows:
        return Rows(self.values[which], self.machine[which], self.faulty[which])


def stream(machines: int, first_rows: int, n: int, seed: int) -> Rows:
    """n rows of so many machines that take turns; the first ones are sound."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(LOADS, SENSORS)) / 2.0
    centre = OWN_SPREAD * rng.normal(size=(machines, SENSORS))
    centre[ODD, :ODD_SENSORS] += FAR
    machine = np.arange(n) % machines
    values = rng.normal(size=(n, LOADS)) @ mix + 0.3 * rng.normal(size=(n, SENSORS)) + centre[machine]
    faulty = np.zeros(n, dtype=bool)
    for start in range(first_rows, n, EVERY_FAULT):
        of_machine = np.flatnonzero(machine[start:] == rng.integers(machines))
        faulty[start + of_machine[:FAULT_ROWS]] = True
    values[faulty, FAULTY_SENSOR] += FAR
    return Rows(values, machine, faulty)


def pass_through(rows: Rows, loop: Loop, first_rows: int, keys: bool) -> Iterator[tuple[Bool, Bool]]:
    """Which rows of each batch after the first ones are flagged, and which are once a sensor of theirs has moved."""
    sequence = rows.machine if keys else np.zeros_like(rows.machine)
    loop.start(rows.values[:first_rows], sequence[:first_rows])
    for start in range(first_rows, len(rows.values), BATCH):
        batch = slice(start, start + BATCH)
        moved = rows.values[batch].copy()
        moved[:, FAULTY_SENSOR] += FAR
        live = loop.models.live
        assert live is not None
        found = live.detector.score(moved, sequence[batch]) * loop.level.stretch >= 1.0
        yield loop.step(rows.values[batch], sequence[batch])[1], found


def figures(rows: Rows, flagged: Bool, found: Bool, budget: float) -> list[str]:
    """Share of sound rows flagged over the budget, of the odd machine and of all others; of moved rows in percent."""
    odd, sound = rows.machine == ODD, ~rows.faulty
    alerts = [f"{flagged[of & sound].mean() / budget:.1f}" for of in (odd, ~odd)]
    return alerts + [f"{100 * found[of & sound].mean():.1f}" for of in (odd, ~odd)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.001])
    parser.add_argument("--retrains", type=int, default=4, help="trainings after the first")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="brisk")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    schedule = Schedule(first_rows=20_000, every_rows=20_000)
    first, n = schedule.first_rows, schedule.first_rows + (arguments.retrains + 1) * schedule.every_rows
    table = []
    with Progress(console=Console(stderr=True)) as progress:
        for machines, budget, keys in product(arguments.machines, arguments.budgets, (False, True)):
            rows = stream(machines, first, n, arguments.seed)
            loop = Loop(SENSORS, budget, schedule, RECIPES[arguments.recipe], arguments.seed)
            name = f"{machines} machines, budget {budget:g}, {'with' if keys else 'without'} keys"
            passed = progress.track(pass_through(rows, loop, first, keys), (n - first) // BATCH, description=name)
            flagged, found = map(np.concatenate, zip(*passed, strict=True))
            table.append([f"{machines}", f"{budget:g}", KEYS[keys], *figures(rows[first:], flagged, found, budget)])
    header = ["machines", "budget", "keys", "odd machine, times the budget", "others", "its faults found, %", "others'"]
    print(markdown(header, table))


if __name__ == "__main__":
    main()
