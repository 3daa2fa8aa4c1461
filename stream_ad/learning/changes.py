"""Drift and regime change together, and the training that each asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.drift import Drift, DriftWatch
from stream_ad.learning.regime import Phase, RegimeWatch
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.truncation import FAR
from stream_ad.learning.window import InlierWindow

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changes:
    """What was found in the last rows."""

    drifts: tuple[Drift, ...] = ()
    regime: str | None = None
    """adapt or hold, if a regime change was found now."""


class ChangeWatch:
    """Watches the scores of a window's rows for drift and regime change, and asks `triggers` for a training.

    Parameters: `drift`, the method of `DriftWatch`; `on_regime_change`, adapt or hold; `features`, names [d] of the
    columns of the residuals; the window and the triggers of the same loop.
    """

    def __init__(
        self, drift: str, on_regime_change: str, features: Sequence[str], window: InlierWindow, triggers: Triggers
    ) -> None:
        self.regime = RegimeWatch(on_regime_change, window)
        self._features = features
        self._drift = DriftWatch(drift, features)
        self._window = window
        self._triggers = triggers
        self._live_since = 0
        self._learned = False

    def apply(self, drift: str, on_regime_change: str) -> None:
        """Go on with other settings."""
        if drift != self._drift.method:
            self._drift = DriftWatch(drift, self._features)
        self.regime.action = on_regime_change

    def observe(self, score: Float64, residual: Float64, sequence: Int64 | None = None) -> Changes:
        """Take scores [n], NaN where there was no model, and residuals [n, d] of rows that the window took just now.
        Rows of one `sequence` [n] follow each other; without it all do."""
        drifts = self._drift.observe(score, residual)
        sequence = np.zeros(len(score), np.int64) if sequence is None else sequence
        regime = self.regime.observe(score, sequence, self._triggers.min_rows)
        if regime == "adapt":
            self._triggers.wanted = "regime"
        for drift in drifts:
            log.warning("drift in the %s", drift, extra={"signal": drift.signal, "feature": drift.feature})
        # While most rows are flagged, and so not in the window, a training would learn the old operating point again.
        if drifts and not self.regime.suspected:
            self._let_front_in()
            self._triggers.wanted = "drift"
        return Changes(tuple(drifts), regime)

    def _let_front_in(self) -> None:
        """Take for inliers the rows that the live model flagged mildly, if ever more of them come: they have gone ahead
        in the drift.

        Without them the window would lag behind the stream, more with each training, until most of it is flagged.
        Faults are flagged mildly, too, but as often before as now.
        """
        held = self._window.quarantine.ordered()
        mild = (held.position >= self._live_since) & (held.score < FAR)
        late = held.position >= (self._live_since + self._window.seen) // 2
        before, now = int((mild & ~late).sum()), int((mild & late).sum())
        if now > 2 * before + 3.0 * (before + now) ** 0.5:
            self._window.admit(mild)

    def training_ended(self, trigger: str, accepted: bool, live: bool = False) -> None:
        """Hear how a training ended, and whether its model is `live` already; if the one that learned a new operating
        point failed, evidence gathers anew."""
        if self.regime.phase == Phase.ADAPTING and trigger in ("regime", "manual"):
            self._learned = accepted and not live
            if not self._learned:
                self.regime.settled()

    def swapped(self) -> None:
        """Another model is live: all signals begin anew, and what the one before saw no longer counts."""
        self._drift.reset()
        if self._triggers.wanted == "drift":
            self._triggers.wanted = None
        self._live_since = self._window.seen
        if self._learned:
            self.regime.settled()
        self._learned = False

    def rolled_back(self) -> None:
        """The live model is one that should not have been: its alarms tell nothing of the operating point."""
        self.regime.settled()
        self._learned = False
        self._triggers.wanted = None

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What must outlast a restart, as arrays."""
        return self.regime.state()

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], learned: bool = False) -> None:
        """Take over what `state` gave, and go on with a change that was being learned, unless the live model has
        `learned` it."""
        self._live_since = self._window.seen
        self.regime.restore(arrays)
        if self.regime.phase == Phase.ADAPTING:
            if learned:
                self.regime.settled()
            else:
                self._triggers.wanted = "regime"
