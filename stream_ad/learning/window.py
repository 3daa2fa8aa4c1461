"""The window of inliers that the next model learns from, and the quarantine beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector
from stream_ad.learning.truncation import FAR, inlier_probability

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

QUARANTINE_SHARE = 0.2
"""Of the window's capacity. Half of it fills before rows are let back in: what was flagged earlier, which the next
calibration needs, must still be there."""


@dataclass(slots=True)
class TrainingRows:
    """What a training gets: see `Detector.fit`."""

    rows: Float64
    flagged: Float64
    flagged_place: Int64
    scored_share: float
    """Share of the rows that a model let in; the others came before there was one."""

    def truncated(self, alpha: float) -> float:
        """Share of the inliers that were flagged too strongly to be here."""
        return float(alpha**FAR) * self.scored_share

    def teach(
        self,
        detector: Detector,
        alpha: float,
        anomalies: Float64 | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Detector:
        """Fit a detector, whose budget is `alpha`, on these rows; return it. `anomalies` [k, d] are labelled ones."""
        return detector.fit(
            self.rows,
            flagged=self.flagged,
            flagged_place=self.flagged_place,
            truncated=self.truncated(alpha),
            anomalies=anomalies,
            judged=self.scored_share > 0.5,
            progress=progress,
        )


class Ring:
    """The last `capacity` rows of numbers with a position and a score for each."""

    def __init__(self, capacity: int, n_features: int) -> None:
        self.values = np.empty((capacity, n_features))
        self.position = np.empty(capacity, np.int64)
        self.score = np.zeros(capacity)
        self._end = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, values: Float64, position: Int64, score: Float64) -> None:
        capacity = len(self.position)
        values, position, score = values[-capacity:], position[-capacity:], score[-capacity:]
        at = (self._end + np.arange(len(position))) % capacity
        self.values[at], self.position[at], self.score[at] = values, position, score
        self._end = (self._end + len(position)) % capacity
        self._size = min(capacity, self._size + len(position))

    @property
    def capacity(self) -> int:
        return len(self.position)

    def replace(self, values: Float64, position: Int64, score: Float64) -> None:
        """Hold these rows, oldest first, in place of all others."""
        self._end = self._size = 0
        self.add(values, position, score)

    def ordered(self) -> tuple[Float64, Int64, Float64]:
        """Copies of values, positions and scores, oldest first."""
        at = (self._end - self._size + np.arange(self._size)) % len(self.position)
        return self.values[at], self.position[at], self.score[at]


class InlierWindow:
    """Ring of the latest inliers; flagged rows go to a small quarantine ring instead.

    The quarantine is for calibration only, never for training. `seen` counts all rows that were offered and
    gives each its position, so that a flagged row can be placed between the inliers of its time.
    """

    def __init__(self, capacity: int, n_features: int, alpha: float) -> None:
        self.inliers = Ring(capacity, n_features)
        self.quarantine = Ring(max(64, round(QUARANTINE_SHARE * capacity)), n_features)
        self.seen = 0
        self._alpha = alpha

    def __len__(self) -> int:
        return len(self.inliers)

    def add(self, values: Float64, score: Float64) -> None:
        """Take rows [n, d] with their scores [n]; NaN where there was no model yet."""
        position = self.seen + np.arange(len(score))
        self.seen += len(score)
        flagged = score >= 1.0
        for ring, rows in ((self.inliers, ~flagged), (self.quarantine, flagged)):
            ring.add(values[rows], position[rows], score[rows])

    def set_false_alarm_rate(self, alpha: float) -> None:
        """Put the scores on the scale of another budget: a row's p-value stays, its score is log p / log alpha."""
        for ring in (self.inliers, self.quarantine):
            ring.score *= np.log(self._alpha) / np.log(alpha)
        self._alpha = alpha

    def thin(self, rows: int, before: int) -> None:
        """Keep `rows` of the inliers from before this position, evenly spread over time.

        Of the quarantined rows from before it the same share stays: calibration takes both together.
        """
        earlier = self.inliers.ordered()[1] < before
        share = min(1.0, rows / max(1, int(earlier.sum())))
        for ring in (self.inliers, self.quarantine):
            values, position, score = ring.ordered()
            earlier = position < before
            kept = ~earlier | (np.floor(np.cumsum(earlier) * share) > np.floor((np.cumsum(earlier) - 1) * share))
            ring.replace(values[kept], position[kept], score[kept])

    def admit(self, chosen: Bool) -> None:
        """Move those of the quarantined rows [k], oldest first, that are `chosen` among the inliers.

        Each gets its place in time, and no score: no model let it in, so calibration takes it as it is. The oldest
        inliers make room.
        """
        flagged, position, score = self.quarantine.ordered()
        self._insert(flagged[chosen], position[chosen])
        self.quarantine.replace(flagged[~chosen], position[~chosen], score[~chosen])

    def settle(self, values: Float64, position: Int64, normal: Bool) -> None:
        """Take in what people say of rows [k, d] that were offered as those at these positions: `normal` ones belong
        among the inliers, as with `admit`, the others neither there nor in the quarantine."""
        inside = np.isin(position, self.inliers.ordered()[1])
        for ring, wrong in ((self.inliers, position[~normal]), (self.quarantine, position)):
            rows, at, score = ring.ordered()
            kept = ~np.isin(at, wrong)
            ring.replace(rows[kept], at[kept], score[kept])
        self._insert(values[normal & ~inside], position[normal & ~inside])

    def judge_anew(self, score: Float64) -> None:
        """Take the inliers for what these scores [n], oldest first, say: flagged ones go to the quarantine."""
        values, position, _ = self.inliers.ordered()
        flagged = score >= 1.0
        self.inliers.replace(values[~flagged], position[~flagged], score[~flagged])
        quarantined = self.quarantine.ordered()
        at = np.concatenate([quarantined[1], position[flagged]])
        order = np.argsort(at)
        values = np.concatenate([quarantined[0], values[flagged]])
        score = np.concatenate([quarantined[2], score[flagged]])
        self.quarantine.replace(values[order], at[order], score[order])

    def _insert(self, values: Float64, position: Int64) -> None:
        """Rows among the inliers, each at its place in time and without a score."""
        rows, at, score = self.inliers.ordered()
        at = np.concatenate([at, position])
        order = np.argsort(at)
        score = np.concatenate([score, np.full(len(position), np.nan)])
        self.inliers.replace(np.concatenate([rows, values])[order], at[order], score[order])

    def training_rows(self, seed: int = 0) -> TrainingRows:
        """The inliers, and of the mildly flagged rows that fell between them as many as are inliers too.

        Which of them are inliers nobody knows, but how likely each is: see `inlier_probability`.
        """
        rows, position, score = self.inliers.ordered()
        flagged, flagged_position, flagged_score = self.quarantine.ordered()
        recent = flagged_position >= (position[0] if len(position) else 0)
        scored = np.isfinite(score)
        share = float(scored.mean()) if len(score) else 0.0
        all_scores = np.concatenate([score[scored], flagged_score[recent]])
        probability = inlier_probability(all_scores, self._alpha)
        drawn = np.random.default_rng(seed).random(len(probability)) < probability
        kept = np.ones(len(rows), dtype=bool)
        kept[scored] = drawn[: scored.sum()]
        extra = drawn[scored.sum() :]
        place = np.searchsorted(position[kept], flagged_position[recent][extra])
        return TrainingRows(rows[kept], flagged[recent][extra], place.astype(np.int64), share)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays, for `restore`."""
        arrays: dict[str, NDArray[np.generic]] = {
            "seen": np.array([self.seen], np.int64),
            "false_alarm_rate": np.array([self._alpha]),
        }
        for name, ring in (("inliers", self.inliers), ("quarantine", self.quarantine)):
            arrays[f"{name}.values"], arrays[f"{name}.position"], arrays[f"{name}.score"] = ring.ordered()
        return arrays

    def restore(self, arrays: dict[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave; rows beyond the present capacity are dropped, oldest first.

        Scores that were given under another budget come onto the scale of this one.
        """
        alpha = self._alpha
        # A window that was kept by an earlier version does not say its own.
        self._alpha = float(arrays.get("false_alarm_rate", np.array([alpha]))[0])
        self.seen = int(arrays["seen"][0])
        for name, ring in (("inliers", self.inliers), ("quarantine", self.quarantine)):
            ring.add(
                arrays[f"{name}.values"].astype(np.float64),
                arrays[f"{name}.position"].astype(np.int64),
                arrays[f"{name}.score"].astype(np.float64),
            )
        self.set_false_alarm_rate(alpha)
