"""The gate: a new model goes live only if it behaves on rows of today."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector

Float64 = NDArray[np.float64]

MOST_ROWS = 5000


@dataclass(slots=True)
class Verdict:
    """Whether a model may go live, and if not, why."""

    accepted: bool = True
    reasons: list[str] = field(default_factory=list)
    alert_rate: float = 0.0
    """Share of the recent rows that the new model flags."""

    def refuse(self, reason: str) -> None:
        self.accepted = False
        self.reasons.append(reason)


def judge(detector: Detector, recent: Float64) -> Verdict:
    """Try a new model on recent inliers [n, d], of which it has learned some.

    Refused: scores that are not finite, one and the same score for rows that differ, an alert rate far above
    the budget, a compiled module that does not compute what the plain one does.
    """
    rows = recent[-MOST_ROWS:]
    score = detector.score(rows)
    verdict = Verdict(alert_rate=float((score >= 1.0).mean()))
    if not np.isfinite(score).all():
        verdict.refuse(f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are not finite")
        return verdict
    if len(np.unique(rows, axis=0)) > 1 and is_constant(detector, rows, score):
        verdict.refuse(f"every row gets the same score, {score[0]:.3g}")
    most = most_alerts(len(rows), detector.false_alarm_rate)
    if (alerts := int((score >= 1.0).sum())) > most:
        verdict.refuse(f"{alerts} of {len(rows)} recent inliers are flagged, at most {most} may be")
    difference = float(np.abs(detector.score_eager(rows[:256]) - score[:256]).max())
    if difference > 1e-5 * max(1.0, float(score[:256].max())):
        verdict.refuse(f"the compiled module differs from the plain one by {difference:.2g}")
    return verdict


def is_constant(detector: Detector, rows: Float64, score: Float64) -> bool:
    """Whether all rows get one score, those put together from several too: rows that it has learned may well all be
    beyond question."""
    if float(np.ptp(score)) > 0.0:
        return False
    mixed = np.random.default_rng(0).permuted(rows, axis=0)
    return float(np.ptp(np.append(score, detector.score(mixed)))) == 0.0


def most_alerts(n: int, alpha: float) -> int:
    """Twice the budget, and five standard deviations of chance."""
    return int(2.0 * alpha * n + 5.0 * (alpha * n) ** 0.5 + 1.0)
