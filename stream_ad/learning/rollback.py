"""Automatic roll-back: a new model is watched on the stream, and the one before it comes back if it was better."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.follower import LONGEST_WAIT, LoadedModel
from stream_ad.learning.gate import most_alerts
from stream_ad.registry import ModelRegistry, RegistryError

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

SAMPLE = 1000
"""Rows of each kind, flagged and not, that the model before judges: a tenth of a second of computing, and only where
the new one has left its band."""
TIMES = 3.0
"""A new model flags more than so many times as many rows as the one before, or stays."""
PARTS = 10
"""In at least half of the tenths of these rows the new model leaves its band: a bad model does so all along, one
episode of faults does not."""
SPANS = 3
"""So often `training.rollback_after` rows are looked at, if both models flag too many: a burst of faults ends, and
what a bad model flags beside it shows then."""


class Sample:
    """A uniform random sample of the rows that were offered: those with the smallest random numbers."""

    def __init__(self, capacity: int) -> None:
        self.rows: Float64 | None = None
        self.sequence: Int64 = np.empty(0, np.int64)
        self.offered = 0
        self._capacity = capacity
        self._number: Float64 = np.empty(0)
        self._random = np.random.default_rng(0)

    def add(self, rows: Float64, sequence: Int64) -> None:
        """Offer rows [n, width], each of a sequence [n]."""
        self.offered += len(rows)
        number = np.append(self._number, self._random.random(len(rows)))
        together = rows if self.rows is None else np.concatenate([self.rows, rows])
        of_sequence = np.append(self.sequence, sequence)
        if len(number) > self._capacity:
            kept = np.argpartition(number, self._capacity)[: self._capacity]
            number, together, of_sequence = number[kept], together[kept], of_sequence[kept]
        self._number, self.rows, self.sequence = number, together, of_sequence

    def share(self, holds: Callable[[Float64, Int64], NDArray[np.bool_]]) -> float:
        """Estimated share of all rows offered of which a test of rows [k, d] and their sequences [k] holds; 0 without
        any."""
        return 0.0 if self.rows is None or not len(self.rows) else float(holds(self.rows, self.sequence).mean())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same rows of the stream."""

    rows: int
    flagged: int
    """By the new model."""
    by_new_alone: float
    """Of these the model before would not have flagged so many."""
    by_previous: float
    """Rows that the model before would have flagged."""

    def new_is_worse(self, false_alarm_rate: float) -> bool:
        """Whether the new model alone flags more rows than the budget allows, and far more than the one before.

        What both flag is taken for faults: a burst of them is no reason to go back. Nor is it one if the new model
        flags less: so does one that has learned what is normal by now.
        """
        too_many = self.by_new_alone > most_alerts(self.rows, false_alarm_rate)
        return too_many and self.flagged > TIMES * self.by_previous


