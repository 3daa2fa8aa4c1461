"""The learning loop: window, triggers, trainer and swap, one step after each batch."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Recipe
from stream_ad.detector.temporal import TemporalContext
from stream_ad.learning.changes import Changes, ChangeWatch
from stream_ad.learning.feedback import Feedback, Label
from stream_ad.learning.follower import LoadedModel, ModelFollower
from stream_ad.learning.regime import Phase
from stream_ad.learning.rollback import RollBack
from stream_ad.learning.settings import LearningSettings
from stream_ad.learning.trainer import Outcome, Trainer, remove_leftovers
from stream_ad.learning.training_job import Job
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.window import InlierWindow
from stream_ad.learning.window_keeper import WindowKeeper
from stream_ad.records import Batch
from stream_ad.registry import Arrays, ModelRegistry

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Learner:
    """Owns all that the next model comes from. No method of it waits for a training."""

    def __init__(self, settings: LearningSettings, registry: ModelRegistry, recipe: Recipe | None = None) -> None:
        width = TemporalContext(len(settings.schema.features), **settings.schema.context).width
        self.window = InlierWindow(settings.window_rows, width, settings.false_alarm_rate)
        self.trainer = Trainer(settings.timeout_seconds, registry.scratch)
        self.triggers = Triggers(
            settings.min_rows,
            settings.every_rows,
            settings.every_seconds,
            settings.min_interval_seconds,
            young_rows=settings.window_rows,
        )
        self.changes = ChangeWatch(
            settings.drift, settings.on_regime_change, settings.schema.features, self.window, self.triggers
        )
        self.follower = ModelFollower(registry, settings)
        self.roll_back = RollBack(registry, settings.rollback_after, settings.false_alarm_rate)
        self.rollbacks = 0
        self.feedback = Feedback(self.window, width) if settings.labels else None
        self._settings = settings
        self._registry = registry
        self._keeper = WindowKeeper(registry)
        self._recipe = recipe or Recipe()
        self._requested: str | None = None
        self._live_version = ""

    @property
    def window_rows(self) -> int:
        """Inliers in the window."""
        return len(self.window)

    @property
    def quarantine_rows(self) -> int:
        """Flagged rows that are kept beside the window."""
        return len(self.window.quarantine)

    @property
    def regime_change(self) -> bool:
        """Whether the operating point has changed and no model that fits it is live yet."""
        return self.changes.regime.phase != Phase.ORDINARY

    @property
    def training(self) -> bool:
        """Whether a training is running."""
        return self.trainer.running

    @property
    def model_coming(self) -> bool:
        """Whether a training or the loading of its model is under way."""
        return self.trainer.running or self.follower.loading

    def apply(self, settings: LearningSettings) -> None:
        """Go on with other settings of the same schema; a training that runs ends by the old ones."""
        self._settings = settings
        self.window.set_false_alarm_rate(settings.false_alarm_rate)
        self.trainer.timeout_seconds = settings.timeout_seconds
        self.triggers.min_rows = settings.min_rows
        self.triggers.every_rows = settings.every_rows
        self.triggers.every_seconds = settings.every_seconds
        self.triggers.min_interval_seconds = settings.min_interval_seconds
        self.changes.apply(settings.drift, settings.on_regime_change)
        self.roll_back.apply(settings.rollback_after, settings.false_alarm_rate)
        self.follower.apply(settings)

    def restore(self) -> LoadedModel | None:
        """Take up where the last run ended: its window, and the live model if there is one.

        Raises `SchemaMismatch` if that model has another schema.
        """
        remove_leftovers(self._registry.scratch)
        model, learned_from = self.follower.first(with_window=True)
        saved = self._registry.load_window()
        if saved is not None and not np.array_equal(saved.pop("schema"), self._schema()):
            log.warning("the window of the last run is of another schema and is not used")
            saved = None
        # After a crash the model's own window is newer than what the last orderly end has left.
        windows = [window for window in (saved, learned_from) if window is not None]
        if windows:
            latest = max(windows, key=lambda window: int(window["seen"][0]))
            self.window.restore(latest)
            self.changes.restore(latest, learned=latest is learned_from)
            if self.feedback is not None:
                self.feedback.restore(latest)
            log.info("the window of the last run is back", extra={"rows": len(self.window)})
            if "model" in latest:
                self._live_version = latest["model"].tobytes().decode()
        if model is not None:
            if learned_from is not None and self._is_young(learned_from):
                previous = self.follower.before(model.version)
                if previous is not None:
                    self.roll_back.swapped(previous)
            self.roll_back.swapped(model)
            self._swapped(model)
            self.triggers.has_model = True
            self.triggers.rows_at_start = self.window.seen
            self.triggers.last_started = time.monotonic()
        return model

    def observe(
        self, values: Float64, score: Float64, residual: Float64, sequence: Int64, stretch: float = 1.0
    ) -> Changes:
        """Offer rows [n, width], extended as they were scored, with their scores [n] (NaN: no model) to the window.

        `residual` [n, d] is their distance from what the model expected, in spreads of the feature, `sequence` [n] what
        tells which follow each other, `stretch` what the adaptive level multiplied the scores by: that it moves is no
        change of the stream.
        """
        self.window.add(values, score, sequence)
        self.roll_back.observe(values, score, sequence)
        return self.changes.observe(score / stretch, residual, sequence)

    def remember(self, batch: Batch, rows: NDArray[np.int64], values: Float64, score: Float64) -> None:
        """Hear where the rows that `observe` was offered last came from, so that they can be labelled."""
        if self.feedback is not None:
            self.feedback.remember(batch, rows, values, score)

    def take_labels(self, labels: list[Label]) -> list[bool]:
        """Put labels into effect and keep that for the next run; return for each whether its row is known."""
        assert self.feedback is not None, "labels without training.labels"
        used = self.feedback.take(labels)
        if any(used):
            self._keeper.ask()
        return used

    def request(self, trigger: str) -> None:
        """Ask for a training by hand; it starts with the next step, the minimum distance notwithstanding."""
        self._requested = trigger

    def step(self) -> tuple[Outcome | None, LoadedModel | None]:
        """What ended and what is ready since the last step; starts a training if one is due."""
        now = time.monotonic()
        outcome = self.trainer.poll()
        if outcome is not None:
            self.window.drop(outcome.left_out)
            # Without a model the trigger stands: a first model that is refused again and again must not train on end.
            refused_later = outcome.result == "rejected" and self.triggers.has_model
            self.triggers.finished(outcome.result == "accepted" or refused_later)
            self.triggers.has_model = self.triggers.has_model or outcome.result == "accepted"
            is_live = outcome.version == self._live_version
            self.changes.training_ended(outcome.trigger, outcome.result == "accepted", is_live)
            self.follower.look_now()
        if self.roll_back.rolled_back():
            self.rollbacks += 1
            self.changes.rolled_back()
            self.follower.look_now()
        model = self.follower.next_model(now)
        if model is not None:
            self.roll_back.swapped(model)
            self.triggers.has_model = True
            self.changes.swapped()
            self._swapped(model)
        self._keeper.step(now, self._state)
        # A model that is on its way may be an earlier one, after which the window is another.
        if not self.model_coming:
            trigger = self._requested or self.triggers.due(now, self.window.seen, len(self.window))
            if trigger is not None:
                self._requested = None
                self._start(trigger, now)
        return outcome, model

    def _is_young(self, learned_from: Arrays) -> bool:
        """Whether the model of this window has hardly been watched on the stream."""
        return self.window.seen - int(learned_from["seen"][0]) < self._settings.rollback_after

    def _swapped(self, model: LoadedModel) -> None:
        """After a roll-back, drop from the window what only the model that was taken back found normal: the next
        training would learn it once more."""
        back, self._live_version = model.version < self._live_version, model.version
        if back and len(self.window):
            before = len(self.window)
            held = self.window.inliers.ordered()
            self.window.judge_anew(model.detector.score(held.values, held.sequence))
            log.info(
                "an earlier model is live again: what it flags has left the window",
                extra={"version": model.version, "rows": before - len(self.window)},
            )

    def _start(self, trigger: str, now: float) -> None:
        s = self._settings
        job = Job(
            registry=self._registry.path,
            keep=self._registry.keep,
            window_rows=s.window_rows,
            features=list(s.schema.features),
            fingerprint=s.schema.fingerprint,
            context=s.schema.context,
            false_alarm_rate=s.false_alarm_rate,
            device=s.device,
            seed=s.seed,
            threads=s.threads,
            trigger=trigger,
            recipe=asdict(self._recipe),
            reference=s.reference,
            live=self.follower.seen,
            parent=os.getpid(),
        )
        self.triggers.started(now, self.window.seen)
        labelled = {} if self.feedback is None else self.feedback.for_training()
        self.trainer.start(job, self.window.state() | self.changes.state() | labelled)
        log.info("training started", extra={"trigger": trigger, "rows": len(self.window)})

    def close(self) -> None:
        """End a running training and keep the window for the next run."""
        self.trainer.stop()
        if len(self.window):
            self._keeper.finish(self._state())

    def wait(self) -> None:
        """For what is still under way in threads, before the process ends."""
        self.roll_back.wait()
        self.follower.wait()

    def _state(self) -> Arrays:
        """What the next run takes up, with the schema and the model that it is of."""
        labelled = {} if self.feedback is None else self.feedback.state()
        model = np.frombuffer(self._live_version.encode(), np.uint8)
        return self.window.state() | self.changes.state() | labelled | {"schema": self._schema(), "model": model}

    def _schema(self) -> NDArray[np.uint8]:
        """The schema's fingerprint as an array, to go with a saved window."""
        return np.frombuffer(self._settings.schema.fingerprint.encode(), np.uint8)
