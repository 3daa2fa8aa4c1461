"""Raw vectors: little-endian float32, one or many rows a record."""

from __future__ import annotations

import numpy as np

from stream_ad.records.batch import BadRecord, Batch, Decoded, RawBatch, Reason
from stream_ad.records.numbers import clip
from stream_ad.records.schema import RecordSchema


class Float32Decoder:
    """Decodes whole polls by joining the values of all records of the right length."""

    def __init__(self, schema: RecordSchema) -> None:
        self._width = 4 * len(schema.features)
        # As float32 a reading of -99.9 is another number than as float64.
        self._sentinels = tuple(float(np.float32(value)) for value in schema.missing_values)

    def decode(self, raw: RawBatch) -> Decoded:
        """Columns of all rows; records whose length is no whole number of rows are bad."""
        good: list[int] = []
        bad: list[BadRecord] = []
        tombstones = 0
        for i, value in enumerate(raw.values):
            if value is None:
                tombstones += 1
            elif not value or len(value) % self._width:
                message = f"{len(value)} bytes are no whole number of rows of {self._width // 4} float32 numbers"
                bad.append(BadRecord(i, Reason.WRONG_LENGTH, message))
            else:
                good.append(i)
        joined = b"".join(raw.values[i] or b"" for i in good)
        values = np.frombuffer(joined, "<f4").reshape(-1, self._width // 4).astype(np.float64)
        clipped = clip(values, self._sentinels)
        rows_each = np.array([len(raw.values[i] or b"") // self._width for i in good], np.int64)
        record = np.repeat(np.array(good, np.int64), rows_each)
        row = np.concatenate([np.arange(n) if n > 1 else [-1] for n in rows_each.tolist()] or [[]]).astype(np.int64)
        numbers, rows = record.tolist(), row.tolist()
        batch = Batch(
            raw=raw,
            values=values,
            record=record,
            row=row,
            ids=[row_id(raw, i, number) for i, number in zip(numbers, rows, strict=True)],
            keys=[raw.keys[i] for i in numbers],
            timestamps=raw.timestamps[record],
            clipped=clipped,
        )
        return Decoded(batch, bad, tombstones)

    def unknown_fields(self, raw: RawBatch) -> set[str]:
        """None: a vector has no names."""
        return set()


def row_id(raw: RawBatch, record: int, row: int) -> str:
    """`topic-partition-offset`, with the row number behind it where a record holds several rows."""
    name = f"{raw.topics[record]}-{raw.partitions[record]}-{raw.offsets[record]}"
    return name if row < 0 else f"{name}-{row}"
