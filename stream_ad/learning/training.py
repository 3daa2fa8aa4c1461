"""One training: from a window to a model that the gate has judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector
from stream_ad.detector.fitting import Progress
from stream_ad.learning import gate
from stream_ad.learning.second_opinion import admit_recurring
from stream_ad.learning.window import InlierWindow, Stretch

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Training:
    """What a training came to; the detector has learned."""

    rows: Float64
    """[n, d] that it learned from or was judged by."""
    recurring: int
    """Flagged rows among them that got a second opinion."""
    left_out: list[Stretch]
    """Stretches of the window that should not be learned from: see `InlierWindow.drop`."""
    verdict: gate.Verdict


def train(
    window: InlierWindow,
    detector: Detector,
    live: Callable[[], Detector | None],
    *,
    trigger: str,
    features: int,
    past: int,
    anomalies: Float64 | None = None,
    progress: Progress = lambda share: None,
) -> Training:
    """Fit `detector` on the window, of whose columns the first `features` do not tell of the `past` rows before, and
    judge it beside the `live` one, if there is any. `anomalies` [k, d] are labelled ones.

    Rows of the quarantine that come again and again are admitted to the window: give a copy. Raises `TrainingError` for
    a window that cannot be learned from.
    """
    # Rows of a new operating point have been let in already, and those of the former one thinned out.
    changed = trigger == "regime"
    recurring = 0 if changed else admit_recurring(window, detector, progress)
    training = window.training_rows(detector.seed)
    learned, held_out = gate.hold_out(training)
    learned.teach(detector, features=features, past=past, anomalies=anomalies, changed=changed, progress=progress)
    left_out = learned.left_out(detector)
    unseen = len(learned.rows) < len(training.rows)
    tried = held_out.outside(left_out)
    verdict = gate.judge(
        detector, tried.rows, learned.rows, live(), sequence=tried.sequence, unseen=unseen, screened=not changed
    )
    return Training(training.rows, recurring, left_out, verdict)
