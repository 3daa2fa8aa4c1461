"""Fields that a producer renames: seen when one feature goes missing and an unknown field comes with it."""

from __future__ import annotations

import logging

import numpy as np

from stream_ad.records.batch import Batch
from stream_ad.records.decoder import Decoder
from stream_ad.records.schema import RecordSchema

log = logging.getLogger("stream_ad.records")

LEAST_ROWS = 5
"""Rows in a batch that must lack a feature before it counts as gone."""


class FieldDrift:
    """Says once for each pair that a feature is missing in a run of rows while an unknown field has appeared.

    Looks at one record a batch, and only when a feature's column has turned empty.
    """

    def __init__(self, schema: RecordSchema, decoder: Decoder) -> None:
        self._schema = schema
        self._decoder = decoder
        self._told: set[tuple[str, str]] = set()

    def observe(self, batch: Batch) -> None:
        """Look at one decoded batch."""
        run = np.isnan(batch.values[-LEAST_ROWS:])
        if len(run) < LEAST_ROWS or not (gone := np.flatnonzero(run.all(axis=0))).size:
            return
        for feature in (self._schema.features[i] for i in gone.tolist()):
            for field in self._decoder.unknown_fields(batch.raw):
                if (feature, field) not in self._told:
                    self._told.add((feature, field))
                    log.warning(
                        "feature %s is missing in a run of rows while the unknown field %s is there: renamed by a "
                        "producer? If so, name it in schema.features and train anew",
                        feature,
                        field,
                    )
