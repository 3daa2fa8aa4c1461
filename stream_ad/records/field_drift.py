"""Fields that a producer renames: seen when one feature goes missing and an unknown field comes with it."""

from __future__ import annotations

import logging

import numpy as np

from stream_ad.records.batch import Batch
from stream_ad.records.decoder import Decoder
from stream_ad.records.schema import RecordSchema

log = logging.getLogger("stream_ad.records")

RUN_ROWS = 5
"""Rows in a row that must lack a feature before it counts as gone."""


class FieldDrift:
    """Says once for each pair that a feature is missing in a run of rows while an unknown field has appeared.

    Parses one record a batch. Does not see a new field whose old one stays.
    """

    def __init__(self, schema: RecordSchema, decoder: Decoder) -> None:
        self._schema = schema
        self._decoder = decoder
        self._run = np.zeros(len(schema.features), np.int64)
        self._usual: set[str] = set()
        self._told: set[tuple[str, str]] = set()

    def observe(self, batch: Batch) -> None:
        """Look at one decoded batch."""
        if not len(batch):
            return
        missing = np.isnan(batch.values)
        present_from_end = np.argmax(~missing[::-1], axis=0)
        self._run = np.where(missing.all(axis=0), self._run + len(batch), present_from_end)
        gone = np.flatnonzero(self._run >= RUN_ROWS).tolist()
        fields = self._decoder.unknown_fields(batch.raw)
        if not (self._run > 0).any():
            self._usual = fields
        for feature in (self._schema.features[i] for i in gone):
            for field in sorted(fields - self._usual):
                self._tell(feature, field)

    def _tell(self, feature: str, field: str) -> None:
        if (feature, field) in self._told:
            return
        self._told.add((feature, field))
        log.warning(
            "feature %s is missing in a run of rows while the unknown field %s has appeared: renamed by a producer? "
            "If so, name it in schema.features and train anew",
            feature,
            field,
        )
