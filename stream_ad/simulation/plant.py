"""A simulated plant: a dozen correlated sensors, daily cycles, operating modes, drift, labelled faults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

SENSORS = (
    "feed_flow",
    "feed_temperature",
    "reactor_temperature",
    "reactor_pressure",
    "coolant_flow",
    "coolant_temperature",
    "pump_current",
    "pump_speed",
    "vibration",
    "valve_position",
    "product_flow",
    "product_temperature",
)
KINDS = ("spike", "stuck", "drift", "broken_correlation")

DAY = 480
"""Rows in a day: one every three minutes."""
BLOCK = 240
"""Rows made at once; faults begin and end within one block, so that chunk sizes change nothing."""
MODE_ROWS = (40, 160)
"""Rows that the plant stays in one operating mode. It takes the modes in turns, each once before any comes
again, so that a window of a few thousand rows has seen them all at all times of the day."""
MODE_LAG = 6.0
"""Rows in which the way from one mode to the next is two thirds done."""
STUCK_SPREADS = 8.0
"""A sensor that freezes is so many spreads from the truth in a fifth of the rows, else another freezes."""
CHECK_ROWS = 80 * BLOCK


@dataclass(slots=True)
class PlantRows:
    """Rows of the plant with the truth about them."""

    values: Float64
    """[n, 12] in the order of `SENSORS`."""
    fault: Int64
    """[n] number of the fault the row belongs to, 0 where the plant is sound."""
    feature: Int64
    """[n] index of the sensor that is off, -1 where the plant is sound."""
    kind: Int64
    """[n] index into `KINDS`, -1 where the plant is sound."""


class Plant:
    """An endless stream of plausible sensor rows; each seed is another plant with other gains and modes.

    Four hidden causes drive the sensors: demand and ambient temperature follow the day, the operating mode
    steps between set points, wear drifts slowly. `fault_rate` is the number of faults in a thousand rows,
    none in the first `fault_free_rows`; `drift=False` makes a stationary plant. What is labelled a fault is
    findable row by row: at its worst it is at least six spreads off what the other sensors say.

    >>> plant = Plant(seed=1, fault_rate=2.0)
    >>> rows = plant.rows(5000)
    >>> rows.values.shape, int(rows.fault.max()) >= 5
    ((5000, 12), True)
    """

    def __init__(self, seed: int, fault_rate: float = 0.0, fault_free_rows: int = 0, drift: bool = True) -> None:
        self._rng = np.random.default_rng([seed, 0])
        self._fault_rng = np.random.default_rng([seed, 1])
        self._share = fault_rate * BLOCK / 1000.0
        self._fault_free_rows = fault_free_rows
        self._drift = 1.0 if drift else 0.0
        self._made = 0
        self._faults = 0
        self._rest = self._no_rows()
        self._design(np.random.default_rng([seed, 2]))
        self._set_point, self._level, self._mode_rows = 0.0, 0.0, 0
        self._next_modes: list[float] = []
        self._spread = self._conditional_spread(np.random.default_rng([seed, 3]))

    def rows(self, n: int) -> PlantRows:
        """The next n rows."""
        parts, have = [self._rest], len(self._rest.fault)
        while have < n:
            parts.append(self._block())
            have += BLOCK
        joined = PlantRows(
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.fault for p in parts]),
            np.concatenate([p.feature for p in parts]),
            np.concatenate([p.kind for p in parts]),
        )
        self._rest = cut(joined, slice(n, None))
        return cut(joined, slice(0, n))

    def _design(self, rng: np.random.Generator) -> None:
        """What makes this plant another than the next: set points, gains and noise."""
        self._modes = np.array([0.0, *rng.uniform(0.5, 1.0, 3) * np.array([1.0, -1.0, 0.6])])
        self._gain = rng.uniform(0.7, 1.3, size=20) * rng.choice([1.0, 1.0, 1.15], size=20)
        self._phase = rng.uniform(0.0, 1.0)
        self._noise = rng.uniform(0.7, 1.3, size=len(SENSORS))

    def _causes(self, first: int, n: int, mode: Float64, rng: np.random.Generator) -> tuple[Float64, ...]:
        """Demand, ambient, mode level and wear, each [n]."""
        t = np.arange(first, first + n)
        day = 2.0 * np.pi * (t / DAY + self._phase)
        demand = np.sin(day) + 0.3 * np.sin(2.0 * day + 1.0) + 0.15 * rng.normal(size=n)
        ambient = np.cos(day - 0.8) + 0.1 * rng.normal(size=n)
        wear = self._drift * np.minimum(t / 400_000.0, 3.0)
        return demand, ambient, mode + 0.05 * rng.normal(size=n), wear

    def _sensors(self, causes: tuple[Float64, ...], rng: np.random.Generator) -> Float64:
        """What the twelve sensors read, [n, 12]; partly products and squares of the causes."""
        demand, ambient, mode, wear = causes
        g = self._gain
        load = 1.0 + 0.25 * g[0] * demand + 0.5 * g[1] * mode
        feed_flow = 40.0 * load
        feed_temperature = 25.0 + 5.0 * g[2] * ambient
        reactor_temperature = 180.0 + 14.0 * g[3] * (load - 1.0) + 6.0 * g[4] * mode + 1.5 * ambient
        reactor_pressure = 12.0 + 0.09 * g[5] * (reactor_temperature - 180.0) + 0.8 * g[6] * (load - 1.0) ** 2
        coolant_flow = 60.0 + 22.0 * g[7] * (load - 1.0) + 4.0 * g[8] * ambient
        coolant_temperature = 35.0 + 6.0 * g[9] * ambient + 5.0 * g[10] * (load - 1.0) + 2.0 * wear
        pump_speed = 1450.0 + 180.0 * g[11] * (load - 1.0)
        pump_current = 8.0 + 0.02 * g[12] * feed_flow * reactor_pressure / 12.0 * 5.0 + 0.6 * wear
        vibration = 2.0 + 0.5 * g[13] * ((pump_speed - 1450.0) / 180.0) ** 2 + 0.3 * g[14] * load + 0.2 * wear
        valve_position = 50.0 + 20.0 * g[15] * np.tanh(1.5 * (load - 1.0)) + 5.0 * mode
        product_flow = 0.85 * feed_flow + 1.5 * g[16] * mode
        product_temperature = 60.0 + 0.3 * g[17] * (reactor_temperature - 180.0) + 3.0 * g[18] * ambient
        clean = np.stack(
            [
                feed_flow,
                feed_temperature,
                reactor_temperature,
                reactor_pressure,
                coolant_flow,
                coolant_temperature,
                pump_current,
                pump_speed,
                vibration,
                valve_position,
                product_flow,
                product_temperature,
            ],
            axis=1,
        )
        noise = np.array([0.5, 0.4, 0.6, 0.06, 0.7, 0.35, 0.12, 6.0, 0.05, 0.6, 0.45, 0.35]) * self._noise
        read: Float64 = clean + noise * rng.normal(size=clean.shape)
        return read

    def _mode_level(self, n: int) -> Float64:
        """The operating mode's level over the next n rows; moves the state."""
        parts, have = [], 0
        while have < n:
            if self._mode_rows == 0:
                self._mode_rows = int(self._rng.integers(*MODE_ROWS))
                if not self._next_modes:
                    self._next_modes = self._rng.permutation(self._modes).tolist()
                self._set_point = self._next_modes.pop()
            rows = min(self._mode_rows, n - have)
            way = np.exp(-np.arange(1, rows + 1) / MODE_LAG)
            parts.append(self._set_point + (self._level - self._set_point) * way)
            self._level = float(parts[-1][-1])
            self._mode_rows -= rows
            have += rows
        return np.concatenate(parts)

    def _conditional_spread(self, rng: np.random.Generator) -> Float64:
        """[12] spread of each sensor around its linear regression on the others."""
        mode = np.repeat(rng.choice(self._modes, CHECK_ROWS // BLOCK), BLOCK)
        values = self._sensors(self._causes(0, CHECK_ROWS, mode, rng), rng)
        spread: Float64 = 1.0 / np.sqrt(np.diag(np.linalg.inv(np.cov(values.T))))
        return spread

    def _block(self) -> PlantRows:
        """The next block, with or without a fault."""
        mode = self._mode_level(BLOCK)
        values = self._sensors(self._causes(self._made, BLOCK, mode, self._rng), self._rng)
        none = np.full(BLOCK, -1)
        block = PlantRows(values, np.zeros(BLOCK, np.int64), none, none.copy())
        # Two draws whatever they decide: the fault of a block must not depend on those before it.
        wanted, which = self._fault_rng.random(), int(self._fault_rng.integers(len(KINDS)))
        if self._made >= self._fault_free_rows and wanted < self._share:
            self._add_fault(block, which)
        self._made += BLOCK
        return block

    def _add_fault(self, block: PlantRows, kind: int) -> None:
        """Put one fault into the block."""
        rng = self._fault_rng
        feature = int(rng.integers(len(SENSORS)))
        column = block.values[:, feature]
        spread, sign = self._spread[feature], rng.choice([-1.0, 1.0])
        start = int(rng.integers(10, 60))
        if KINDS[kind] == "spike":
            rows = slice(start, start + int(rng.integers(1, 4)))
            column[rows] += sign * rng.uniform(10.0, 16.0) * spread
        elif KINDS[kind] == "drift":
            rows = slice(start, start + int(rng.integers(30, 60)))
            length = rows.stop - rows.start
            column[rows] += sign * rng.uniform(10.0, 16.0) * spread * np.linspace(0.0, 1.0, length)
        elif KINDS[kind] == "stuck":
            rows = slice(start, start + int(rng.integers(40, 90)))
            feature = self._leaving_sensor(block.values[rows], feature)
            block.values[rows, feature] = block.values[start, feature]
        else:
            rows = slice(start, start + int(rng.integers(20, 50)))
            # Plausible movement at the wrong time: the sensor's own, upside down and off its place.
            centre = column[rows].mean()
            column[rows] = 2.0 * centre - column[rows] + sign * rng.uniform(8.0, 12.0) * spread
        self._faults += 1
        block.fault[rows], block.feature[rows], block.kind[rows] = self._faults, feature, kind

    def _leaving_sensor(self, values: Float64, wanted: int) -> int:
        """The sensor that freezes at the first of these rows.

        The wanted one if the truth then goes far enough from it, else the one from which it goes furthest.
        """
        moved = np.quantile(np.abs(values - values[0]), 0.8, axis=0) / self._spread
        return wanted if moved[wanted] >= STUCK_SPREADS else int(moved.argmax())

    @staticmethod
    def _no_rows() -> PlantRows:
        none = np.empty(0, np.int64)
        return PlantRows(np.empty((0, len(SENSORS))), none, none, none)


def cut(rows: PlantRows, where: slice) -> PlantRows:
    return PlantRows(rows.values[where], rows.fault[where], rows.feature[where], rows.kind[where])