class Span:
    """Some rows of the stream after a swap: how many the new model flags, and samples for the model before."""

    def __init__(self, rows: int) -> None:
        self.asked_early = False
        self._wanted = rows
        self._flagged = Sample(SAMPLE)
        self._others = Sample(SAMPLE)
        self._flagged_by_part = np.zeros(PARTS)

    @property
    def rows(self) -> int:
        return self._flagged.offered + self._others.offered

    @property
    def flagged(self) -> int:
        return self._flagged.offered

    def observe(self, values: Float64, score: Float64, sequence: Int64) -> None:
        """Take rows [n, width] with the new model's scores [n], NaN where there is none, and sequences [n]."""
        scored = np.isfinite(score)
        values, score, sequence = values[scored], score[scored], sequence[scored]
        part = np.minimum(PARTS - 1, (self.rows + np.arange(len(score))) * PARTS // self._wanted)
        flagged = score >= 1.0
        self._flagged_by_part += np.bincount(part[flagged], minlength=PARTS)
        self._flagged.add(values[flagged], sequence[flagged])
        self._others.add(values[~flagged], sequence[~flagged])

    @property
    def over(self) -> bool:
        return self.rows >= self._wanted

    def most_are_flagged(self) -> bool:
        """Whether that is so in the first part: nobody wants to wait for the others, and it must not be taken for a
        change of the operating point."""
        part = self._wanted / PARTS
        return self.rows >= part and bool(self._flagged_by_part[0] > 0.5 * part)

    def out_of_band(self, false_alarm_rate: float) -> bool:
        """Whether the new model flagged too many rows in half of the parts or more."""
        most = most_alerts(self._wanted // PARTS, false_alarm_rate)
        return int((self._flagged_by_part > most).sum()) >= PARTS // 2

    def compare(self, previous: LoadedModel) -> Comparison:
        """Let the model before judge the samples."""

        def flags(rows: Float64, sequence: Int64) -> NDArray[np.bool_]:
            return previous.detector.score(rows, sequence) >= 1.0

        both = self._flagged.share(flags) * self.flagged
        alone = self._others.share(flags) * (self.rows - self.flagged)
        return Comparison(self.rows, self.flagged, self.flagged - both, both + alone)


class RollBack:
    """Watches each new model for `rows` rows of the stream beside the one that it has replaced.

    Nothing but a sample of rows is kept meanwhile. Only if the new model flags more than its band allows, or most rows
    of the first tenth, does the old one judge that sample, in a thread; what the registry is asked is asked there too.
    """

    def __init__(self, registry: ModelRegistry, rows: int, false_alarm_rate: float) -> None:
        self._registry = registry
        self._rows = rows
        self._false_alarm_rate = false_alarm_rate
        self._live: LoadedModel | None = None
        self._previous: LoadedModel | None = None
        self._span: Span | None = None
        self._spans_left = 0
        self._thread: threading.Thread | None = None
        self._worse = False
        self._back_from: str | None = None

    @property
    def watching(self) -> bool:
        """Whether the live model is watched beside the one before it."""
        return self._span is not None

    def apply(self, rows: int, false_alarm_rate: float) -> None:
        """Go on with other settings; with another budget the model before would be judged by the wrong one."""
        if false_alarm_rate != self._false_alarm_rate:
            self._forget()
        self._rows, self._false_alarm_rate = rows, false_alarm_rate

    def swapped(self, model: LoadedModel) -> None:
        """Another model scores from now on. Watched if it is newer, and not one that was taken back and put live by
        hand again."""
        before, self._live = self._live, model
        if before is None or before.version == model.version:
            return
        self._forget()
        if model.version > before.version and model.version != self._back_from:
            self._previous, self._spans_left = before, SPANS
            self._span = Span(self._rows)

    def observe(self, values: Float64, score: Float64, sequence: Int64) -> None:
        """Take rows [n, width] that the live model has scored [n], NaN where it has not, each of a sequence [n]."""
        if self._span is None or self._thread is not None:
            return
        self._span.observe(values, score, sequence)
        early = not self._span.asked_early and self._span.most_are_flagged()
        if early or (self._span.over and self._span.out_of_band(self._false_alarm_rate)):
            self._span.asked_early = True
            arguments = (self._span, self._live, self._previous)
            self._thread = threading.Thread(target=self._judge, args=arguments, name="roll-back", daemon=True)
            self._thread.start()
        elif self._span.over:
            self._forget()

    def rolled_back(self) -> bool:
        """Whether a roll-back has been done since the last call; returns at once."""
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread.join()
        self._thread = None
        worse, self._worse = self._worse, False
        if worse:
            self._forget()
        elif self._span is not None and self._span.over:
            self._next_span()
        return worse

    def wait(self) -> None:
        """As `ModelFollower.wait`."""
        if self._thread is not None:
            self._thread.join(timeout=LONGEST_WAIT)

    def _next_span(self) -> None:
        self._spans_left -= 1
        if self._spans_left > 0:
            self._span = Span(self._rows)
        else:
            self._forget()

    def _forget(self) -> None:
        self._previous, self._span = None, None

    def _judge(self, span: Span, live: LoadedModel, previous: LoadedModel) -> None:
        found = span.compare(previous)
        what = (
            f"it flagged {found.flagged} of {found.rows} rows of the stream, of which model {previous.version} before "
            f"it would have flagged {round(found.by_previous)}"
        )
        if not found.new_is_worse(self._false_alarm_rate):
            log.info("model %s stays: %s", live.version, what)
            return
        try:
            if not self._registry.publish(previous.version, live.version):
                log.info("model %s is not rolled back: another one has been made live meanwhile", live.version)
                return
            self._registry.reject_rolled_back(live.version, f"rolled back: {what}")
        except (RegistryError, OSError) as error:
            log.error("model %s cannot be rolled back to %s: %s", live.version, previous.version, error)
            return
        self._back_from, self._worse = live.version, True
        log.error("model %s is rolled back: %s; that one is live again", live.version, what)
