"""The product's learning loop, run synchronously: score a batch, offer it to the window, train where one is due.

The parts are those of stream_ad.learning; what is left out is what stands around them in the worker: processes,
files and the clock. A training takes no time here, and the clock counts rows, one a second.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.temporal import TemporalContext
from stream_ad.learning import AdaptiveLevel, ColdStart, LoadedModel
from stream_ad.learning.changes import ChangeWatch
from stream_ad.learning.rollback import RollBack
from stream_ad.learning.training import train
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.window import InlierWindow
from stream_ad.registry import ModelRegistry

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a method learns, in rows."""

    first_rows: int = 2000
    every_rows: int = 5000
    least_rows: int = 500
    """Between two trainings, whatever asks for them."""
    rollback_after: int = 5000
    window_rows: int = 20_000
    batch: int = 256


@dataclass(frozen=True, slots=True)
class Trained:
    """When a training of the loop was, and what became of it."""

    row: int
    """How many rows had been seen."""
    trigger: str
    refusals: dict[str, str]
    """Why the gate refused the model, by its check; empty if it went live."""


class Models:
    """All models that were live, instead of the registry."""

    def __init__(self) -> None:
        self.by_version: dict[str, LoadedModel] = {}
        self.live: LoadedModel | None = None

    def add(self, detector: Detector) -> None:
        """Make a new model live."""
        version = f"{len(self.by_version):06d}"
        self.live = self.by_version[version] = LoadedModel(version, 0.0, detector)

    def publish(self, version: str, expected: str) -> bool:
        self.live = self.by_version[version]
        return True

    def reject_rolled_back(self, version: str, reason: str) -> None:
        """It is not live any more; there is no file to write that into."""


class Loop:
    """Scores batches with the live model and learns from them as the worker does.

    `context` is the number of rows of temporal context, 0 for none. Wants rows in order of arrival, and the `sequence`
    of each [n], unless all are of one key.
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
        self.triggers = Triggers(
            schedule.first_rows,
            schedule.every_rows,
            None,
            float(schedule.least_rows),
            young_rows=schedule.window_rows,
        )
        names = [f"feature_{i}" for i in range(n_features)]
        self.changes = ChangeWatch("adwin", "adapt", names, self.window, self.triggers)
        self.level = AdaptiveLevel(alpha)
        self._stretch = 1.0
        self.models = Models()
        self.roll_back = RollBack(cast(ModelRegistry, self.models), schedule.rollback_after, alpha)
        self.rolled_back: list[int] = []
        """How many rows had been seen at each roll-back."""
        self.trainings: list[Trained] = []
        self._cold_start = ColdStart(seed)
        self._alpha = alpha
        self._recipe = recipe
        self._seed = seed

    def start(self, rows: Float64, sequence: Int64 | None = None) -> None:
        """Take rows [n, d] that no model has scored yet, and train the first one on them."""
        self.triggers.min_rows = min(self.triggers.min_rows, len(rows))
        sequence = one_key(rows) if sequence is None else sequence
        self.window.add(self._extended(rows, sequence), np.full(len(rows), np.nan), sequence)
        self._train("first")
        if self.models.live is None:
            self._cold_start.score(rows)

    def step(self, rows: Float64, sequence: Int64 | None = None) -> tuple[Float64, Bool]:
        """Scores [n] of rows [n, d] by the model that was live when they came, and which are alerts; then learn."""
        sequence = one_key(rows) if sequence is None else sequence
        extended = self._extended(rows, sequence)
        if self.models.live is None:
            score, alert = self._cold_start.score(rows), np.zeros(len(rows), dtype=bool)
            self.window.add(extended, np.full(len(rows), np.nan), sequence)
        else:
            score, residual = self._judge(self.models.live.detector, extended, sequence)
            alert = score >= 1.0
            self.window.add(extended, score, sequence)
            self._watch(extended, score, sequence)
            self.changes.observe(score / self._stretch, residual, sequence)
        trigger = self.triggers.due(float(self.window.seen), self.window.seen, len(self.window))
        if trigger is not None:
            self._train(trigger)
        return score, alert

    def _extended(self, rows: Float64, sequence: Int64) -> Float64:
        return self.context.extend(rows, [b"%d" % key for key in sequence.tolist()])

    def _judge(self, detector: Detector, extended: Float64, sequence: Int64) -> tuple[Float64, Float64]:
        """Scores [n], and how far each feature is from what was expected [n, d], in its spreads."""
        d = self.context.n_features
        found = detector.judge(extended, sequence)
        self._stretch = self.level.stretch
        score = found.score * self._stretch
        self.level.observe(found.p_value, sequence)
        return score, np.abs(extended[:, :d] - found.reconstruction[:, :d]) / detector.spread[:d]

    def _watch(self, extended: Float64, score: Float64, sequence: Int64) -> None:
        """Put the model before back where the live one turns out worse on the stream."""
        self.roll_back.observe(extended, score, sequence)
        for thread in threading.enumerate():
            if thread.name == "roll-back":
                thread.join()  # in the worker scoring goes on meanwhile
        if self.roll_back.rolled_back():
            self.rolled_back.append(self.window.seen)
            self.changes.rolled_back()
            self._swapped()
            assert self.models.live is not None
            # What only the model that was taken back found normal would be learned once more.
            held = self.window.inliers.ordered()
            self.window.judge_anew(self.models.live.detector.score(held.values, held.sequence))

    def _swapped(self) -> None:
        """Another model is live."""
        assert self.models.live is not None
        self.level.swapped()
        self.roll_back.swapped(self.models.live)
        self.changes.swapped()

    def _train(self, trigger: str) -> None:
        """Fit a model on the window; it is live at once if the gate lets it through."""
        self.triggers.started(float(self.window.seen), self.window.seen)
        offered = InlierWindow(self.window.inliers.capacity, self.context.width, self._alpha)
        offered.restore(self.window.state())
        detector = Detector(self._alpha, "cpu", self._seed, self._recipe)
        live = None if self.models.live is None else self.models.live.detector
        training = train(
            offered,
            detector,
            lambda: live,
            trigger=trigger,
            features=self.context.n_features,
            past=self.context.window,
        )
        self.window.drop(training.left_out)
        verdict = training.verdict
        self.triggers.finished(good=True)
        self.changes.training_ended(trigger, verdict.accepted)
        if verdict.accepted:
            self.models.add(detector)
            self.triggers.has_model = True
            self._swapped()
        self.trainings.append(Trained(self.window.seen, trigger, verdict.refusals))


def one_key(rows: Float64) -> Int64:
    """The sequence of each of the rows [n, d], if all are of one."""
    return np.zeros(len(rows), np.int64)
