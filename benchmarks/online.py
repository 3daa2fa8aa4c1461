"""The methods that the learning loop is measured beside: each scores a batch, then learns from it.

None of them has labels or settings that depend on the stream; settings are the libraries' defaults unless said here.
All take bare rows. Libraries are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.loop import Loop, Schedule
from benchmarks.peers import isolation_forest, on_standardised_rows
from benchmarks.series import context_rows
from benchmarks.streams import Stream
from stream_ad.detector import Recipe

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

CONTEXT = 16
"""Rows of temporal context at most: what raises alerts must soon forget a fault that is over."""

MAD_TO_DEVIATION = 1.4826


class Method(Protocol):
    """What is measured."""

    def start(self, rows: Float64) -> None:
        """Learn from the first rows [n, d]."""

    def step(self, rows: Float64) -> tuple[Float64, Bool]:
        """Scores [n] of the next rows [n, d], larger for stranger, and which of them are alerts; then learn."""


class Latest:
    """The last `capacity` rows, or scores, that were added."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.values: Float64 | None = None

    def add(self, values: Float64) -> Float64:
        """All that is kept now, oldest first."""
        joined = values if self.values is None else np.concatenate([self.values, values])
        self.values = joined[-self._capacity :]
        return self.values


class Peer:
    """A method without a threshold of its own: it gets the quantile of its past scores that the budget says.

    Past scores are those of the last rows, as many as our window holds; they were given before their rows were
    learned. All of them count: nobody tells the method which were anomalies.
    """

    def __init__(self, scorer: Scorer, alpha: float, schedule: Schedule) -> None:
        self._scorer = scorer
        self._alpha = alpha
        self._batch = schedule.batch
        self._past = Latest(schedule.window_rows)

    def start(self, rows: Float64) -> None:
        self._past.add(self._scorer.start(rows))

    def step(self, rows: Float64) -> tuple[Float64, Bool]:
        assert self._past.values is not None
        limit = np.quantile(self._past.values, 1.0 - self._alpha)
        score = self._scorer.step(rows)
        self._past.add(score)
        # Many scores of half-space trees are one number: what only reaches the quantile is no alert.
        return score, score > limit


class Scorer(Protocol):
    """A peer without its threshold."""

    def start(self, rows: Float64) -> Float64:
        """Learn from the first rows [n, d] and say what their scores [n] were."""

    def step(self, rows: Float64) -> Float64:
        """Scores [n] of the next rows [n, d], then learn."""


class River:
    """A model of river behind its scaler, row by row."""

    def __init__(self, scaler: Any, model: Any) -> None:
        self._scaler, self._model = scaler, model

    def start(self, rows: Float64) -> Float64:
        return self.step(rows)

    def step(self, rows: Float64) -> Float64:
        return np.array([self._one(dict(enumerate(row))) for row in rows.tolist()])

    def _one(self, row: dict[int, float]) -> float:
        known = {feature: value for feature, value in row.items() if value == value}
        self._scaler.learn_one(known)
        scaled = self._scaler.transform_one(known)
        score = float(self._model.score_one(scaled))
        self._model.learn_one(scaled)
        return score


def half_space_trees(seed: int) -> Scorer:
    from river import anomaly, preprocessing

    return River(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(seed=seed))


def one_class_svm(alpha: float) -> Scorer:
    """In a filter that keeps from it what lies above the budget's quantile."""
    from river import anomaly, preprocessing

    return River(preprocessing.StandardScaler(), anomaly.QuantileFilter(anomaly.OneClassSVM(), q=1.0 - alpha))


class RobustZ:
    """The largest of the features' distances from the running median, in running median absolute deviations."""

    def __init__(self, window_rows: int) -> None:
        self._rows = Latest(window_rows)

    def start(self, rows: Float64) -> Float64:
        self._learn(rows)
        return self._score(rows)

    def step(self, rows: Float64) -> Float64:
        score = self._score(rows)
        self._learn(rows)
        return score

    def _score(self, rows: Float64) -> Float64:
        distance = np.abs(rows - self._median) / self._scale
        score: Float64 = np.nan_to_num(distance).max(axis=1)
        return score

    def _learn(self, rows: Float64) -> None:
        known = self._rows.add(rows)
        self._median = np.nan_to_num(np.nanmedian(known, axis=0))
        scale = MAD_TO_DEVIATION * np.nanmedian(np.abs(known - self._median), axis=0)
        # Half of the values are one number: the deviation tells more than nothing.
        scale = np.where(scale > 0.0, scale, np.nanstd(known, axis=0))
        self._scale = np.where(scale > 0.0, scale, 1.0)


class RetrainedForest:
    """PyOD's isolation forest, trained anew on the last rows by the same schedule as ours."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._rows = Latest(schedule.window_rows)
        self._every = schedule.every_rows
        self._since = 0
        self._seed = seed

    def start(self, rows: Float64) -> Float64:
        self._train(self._rows.add(rows))
        return self._score(rows)

    def step(self, rows: Float64) -> Float64:
        score = self._score(rows)
        known = self._rows.add(rows)
        self._since += len(rows)
        if self._since >= self._every:
            self._since = 0
            self._train(known)
        return score

    def _train(self, rows: Float64) -> None:
        self._score = on_standardised_rows(isolation_forest, rows, self._seed)


OURS = "stream_ad"
METHODS = (OURS, "HalfSpaceTrees", "OneClassSVM", "RobustZ", "IForest")


def make(name: str, stream: Stream, alpha: float, schedule: Schedule, recipe: Recipe, seed: int) -> Method:
    """A method by name, for a stream."""
    if name == OURS:
        context = min(CONTEXT, context_rows(len(stream.train))) if stream.in_time else 0
        return Loop(stream.rows.shape[1], alpha, schedule, recipe, seed, context)
    scorers: dict[str, Callable[[], Scorer]] = {
        "HalfSpaceTrees": lambda: half_space_trees(seed),
        "OneClassSVM": lambda: one_class_svm(alpha),
        "RobustZ": lambda: RobustZ(schedule.window_rows),
        "IForest": lambda: RetrainedForest(schedule, seed),
    }
    return Peer(scorers[name](), alpha, schedule)
