"""From a batch to its verdicts: the detector, or the cold start before there is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ad.detector.temporal import TemporalContext
from stream_ad.learning import AdaptiveLevel, ColdStart, LoadedModel
from stream_ad.records import NO_CONTEXT, NO_TIMESTAMP, Batch, RecordSchema, Status, Verdicts

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]


class Scorer:
    """Scores whole batches with the model that is live now: `extend` each batch first, then `score` it.

    Owns the past of all keys, as far as the schema asks for it. It is kept nowhere: after a restart the first rows
    of a key have none, and what it would tell is filled in as a missing value is.
    """

    def __init__(self, schema: RecordSchema, cold_start: ColdStart | None, adapts: bool = False) -> None:
        """One that adapts moves the threshold with the stream between trainings: see `AdaptiveLevel`."""
        self.model: LoadedModel | None = None
        self.level: AdaptiveLevel | None = None
        """Where the live model's threshold stands, if it is moved."""
        self.stretch = 1.0
        """What that multiplied the last batch's scores by."""
        self._adapts = adapts
        self.residual: Float64 = np.zeros(len(schema.features))
        """[d] mean distance of the last batch's rows from their reconstruction, in spreads of the feature."""
        self.distance: Float64 = np.empty((0, len(schema.features)))
        """[n, d] the same of each row of the last batch; NaN where a value is missing or there is no model."""
        self.sequence: Int64 = np.empty(0, np.int64)
        """[n] which of the last batch's rows follow each other: see `Batch.sequences`."""
        self._n_features = len(schema.features)
        self._context = None if schema.context == NO_CONTEXT else TemporalContext(self._n_features, **schema.context)
        self._max_missing = schema.max_missing
        self._cold_start = cold_start

    @property
    def ready(self) -> bool:
        """Whether rows get a score: from a model or from the cold start."""
        return self.model is not None or self._cold_start is not None

    @property
    def has_context(self) -> bool:
        """Whether a row is judged with its past or its time, so that `extend` must see all rows."""
        return self._context is not None

    def swap(self, model: LoadedModel) -> None:
        """Use another model from the next batch on."""
        if self._adapts:
            budget = model.detector.false_alarm_rate
            if self.level is None or self.level.budget != budget:
                self.level = AdaptiveLevel(budget)
            elif self.model is not None and self.model.version != model.version:
                self.level.swapped()
        self.model = model
        self._cold_start = None

    def extend(self, batch: Batch) -> Float64:
        """All rows of the batch with what their past adds to them, [n, width], as model and window take them.

        Wants every batch once, in order of arrival. Without a context it is the batch's values themselves.
        """
        if self._context is None:
            return batch.values
        return self._context.extend(batch.values, batch.keys, seconds(batch.timestamps))

    def score(self, batch: Batch, extended: Float64) -> Verdicts:
        """Verdicts on all rows; a row with nothing known is `unscored`, an extreme one is never normal."""
        missing: Bool = np.isnan(batch.values)
        known: Bool = np.logical_not(missing.all(axis=1))
        imputed: Bool = np.any(missing, axis=1)
        n = len(batch)
        self.distance = np.full((n, self._n_features), np.nan)
        self.sequence = batch.sequences()
        verdicts = Verdicts(
            status=np.full(n, Status.UNSCORED, np.uint8),
            score=np.full(n, np.nan),
            p_value=np.full(n, np.nan),
            is_anomaly=np.zeros(n, np.bool_),
            flagged=np.empty(0, np.int64),
            expected=np.empty((0, self._n_features)),
            attribution=np.empty((0, self._n_features)),
            imputed=imputed,
            model=None if self.model is None else self.model.version,
        )
        if self.model is not None:
            if known.any():
                self._judge(self.model, batch, extended, known, verdicts)
        else:
            verdicts.status[known] = Status.WARMING_UP
            if self._cold_start is not None:
                verdicts.score[known] = self._cold_start.score(batch.values[known])
        return verdicts

    def learnable(self, batch: Batch) -> Bool:
        """[n] rows that may enter the window: complete enough, and without values beyond float32."""
        share = np.isnan(batch.values).mean(axis=1)
        learnable: Bool = (share <= self._max_missing) & (share < 1.0) & ~batch.clipped
        return learnable

    def _judge(self, model: LoadedModel, batch: Batch, extended: Float64, known: Bool, verdicts: Verdicts) -> None:
        found = model.detector.judge(extended[known], self.sequence[known])
        verdicts.status[known] = Status.SCORED
        verdicts.p_value[known] = found.p_value
        verdicts.score[known] = found.score
        if self.level is not None:
            # The level is that of the rows before, so that no row moves its own threshold.
            self.stretch = self.level.stretch
            verdicts.score[known] *= self.stretch
            verdicts.score[batch.clipped & known] = np.maximum(1.0, verdicts.score[batch.clipped & known])
            self.level.observe(found.p_value, self.sequence[known])
        verdicts.is_anomaly[known] = verdicts.score[known] >= 1.0
        verdicts.flagged = np.flatnonzero(verdicts.is_anomaly)
        d = self._n_features
        if len(verdicts.flagged):
            describes = None if self._context is None else self._context.describes
            verdicts.expected, verdicts.attribution = model.detector.explain(extended[verdicts.flagged], describes)
        distance = np.abs(batch.values[known] - found.reconstruction[:, :d]) / model.detector.spread[:d]
        self.distance[known] = distance
        present = ~np.isnan(distance)
        self.residual = np.where(present, distance, 0.0).sum(axis=0) / np.maximum(1, present.sum(axis=0))


def seconds(timestamps: NDArray[np.int64]) -> Float64:
    """Milliseconds since the epoch [n] as seconds, `NO_TIMESTAMP` as NaN."""
    return np.where(timestamps == NO_TIMESTAMP, np.nan, timestamps / 1000.0)
