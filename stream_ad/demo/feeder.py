"""Hands the plant's rows to the worker, paced as from a plant or as fast as it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import orjson

from stream_ad.demo.scoreboard import Scoreboard
from stream_ad.simulation import SENSORS
from stream_ad.transports.memory import MemorySource
from stream_ad.worker import Worker

FIRST_TRAINING_ROWS = 12_000
EVERY_ROWS = 10_000
FAULT_FREE_ROWS = 13_000
"""Commissioning. The row after these waits for the first model: a fault that nothing scores shows nothing."""

CHUNK = 20
"""Rows handed over at once; the numbers of rows above are multiples of it."""
START_PACE = 2000.0
LEARNING_PACE = 200.0
PACE = 900.0
"""Rows a second: until the first training, while it runs, and with a model."""
LATE_SECONDS = 0.5
"""What the feeder makes up for after it was held up; rows that were due before that come later."""
MODEL_SECONDS = 180.0
"""How long to wait for a training."""
SWAP_SECONDS = 10.0
LOOK_SECONDS = 0.02


class Feeder(threading.Thread):
    """Appends the rows as JSON records to the source; `id` is the row's number.

    Unpaced, rows wait where a training is due until its model is live: all would be over before the first
    training ends, and so retrainings happen at the same rows in every run.
    """

    def __init__(self, source: MemorySource, worker: Worker, board: Scoreboard, paced: bool) -> None:
        super().__init__(name="demo-feeder", daemon=True)
        self.failure: str | None = None
        self.stopping = threading.Event()
        self._source = source
        self._worker = worker
        self._board = board
        self._paced = paced

    def run(self) -> None:
        due = time.monotonic()
        for first in range(0, len(self._board.truth.fault), CHUNK):
            self._wait_for_training(first)
            if first == FAULT_FREE_ROWS and not self._wait(lambda status: status["model"], MODEL_SECONDS):
                self.failure = f"no model after {MODEL_SECONDS:g} s of waiting"
                break
            if self.stopping.is_set():
                break
            records = self._records(first)
            self._board.appended[first : first + len(records)] = time.monotonic()
            self._source.append(records)
            if self._paced:
                due = max(due + len(records) / self._pace(first), time.monotonic() - LATE_SECONDS)
                self.stopping.wait(max(0.0, due - time.monotonic()))
        self._source.close_input()

    def _records(self, first: int) -> list[bytes]:
        values = self._board.truth.values[first : first + CHUNK].round(4).tolist()
        now = time.time_ns() // 1_000_000
        return [
            orjson.dumps({"id": first + i, "ts": now, **dict(zip(SENSORS, row, strict=True))})
            for i, row in enumerate(values)
        ]

    def _pace(self, row: int) -> float:
        if row < FIRST_TRAINING_ROWS:
            return START_PACE
        return PACE if self._worker.status()["model"] else LEARNING_PACE

    def _wait_for_training(self, row: int) -> None:
        """Hold the row back if a training is due just before it, until that is through and swapped in."""
        earlier, rest = divmod(row - FIRST_TRAINING_ROWS, EVERY_ROWS)
        if self._paced or earlier < 0 or rest > 0:
            return
        if self._wait(lambda status: status["trainings"] > earlier, MODEL_SECONDS):
            self._wait(lambda status: status["swaps"] + status["rejected"] > earlier, SWAP_SECONDS)

    def _wait(self, done: Callable[[dict[str, Any]], Any], seconds: float) -> bool:
        """True when the worker's status is as wished, False after `seconds` or when stopping."""
        deadline = time.monotonic() + seconds
        while not done(self._worker.status()):
            if time.monotonic() > deadline or self.stopping.wait(LOOK_SECONDS):
                return False
        return True
