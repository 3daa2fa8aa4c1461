"""What the worker says of each row beside what is true of it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stream_ad.simulation import KINDS, SENSORS, PlantRows

ALERT_GAP = 20
"""Flagged rows no further apart than this are one alert."""
RATE_CALLS = 11
"""Over how many calls of `catch_up` the rate is measured."""
BLAME_ROWS = 1000.0
"""How many rows `blame` looks back, roughly."""


@dataclass(slots=True)
class Alert:
    """Flagged rows that belong together, shown by the one with the highest score."""

    last_row: int
    row: int
    score: float
    sensor: int
    value: float
    expected: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a demo; the fields are the keys of the JSON summary."""

    rows: int
    faults: int
    faults_found: int
    faults_by_kind: dict[str, dict[str, int]]
    """For each kind how many faults there were (`faults`) and how many of them were `found`."""
    right_feature_share: float
    """Share of the found faults at whose highest score the sensor named first was the one that was off."""
    false_alarm_rate: float
    """Share of the normal rows that a model flagged."""
    false_alarm_budget: float
    trainings: int
    swaps: int
    latency_p50_seconds: float
    latency_p99_seconds: float
    """From handing a row to the source to its output."""
    seed: int
    seconds: float


class Scoreboard:
    """Takes the worker's outputs (`receive`, from its thread) and compares them with the truth (`catch_up`).

    All arrays have one entry a row of the plant.
    """

    def __init__(self, truth: PlantRows) -> None:
        n = len(truth.fault)
        self.truth = truth
        self.appended = np.zeros(n)
        """When the row was handed to the source, on the monotonic clock."""
        self.latency = np.full(n, np.nan)
        self.score = np.full(n, np.nan)
        """NaN until a model has scored the row."""
        self.flagged = np.zeros(n, np.bool_)
        self.sensor = np.full(n, -1)
        """The one with the largest share in a flagged row."""
        self.done = 0
        """Rows that have come out."""
        self.blame = np.zeros(len(SENSORS))
        """Each sensor's shares in the flagged rows of late, added up."""
        self.alerts: deque[Alert] = deque(maxlen=100)
        self._inbox: deque[tuple[float, list[bytes]]] = deque()
        self._progress = deque([(time.monotonic(), 0)], maxlen=RATE_CALLS)

    def receive(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """Keep a batch of outputs for later: the worker is not to wait for our arithmetic."""
        self._inbox.append((time.monotonic(), values))

    def catch_up(self) -> None:
        """Take in what has come since the last call."""
        while self._inbox:
            now, values = self._inbox.popleft()
            outputs = [orjson.loads(value) for value in values]
            rows = np.array([output["id"] for output in outputs])
            self.latency[rows] = now - self.appended[rows]
            self.done += len(rows)
            self.blame *= np.exp(-len(rows) / BLAME_ROWS)
            for output in outputs:
                if output["status"] == "scored":
                    self._take_scored(output)
        self._progress.append((time.monotonic(), self.done))

    def _take_scored(self, output: dict[str, Any]) -> None:
        row = output["id"]
        self.score[row] = output["score"]
        if not output["is_anomaly"]:
            return
        shares = np.array([output["attribution"][name] for name in SENSORS])
        sensor = int(shares.argmax())
        self.flagged[row], self.sensor[row] = True, sensor
        self.blame += shares
        expected = output["expected"][SENSORS[sensor]]
        alert = Alert(row, row, output["score"], sensor, float(self.truth.values[row, sensor]), expected)
        if self.alerts and row - self.alerts[-1].last_row <= ALERT_GAP:
            earlier = self.alerts.pop()
            if earlier.score > alert.score:
                earlier.last_row, alert = row, earlier
        self.alerts.append(alert)

    def rate(self) -> float:
        """Rows a second of late."""
        (start, before), (now, done) = self._progress[0], self._progress[-1]
        return (done - before) / max(1e-9, now - start)

    def faults(self) -> dict[int, bool]:
        """Whether each fault that models have scored to its end was found: any of its rows flagged."""
        fault = self.truth.fault
        left = set(fault[np.isnan(self.score)].tolist())
        found = set(fault[self.flagged].tolist())
        return {number: number in found for number in range(1, int(fault.max()) + 1) if number not in left}

    def false_alarm_rate(self) -> float:
        """Share of the normal rows that was flagged, of those that a model has scored."""
        normal = (self.truth.fault == 0) & np.isfinite(self.score)
        return float(self.flagged[normal].mean()) if normal.any() else 0.0

    def kind(self, fault: int) -> str:
        return KINDS[self.truth.kind[np.argmax(self.truth.fault == fault)]]

    def named_right(self, fault: int) -> bool:
        """Whether, where a found fault stood out most, the sensor that is off was named first."""
        rows = np.flatnonzero((self.truth.fault == fault) & self.flagged)
        worst = rows[self.score[rows].argmax()]
        return bool(self.sensor[worst] == self.truth.feature[worst])

    def summary(self, status: dict[str, Any], seed: int, budget: float, seconds: float) -> Summary:
        """The result; `status` is the worker's last."""
        faults = self.faults()
        found = [fault for fault, is_found in faults.items() if is_found]
        by_kind = {kind: {"faults": 0, "found": 0} for kind in KINDS}
        for fault, is_found in faults.items():
            by_kind[self.kind(fault)]["faults"] += 1
            by_kind[self.kind(fault)]["found"] += is_found
        scored = self.latency[np.isfinite(self.score)]
        p50, p99 = np.quantile(scored, [0.5, 0.99]).tolist() if len(scored) else (0.0, 0.0)
        return Summary(
            rows=self.done,
            faults=len(faults),
            faults_found=len(found),
            faults_by_kind=by_kind,
            right_feature_share=sum(map(self.named_right, found)) / max(1, len(found)),
            false_alarm_rate=self.false_alarm_rate(),
            false_alarm_budget=budget,
            trainings=status["trainings"],
            swaps=status["swaps"],
            latency_p50_seconds=p50,
            latency_p99_seconds=p99,
            seed=seed,
            seconds=seconds,
        )
