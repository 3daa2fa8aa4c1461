"""The product's learning loop, run synchronously: score a batch, offer it to the window, train where one is due.

The parts are those of stream_ad.learning; what is left out is what stands around them in the worker: processes,
files and the clock. A training takes no time here, and the clock counts rows, one a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.temporal import TemporalContext
from stream_ad.learning import gate
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.window import InlierWindow

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a method learns, in rows."""

    first_rows: int = 2000
    every_rows: int = 5000
    window_rows: int = 20_000
    batch: int = 256


@dataclass(frozen=True, slots=True)
class Training:
    """One training of the loop."""

    row: int
    """How many rows had been seen."""
    trigger: str
    reasons: list[str]
    """Why the gate refused the model; empty if it went live."""


class Loop:
    """Scores batches with the live model and learns from them as the worker does.

    `context` is the number of rows of temporal context, 0 for none. Wants the rows of one key, in order.
    """

    def __init__(
        self,
        n_features: int,
        alpha: float,
        schedule: Schedule,
        recipe: Recipe | None = None,
        seed: int = 0,
        context: int = 0,
    ) -> None:
        self.context = TemporalContext(n_features, context)
        self.window = InlierWindow(schedule.window_rows, self.context.width, alpha)
        self.triggers = Triggers(schedule.first_rows, schedule.every_rows, None, 0.0)
        self.detector: Detector | None = None
        self.trainings: list[Training] = []
        self._alpha = alpha
        self._recipe = recipe
        self._seed = seed

    def start(self, rows: Float64) -> None:
        """Take rows [n, d] that no model has scored yet, and train the first one on them."""
        self.triggers.min_rows = min(self.triggers.min_rows, len(rows))
        self.window.add(self.context.extend(rows), np.full(len(rows), np.nan))
        self._train("first")

    def step(self, rows: Float64) -> Float64:
        """Scores [n] of rows [n, d] by the model that was live when they came; then learn from them."""
        if self.detector is None:
            raise RuntimeError("the first model was refused: there is nothing that could score")
        extended = self.context.extend(rows)
        score = self.detector.score(extended)
        self.window.add(extended, score)
        trigger = self.triggers.due(float(self.window.seen), self.window.seen, len(self.window))
        if trigger is not None:
            self._train(trigger)
        return score

    def _train(self, trigger: str) -> None:
        """Fit a model on the window; it is live at once if the gate lets it through."""
        self.triggers.started(float(self.window.seen), self.window.seen)
        training, held_out = gate.hold_out(self.window.training_rows(self._seed))
        detector = Detector(self._alpha, "cpu", self._seed, self._recipe).fit(
            training.rows,
            flagged=training.flagged,
            flagged_place=training.flagged_place,
            truncated=training.truncated(self._alpha),
        )
        verdict = gate.judge(detector, held_out, self.detector)
        if verdict.accepted:
            self.detector = detector
            self.triggers.has_model = True
        self.triggers.finished(True)
        self.trainings.append(Training(self.window.seen, trigger, verdict.reasons))
