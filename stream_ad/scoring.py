"""From a batch to its verdicts: the detector, or the cold start before there is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning import ColdStart, LoadedModel
from stream_ad.records import Batch, RecordSchema, Status, Verdicts

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


class Scorer:
    """Scores whole batches with the model that is live now."""

    def __init__(self, schema: RecordSchema, cold_start: ColdStart | None) -> None:
        self.model: LoadedModel | None = None
        self.residual: Float64 = np.zeros(len(schema.features))
        """[d] mean distance of the last batch's rows from their reconstruction, in spreads of the feature."""
        self._n_features = len(schema.features)
        self._max_missing = schema.max_missing
        self._cold_start = cold_start

    @property
    def ready(self) -> bool:
        """Whether rows get a score: from a model or from the cold start."""
        return self.model is not None or self._cold_start is not None

    def swap(self, model: LoadedModel) -> None:
        """Use another model from the next batch on."""
        self.model = model
        self._cold_start = None

    def score(self, batch: Batch) -> Verdicts:
        """Verdicts on all rows; a row with nothing known is `unscored`, an extreme one is never normal."""
        missing: Bool = np.isnan(batch.values)
        known: Bool = np.logical_not(missing.all(axis=1))
        imputed: Bool = np.any(missing, axis=1)
        n = len(batch)
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
            self._judge(self.model, batch, known, verdicts)
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

    def _judge(self, model: LoadedModel, batch: Batch, known: Bool, verdicts: Verdicts) -> None:
        rows = batch.values[known]
        found = model.detector.judge(rows)
        verdicts.status[known] = Status.SCORED
        verdicts.score[known] = found.score
        verdicts.p_value[known] = found.p_value
        verdicts.is_anomaly[known] = found.score >= 1.0
        verdicts.flagged = np.flatnonzero(verdicts.is_anomaly)
        verdicts.expected, verdicts.attribution = model.detector.explain(batch.values[verdicts.flagged])
        if len(rows):
            distance = np.abs(rows - found.reconstruction) / model.detector.spread
            present = ~np.isnan(distance)
            self.residual = np.where(present, distance, 0.0).sum(axis=0) / np.maximum(1, present.sum(axis=0))
