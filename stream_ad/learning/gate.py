"""The gate: a new model goes live only if it behaves on rows of today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ad.detector import Detector, Findings
from stream_ad.detector.folds import ALONE
from stream_ad.learning.window import Stretch, TrainingRows, within

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

LEAST_WINDOW = 2000
"""Smaller windows are learned whole: each of their rows counts, and a twentieth of them would show nothing."""
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 1000
HELD_OUT_BLOCKS = 5
EVERY_BLOCK = 4
"""Of the latest blocks of the window one in four is held out. Not the latest rows in one piece: where operation has
just changed, the new model would have nothing of it to learn from."""

REAL_ANOMALIES = 0.1
"""Where no model has kept anomalies out of the window, so large a share may be flagged rightly."""
COARSE = 0.1
LEAST_COARSE = 0.05
"""A tenth of all inliers has a p-value up to a tenth. Where not even half as many outliers have, the threshold is too
high. In sparse rows few synthetic outliers are real ones, but they are no more ordinary than inliers. Recent inliers do
not tell: operation may be calm for hours, and rightly none of them be strange."""
AUROC_TOLERANCE = 0.05


@dataclass(slots=True)
class Verdict:
    """Whether a model may go live, and if not, why."""

    refusals: dict[str, str] = field(default_factory=dict)
    """The reason, by the check that refuses: finite, constant, alert_rate, auroc or compiled."""
    alert_rate: float = 0.0
    """Share of the held-out rows that the new model flags."""
    auroc: float | None = None
    """How well it tells synthetic outliers from them; None where none can be made."""
    live_auroc: float | None = None
    """The same of the model that is live."""

    @property
    def accepted(self) -> bool:
        return not self.refusals

    @property
    def reasons(self) -> list[str]:
        return list(self.refusals.values())


@dataclass(frozen=True, slots=True)
class Held:
    """Rows that a new model is tried on."""

    rows: Float64
    position: Int64
    sequence: Int64

    def outside(self, stretches: Sequence[Stretch]) -> Held:
        """Those that lie in none of the stretches: a burst that the model was spared is nothing to try it on, unless
        there is nothing else."""
        inside = within(self.position, self.sequence, stretches)
        return self if inside.all() else Held(self.rows[~inside], self.position[~inside], self.sequence[~inside])


def hold_out(training: TrainingRows) -> tuple[TrainingRows, Held]:
    """Part the window into what is learned and the rows that the new model is tried on: a twentieth of it, at
    most a thousand, in blocks among the latest ones.

    It costs the new model these rows, so that the newest that it knows is up to two hundred rows old. Rows that a
    person labelled are there to be learned. Of a window too small to spare any it is tried on the latest that it has
    learned.
    """
    n = len(training.rows)
    if n < LEAST_WINDOW:
        latest = slice(-MOST_HELD_OUT, None)
        return training, Held(training.rows[latest], training.position[latest], training.sequence[latest])
    length = min(MOST_HELD_OUT, int(HELD_OUT_SHARE * n)) // HELD_OUT_BLOCKS
    block = np.arange(n)[::-1] // length
    held = (block % EVERY_BLOCK == 0) & (block < EVERY_BLOCK * HELD_OUT_BLOCKS) & (training.sequence != ALONE)
    kept = ~held[np.minimum(training.flagged_place, n - 1)]
    learned_before = np.append(0, np.cumsum(~held))
    learned = replace(
        training,
        rows=training.rows[~held],
        position=training.position[~held],
        sequence=training.sequence[~held],
        stands_for=training.stands_for[~held],
        flagged=training.flagged[kept],
        flagged_place=learned_before[training.flagged_place[kept]],
        flagged_sequence=training.flagged_sequence[kept],
    )
    return learned, Held(training.rows[held], training.position[held], training.sequence[held])


def judge(
    detector: Detector,
    rows: Float64,
    learned: Float64,
    live: Detector | None = None,
    *,
    sequence: Int64 | None = None,
    unseen: bool = True,
    screened: bool = True,
) -> Verdict:
    """Try a new model on recent inliers `rows` [n, d], beside the one that is `live` if there is one; from the rows
    that it has `learned` [m, d] come values for synthetic outliers. With their `sequence` [n] rows are flagged as on
    the stream, where keys unlike the others are judged by their own rows, too. `unseen` tells whether the rows are no
    part of what was learned: outliers made of rows that were may look ordinary to a sound model. `screened` tells
    whether a model took these rows for inliers, unlike those of a new operating point.

    Refused (in brackets the name of the check): weights or scores that are not finite (finite), one and the same
    score for rows that differ (constant), a threshold that flags too many inliers or hardly any outlier (alert_rate),
    synthetic outliers told from inliers less well than the live model does, or than chance would (auroc), a compiled
    module that does not compute what the plain one does (compiled). The bounds leave room for chance, and for what a
    sound model may get wrong: they are for models that are broken.
    """
    score = detector.score(rows)
    flagged: Bool = detector.score(rows, sequence) >= 1.0
    verdict = Verdict(alert_rate=float(flagged.mean()))
    strange, broken = int((~np.isfinite(score)).sum()), weights_not_finite(detector)
    if strange or broken:
        what = f"the weights {', '.join(broken)} are" if broken else f"{strange} of {len(score)} scores are"
        verdict.refusals["finite"] = (
            f"{what} not finite: the training diverged, look for values out of all proportion in the training report"
        )
        return verdict
    if len(distinct_rows(rows)) > 1 and is_constant(detector, rows, score):
        verdict.refusals["constant"] = f"every row gets the same score, {score[0]:.3g}, however much rows differ"
        return verdict
    _check_alert_rate(verdict, detector.false_alarm_rate, flagged, live is not None and screened)
    outliers = synthetic_outliers(rows, learned)
    if len(outliers):
        found = detector.judge(outliers)
        if unseen:
            _check_threshold(verdict, found)
        _check_auroc(verdict, rows, score, outliers, found, live)
    eager = eager_scores(detector, rows[:256])
    difference = float(np.abs(eager - score[:256]).max())
    if difference > 1e-5 * max(1.0, float(score[:256].max())):
        verdict.refusals["compiled"] = (
            f"the compiled module differs from the plain one by {difference:.2g}: PyTorch compiles it wrongly here"
        )
    return verdict


def _check_alert_rate(verdict: Verdict, alpha: float, flagged: Bool, screened: bool) -> None:
    n, alerts = len(flagged), int(flagged.sum())
    most = most_alerts(n, alpha) + (0 if screened else int(REAL_ANOMALIES * n))
    if alerts > most:
        verdict.refusals["alert_rate"] = (
            f"{alerts} of {n} recent inliers are flagged, at most {most} may be at a budget of {alpha:g}: it has "
            "learned what is not normal now, or its threshold is too low"
        )


def _check_threshold(verdict: Verdict, found: Findings) -> None:
    coarse = float((found.p_value <= COARSE).mean())
    if coarse < LEAST_COARSE:
        verdict.refusals["alert_rate"] = (
            f"only {coarse:.1%} of {len(found.p_value)} synthetic outliers have a p-value up to {COARSE:g}, as one in "
            "ten inliers has: its threshold is too high, and anomalies would pass"
        )


def _check_auroc(
    verdict: Verdict, rows: Float64, score: Float64, outliers: Float64, found: Findings, live: Detector | None
) -> None:
    verdict.auroc, wanted, whose = auroc(score, found.score), 0.5, "chance"
    if live is not None:
        verdict.live_auroc = auroc(eager_scores(live, rows), eager_scores(live, outliers))
        wanted, whose = max(wanted, verdict.live_auroc), "the live model"
    margin = AUROC_TOLERANCE + 3.0 * standard_error(wanted, min(len(rows), len(outliers)))
    if verdict.auroc < wanted - margin:
        verdict.refusals["auroc"] = (
            f"it tells {len(outliers)} synthetic outliers from recent inliers with an AUROC of {verdict.auroc:.3f}, "
            f"{whose} with {wanted:.3f}: it has learned less than what is known already"
        )


def weights_not_finite(detector: Detector) -> list[str]:
    """Names of the trained tensors that hold NaN or infinity: a score may hide them."""
    if detector.module is None:
        return []
    return [name for name, weight in detector.module.named_parameters() if not bool(torch.isfinite(weight).all())]


def is_constant(detector: Detector, rows: Float64, score: Float64) -> bool:
    """Whether all rows get one score, those put together from several too: rows that it has learned may well all be
    beyond question."""
    if float(np.ptp(score)) > 0.0:
        return False
    mixed = np.random.default_rng(0).permuted(rows, axis=0)
    return float(np.ptp(np.append(score, detector.score(mixed)))) == 0.0


def distinct_rows(rows: Float64) -> NDArray[np.int64]:
    """Numbers of the rows [n, d] that are no copies of earlier ones, NaN like NaN. [k]"""
    # To `unique` no NaN is like another.
    comparable = np.where(np.isnan(rows), np.inf, rows)
    return np.sort(np.unique(comparable, axis=0, return_index=True)[1])


def most_alerts(n: int, alpha: float) -> int:
    """How many of n inliers may be flagged: twice the budget, five standard deviations of chance, and three more,
    since what is strange comes in episodes."""
    return int(2.0 * alpha * n + 5.0 * (alpha * n) ** 0.5 + 3.0)


def synthetic_outliers(rows: Float64, learned: Float64, seed: int = 0) -> Float64:
    """Outliers made of inliers [n, d], NaN for missing, without any model: up to n rows, so that two models can be
    compared by them.

    A third of the rows gets one value of another of the rows `learned` [m, d], a third each value with probability
    one half: plausible values that do not belong together. In a third one value is moved by three to six spreads.
    Only features that vary are changed.
    """
    rng = np.random.default_rng(seed)
    n, d = rows.shape
    present = [column[~np.isnan(column)] for column in learned.T]
    varies = np.flatnonzero([len(column) > 0 and float(np.ptp(column)) > 0.0 for column in present])
    if not len(varies):
        return np.empty((0, d))
    others, moved = np.full((n, d), np.nan), np.full((n, d), np.nan)
    for j in varies:
        others[:, j] = rng.choice(present[j], n)
        low, middle, high = np.quantile(present[j], (0.16, 0.5, 0.84))
        spread = 0.5 * (high - low) or float(present[j].std())
        start = np.where(np.isnan(rows[:, j]), middle, rows[:, j])
        moved[:, j] = start + rng.choice((-1.0, 1.0), n) * rng.uniform(3.0, 6.0, n) * spread
    one: Bool = np.arange(d) == rng.choice(varies, n)[:, None]
    half: Bool = one | (np.isin(np.arange(d), varies) & (rng.random((n, d)) < 0.5))
    kind = np.arange(n)[:, None] % 3
    changed = np.where(np.where(kind == 1, half, one), np.where(kind == 2, moved, others), rows)
    differs: Bool = ~((changed == rows) | np.isnan(changed)).all(axis=1)
    return changed[differs]


def auroc(inlier: Float64, outlier: Float64) -> float:
    """Probability that an outlier scores above an inlier, ties counted by half, from the scores of both."""
    ordered = np.sort(inlier)
    below = np.searchsorted(ordered, outlier, "left") + np.searchsorted(ordered, outlier, "right")
    return float(below.mean()) / (2.0 * len(inlier))


def standard_error(auroc: float, n: int) -> float:
    """Of the difference of two AUROC near `auroc` over n inliers and n outliers, at most."""
    return float(np.sqrt(2.0 * auroc * (1.0 - auroc) / n))


def eager_scores(detector: Detector, rows: Float64) -> Float64:
    """Scores [n] without compiling, in parts that bound the memory."""
    parts = [detector.score_eager(rows[i : i + 512]) for i in range(0, len(rows), 512)]
    return np.concatenate(parts)
