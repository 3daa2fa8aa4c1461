"""From raw records to columns."""

from __future__ import annotations

from typing import Protocol

from stream_ad.records.batch import Decoded, RawBatch
from stream_ad.records.float32_codec import Float32Decoder
from stream_ad.records.json_codec import JsonDecoder
from stream_ad.records.schema import RecordSchema


class Decoder(Protocol):
    """One wire format."""

    def decode(self, raw: RawBatch) -> Decoded: ...

    def unknown_fields(self, raw: RawBatch) -> set[str]:
        """Names of fields in the poll's last record that the schema does not know."""


def make_decoder(schema: RecordSchema) -> Decoder:
    """The decoder of `schema.format`.

    >>> import numpy as np
    >>> value = b'{"flow": 1.5, "pump": {"current": null}}'
    >>> raw = RawBatch([value], [None], [[]], np.array([0]), ["plant"], np.array([0], np.int32), np.array([7]))
    >>> batch = make_decoder(RecordSchema(["flow", "pump.current"])).decode(raw).batch
    >>> batch.values, batch.ids
    (array([[1.5, nan]]), ['plant-0-7'])
    """
    return JsonDecoder(schema) if schema.format == "json" else Float32Decoder(schema)
