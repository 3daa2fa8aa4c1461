"""The window of inliers that the next model learns from, and the quarantine beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector import Detector
from stream_ad.detector.folds import ALONE
from stream_ad.learning.fading import FadingRows, Rows
from stream_ad.learning.rest_watch import RestWatch
from stream_ad.learning.truncation import FAR, inlier_probability, suspects

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Stretch = tuple[int, int, int]
"""First and last position, and the sequence whose rows are meant."""

QUARANTINE_SHARE = 0.2
"""Of the window's capacity. Half of it at most fills before rows are let back in: what was flagged earlier, which the
next calibration needs, must still be there."""
LOOKS = 32
"""Into so many parts of its capacity: two of them have not begun to fade."""


@dataclass(slots=True)
class TrainingRows:
    """What a training gets: see `Detector.fit`."""

    rows: Float64
    position: Int64
    """Of the rows, as the window counts them."""
    sequence: Int64
    """See `Rows.sequence`."""
    stands_for: Float64
    """Rows of the stream that each stands for, since others have faded."""
    flagged: Float64
    flagged_place: Int64
    flagged_sequence: Int64
    scored_share: float
    """Share of the rows that a model let in; the others came before there was one."""

    def truncated(self, alpha: float) -> float:
        """Share of the inliers that were flagged too strongly to be here."""
        return float(alpha**FAR) * self.scored_share

    def left_out(self, detector: Detector) -> list[Stretch]:
        """The stretches of these rows that the detector did not learn from: what was held out between them belongs to
        them."""
        order = np.argsort(self.sequence, kind="stable")
        place = np.flatnonzero(np.isin(order, detector.left_out))
        follows = (np.diff(place) == 1) & (np.diff(self.sequence[order[place]]) == 0)
        runs = np.split(order[place], np.flatnonzero(~follows) + 1)
        return [
            (int(self.position[run[0]]), int(self.position[run[-1]]), int(self.sequence[run[0]]))
            for run in runs
            if len(run)
        ]

    def teach(
        self,
        detector: Detector,
        features: int | None = None,
        past: int = 0,
        anomalies: Float64 | None = None,
        changed: bool = False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Detector:
        """Fit a detector on these rows, of which the first `features` columns do not tell of the `past` rows before;
        return it. `anomalies` [k, d] are labelled ones. If the operating point has `changed`, rows of the new one are
        among these, and are no burst of anomalies."""
        return detector.fit(
            self.rows,
            flagged=self.flagged,
            flagged_place=self.flagged_place,
            flagged_sequence=self.flagged_sequence,
            truncated=self.truncated(detector.false_alarm_rate),
            anomalies=anomalies,
            judged=changed or self.scored_share > 0.5,
            sequence=self.sequence,
            features=features,
            past=past,
            stands_for=self.stands_for,
            progress=progress,
        )


def within(position: Int64, sequence: Int64, stretches: Sequence[Stretch]) -> Bool:
    """Which of the rows at these positions [n], each of a sequence [n], lie in one of the stretches."""
    inside = np.zeros(len(position), dtype=bool)
    for first, last, of_sequence in stretches:
        inside |= (position >= first) & (position <= last) & (sequence == of_sequence)
    return inside


class InlierWindow:
    """The latest inliers and some of earlier ones; flagged rows go to a small quarantine instead.

    The quarantine is for calibration only, never for training. `seen` counts all rows that were offered and
    gives each its position, so that a flagged row can be placed between the inliers of its time. Both fade with age:
    see `FadingRows`.
    """

    def __init__(self, capacity: int, n_features: int, alpha: float) -> None:
        self.inliers = FadingRows(capacity, n_features)
        self.quarantine = FadingRows(max(64, round(QUARANTINE_SHARE * capacity)), n_features)
        self.seen = 0
        self.alpha = alpha
        self._look = max(1, capacity // LOOKS)
        self._looked_at_all = False
        # So many rows were looked at last; before the first there were none with a score.
        self._fresh_score: Float64 = np.full(self._look, np.nan)
        self._fresh_sequence: Int64 = np.zeros(self._look, np.int64)
        self._resting = RestWatch(capacity)

    def __len__(self) -> int:
        return len(self.inliers)

    @property
    def young(self) -> bool:
        """Whether no more rows have been offered yet than it can hold."""
        return self.seen <= self.inliers.capacity

    def add(self, values: Float64, score: Float64, sequence: Int64 | None = None) -> None:
        """Take rows [n, d] with their scores [n]; NaN where there was no model yet. Rows of one `sequence` [n] follow
        each other; without it all do."""
        position = self.seen + np.arange(len(score))
        self.seen += len(score)
        sequence = np.zeros_like(position) if sequence is None else sequence
        none = np.zeros(len(score), dtype=bool)
        rows = Rows(values, position, position, score, sequence, none, self._resting.holds(values))
        flagged = score >= 1.0
        self.inliers.add(rows[~flagged])
        self.quarantine.add(rows[flagged])
        self._fresh_score = np.append(self._fresh_score, score)
        self._fresh_sequence = np.append(self._fresh_sequence, sequence)
        if len(self._fresh_score) >= 2 * self._look:
            self._mark_suspects()
        if self._resting.observe(values, sequence, self.seen, None if self.young else self.inliers.sample):
            self.inliers.rest(self._resting.holds, self.seen)

    def _mark_suspects(self) -> None:
        """Look at the latest rows while all of their neighbours are there: so that each has those after it, too, all
        are looked at twice. Until the window is full nothing fades, and each training looks at all of it."""
        if not self.young:
            position, score, sequence = self._to_look_at()
            found = position[suspects(score, self.alpha, sequence)]
            for ring in (self.inliers, self.quarantine):
                ring.suspect(found)
        self._fresh_score = self._fresh_score[-self._look :]
        self._fresh_sequence = self._fresh_sequence[-self._look :]

    def _to_look_at(self) -> tuple[Int64, Float64, Int64]:
        """Position, score and sequence of the latest rows [n], the first time of all rows."""
        if self._looked_at_all:
            latest = np.arange(self.seen - len(self._fresh_score), self.seen)
            return latest, self._fresh_score, self._fresh_sequence
        self._looked_at_all = True
        rows = self.by_time()[0]
        return rows.position, rows.score, rows.sequence

    def set_false_alarm_rate(self, alpha: float) -> None:
        """Put the scores on the scale of another budget: a row's p-value stays, its score is log p / log alpha."""
        for ring in (self.inliers, self.quarantine):
            ring.scale(math.log(self.alpha) / math.log(alpha))
        self._fresh_score = self._fresh_score * (math.log(self.alpha) / math.log(alpha))
        self.alpha = alpha

    def thin(self, rows: int, before: int) -> None:
        """Keep `rows` of the inliers from before this position, evenly spread over time.

        Of the quarantined rows from before it the same share stays: calibration takes both together.
        """
        earlier = self.inliers.ordered().position < before
        share = min(1.0, rows / max(1, int(earlier.sum())))
        for ring in (self.inliers, self.quarantine):
            held = ring.ordered()
            earlier = held.position < before
            kept = ~earlier | (np.floor(np.cumsum(earlier) * share) > np.floor((np.cumsum(earlier) - 1) * share))
            ring.replace(held[kept])

    def admit(self, chosen: Bool) -> None:
        """Move those of the quarantined rows [k], oldest first, that are `chosen` among the inliers.

        Each gets its place in time, and no score: no model let it in, so calibration takes it as it is. Inliers
        that have faded most make room.
        """
        flagged = self.quarantine.ordered()
        self._insert(flagged[chosen])
        self.quarantine.replace(flagged[~chosen])

    def settle(self, values: Float64, position: Int64, normal: Bool) -> None:
        """Take in what people say of rows [k, d] that were offered as those at these positions: `normal` ones belong
        among the inliers, as with `admit`, the others neither there nor in the quarantine."""
        inside = np.isin(position, self.inliers.ordered().position)
        for ring, wrong in ((self.inliers, position[~normal]), (self.quarantine, position)):
            held = ring.ordered()
            ring.replace(held[~np.isin(held.position, wrong)])
        alone = np.full(len(position), ALONE)
        score = np.full(len(position), np.nan)
        none = np.zeros(len(position), dtype=bool)
        told = Rows(values, position, position, score, alone, none, self._resting.holds(values))
        self._insert(told[normal & ~inside])

    def drop(self, stretches: Sequence[Stretch]) -> None:
        """Forget the inliers in these stretches: a model found a burst of anomalies among rows that
        nobody had judged, and later ones are not to learn it either."""
        if stretches:
            held = self.inliers.ordered()
            self.inliers.replace(held[~within(held.position, held.sequence, stretches)])

    def judge_anew(self, score: Float64) -> None:
        """Take the inliers for what these scores [n], oldest first, say: flagged ones go to the quarantine, but for
        those of which a person said that they are normal."""
        held = self.inliers.ordered()
        told = held.sequence == ALONE
        held = replace(held, score=np.where(told, held.score, score))
        flagged = (score >= 1.0) & ~told
        self.inliers.replace(held[~flagged])
        self.quarantine.replace(self.quarantine.ordered().and_by_time(held[flagged])[0])

    def _insert(self, rows: Rows) -> None:
        """Rows among the inliers, each at its place in time and without a score; they fade from now on."""
        unscored = replace(rows, score=np.full(len(rows), np.nan), since=np.full(len(rows), self.seen))
        self.inliers.replace(self.inliers.ordered().and_by_time(unscored)[0])

    def complete(self, rests: bool = False) -> float:
        """The age in rows up to which no inlier has faded, of those at rest or of the others."""
        return math.inf if self.young else self.inliers.complete(self.seen, rests)

    def by_time(self) -> tuple[Rows, Bool]:
        """Inliers, and of the quarantined rows since the first of them the same share, in order; and which are
        quarantined."""
        inliers, quarantined = self.inliers.ordered(), self.quarantine.ordered()
        since = inliers.position[0] if len(inliers) else 0
        left = quarantined.faded(self.seen) <= self.complete()
        return inliers.and_by_time(quarantined[left & (quarantined.position >= since)])

    def training_rows(self, seed: int = 0) -> TrainingRows:
        """The inliers without suspects, and of the mildly flagged rows that fell between them as many as are inliers
        too.

        Which of them are inliers nobody knows, but how likely each is: see `inlier_probability`.
        """
        rows, flagged = self.by_time()
        scored = np.isfinite(rows.score)
        suspect = scored & (rows.suspect | suspects(rows.score, self.alpha, rows.sequence))
        probability = np.where(suspect, 0.0, 1.0)
        judged = scored & ~suspect
        probability[judged] = inlier_probability(rows.score[judged], self.alpha)
        drawn = np.random.default_rng(seed).random(len(rows)) < probability
        kept = drawn & ~flagged
        complete = np.where(rows.rests, self.complete(rests=True), self.complete())
        return TrainingRows(
            rows=rows.values[kept],
            position=rows.position[kept],
            sequence=rows.sequence[kept],
            stands_for=np.maximum(1.0, (self.seen - rows.since[kept]) / complete[kept]),
            flagged=rows.values[drawn & flagged],
            flagged_place=np.cumsum(kept, dtype=np.int64)[drawn & flagged],
            flagged_sequence=rows.sequence[drawn & flagged],
            scored_share=float(scored[kept].mean()) if kept.any() else 0.0,
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays, for `restore`."""
        arrays: dict[str, NDArray[np.generic]] = {
            "seen": np.array([self.seen], np.int64),
            "false_alarm_rate": np.array([self.alpha]),
        }
        for name, ring in (("inliers", self.inliers), ("quarantine", self.quarantine)):
            held = ring.ordered()
            arrays |= {f"{name}.{field.name}": getattr(held, field.name) for field in fields(Rows)}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave; of rows beyond the present capacity those are dropped that have faded most.

        Scores that were given under another budget come onto the scale of this one.
        """
        alpha = self.alpha
        # Windows that were kept by earlier versions lack their own budget and some of the columns.
        self.alpha = float(arrays.get("false_alarm_rate", np.array([alpha]))[0])
        self.seen = int(arrays["seen"][0])
        self._resting.begin(self.seen)
        for name, ring in (("inliers", self.inliers), ("quarantine", self.quarantine)):
            position = arrays[f"{name}.position"].astype(np.int64)
            ring.add(
                Rows(
                    arrays[f"{name}.values"].astype(np.float64),
                    position,
                    arrays.get(f"{name}.since", position).astype(np.int64),
                    arrays[f"{name}.score"].astype(np.float64),
                    arrays.get(f"{name}.sequence", np.zeros_like(position)).astype(np.int64),
                    arrays.get(f"{name}.suspect", np.zeros_like(position)).astype(np.bool_),
                    arrays.get(f"{name}.rests", np.zeros_like(position)).astype(np.bool_),
                )
            )
        self.set_false_alarm_rate(alpha)
