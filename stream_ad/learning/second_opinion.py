"""What a young model flagged, judged once more before a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector
from stream_ad.detector.fitting import Progress
from stream_ad.learning.fading import Rows
from stream_ad.learning.truncation import RADII, in_company
from stream_ad.learning.window import InlierWindow

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

MANY = 2.0
"""Times the budget: if a model flagged no more, nothing is amiss with it."""
HELD_OUT = 0.125
"""Share of a half that the classifier learns from and the stages before it do not."""
BLOCKS = 16
"""In time, every other of them in the same half."""


def admit_recurring(window: InlierWindow, like: Detector, progress: Progress = lambda share: None) -> int:
    """Take for inliers the quarantined rows of a young window that are no stranger than others to a model that has
    seen other stretches like them; return how many. Two models with the settings of `like` are trained, unless hardly
    any row is quarantined or the window is not young; each calls `progress` from 0 to 1.

    A first window shows some of what a plant does. The rest is flagged, so no later window would show it: the first
    ignorance would stay for good. So the rows fall into two halves, whole stretches of flagged rows in one of them, and
    for each half a detector learns the other with all that was flagged there. What comes again in another stretch it
    finds normal, what was there once it does not. Faults of one kind that come again and again so early are learned;
    in a window that is full no flagged row gets a second opinion.
    """
    rows, flagged = window.by_time()
    if not window.young or flagged.sum() <= MANY * window.alpha * len(rows):
        return 0
    # These models learn as much as they can, and need no calibration of their own.
    recipe = replace(like.recipe, cross_fit_below=0, calibration_share=HELD_OUT)
    admitted = recurring(rows, flagged, Detector(window.alpha, like.device, like.seed, recipe), progress)
    held = window.quarantine.ordered()
    window.admit(np.isin(held.position, rows.position[admitted]))
    return int(admitted.sum())


def recurring(rows: Rows, flagged: Bool, detector: Detector, progress: Progress) -> Bool:
    """Which of the `flagged` rows [n] look normal to the detector once it has learned the other half."""
    alpha = detector.false_alarm_rate
    half = halves(rows, flagged)
    # What lies beside a fault can not be told from it.
    usable = flagged | np.isnan(rows.score) | ~in_company(flagged, alpha, rows.sequence)
    admitted = np.zeros(len(rows), dtype=bool)
    for own in (half == 0, half == 1):
        normal = own & usable & ~flagged
        if not (own & flagged).any() or not normal.any():
            continue
        detector.fit(rows.values[usable & ~own], judged=True, progress=progress)
        limit = np.quantile(detector.judge(rows.values[normal]).p_value, alpha)
        admitted[own & flagged] = detector.judge(rows.values[own & flagged]).p_value > limit
    return admitted


def halves(rows: Rows, flagged: Bool) -> Int64:
    """The half, 0 or 1, of each row [n]: of flagged rows by the stretch that they belong to, of the others by time.

    Stretches are dealt out by length: those of one kind are about as long, and must not all fall into one half.
    """
    half: Int64 = rows.position * BLOCKS // (rows.position[-1] + 1) % 2
    order = np.argsort(rows.sequence, kind="stable")
    place = np.flatnonzero(flagged[order])
    sequence = rows.sequence[order][place]
    begins = (np.diff(place) > RADII[-1]) | (np.diff(sequence) != 0)
    stretch = np.append(0, np.cumsum(begins))
    by_length = np.argsort(np.argsort(-np.bincount(stretch), kind="stable"))
    half[order[place]] = by_length[stretch] % 2
    return half
