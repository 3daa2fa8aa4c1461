"""From verdicts to output records: strict JSON, UTF-8."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson

from stream_ad.records.batch import Batch, Status, Verdicts
from stream_ad.records.schema import RecordSchema
from stream_ad.records.timestamps import format_timestamp

SCHEMA_VERSION = 1


def encode(batch: Batch, verdicts: Verdicts, schema: RecordSchema) -> list[bytes]:
    """One JSON object a row. Flagged rows say what was expected, which features are to blame and which were
    imputed."""
    statuses = [status.name.lower() for status in Status]
    record = batch.record.tolist()
    raw = batch.raw
    partitions, offsets = raw.partitions.tolist(), raw.offsets.tolist()
    last_stamp, last_text = None, None
    details = dict(zip(verdicts.flagged.tolist(), range(len(verdicts.flagged)), strict=True))
    encoded: list[bytes] = []
    for i, (number, id_, key, stamp, status, score, p_value) in enumerate(
        zip(
            record,
            batch.ids,
            batch.keys,
            batch.timestamps.tolist(),
            verdicts.status.tolist(),
            verdicts.score.tolist(),
            verdicts.p_value.tolist(),
            strict=True,
        )
    ):
        if stamp != last_stamp:
            last_stamp, last_text = stamp, format_timestamp(stamp)
        output: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "id": id_,
            "key": None,
            "timestamp": last_text,
            "status": statuses[status],
            "score": score,
            "p_value": p_value,
            "is_anomaly": i in details,
            "model": verdicts.model,
            "source": {
                "topic": raw.topics[number],
                "partition": partitions[number],
                "offset": offsets[number],
            },
        }
        if key is not None:
            add_key(output, key)
        if i in details:
            add_details(output, batch, verdicts, i, details[i], schema)
        encoded.append(dump(output))
    return encoded


def add_key(output: dict[str, Any], key: bytes) -> None:
    """The key as text, or as base64 with a mark if it is no UTF-8."""
    try:
        output["key"] = key.decode()
    except UnicodeDecodeError:
        output["key"] = base64.b64encode(key).decode()
        output["key_encoding"] = "base64"


def add_details(
    output: dict[str, Any], batch: Batch, verdicts: Verdicts, row: int, flagged: int, schema: RecordSchema
) -> None:
    names = schema.features
    output["expected"] = dict(zip(names, verdicts.expected[flagged].tolist(), strict=True))
    output["attribution"] = dict(zip(names, verdicts.attribution[flagged].round(6).tolist(), strict=True))
    output["imputed"] = [names[j] for j in np.flatnonzero(np.isnan(batch.values[row])).tolist()]


def dump(output: dict[str, Any]) -> bytes:
    """orjson writes null for NaN and infinity; it refuses whole numbers of more than 64 bits, which ids may be."""
    try:
        return orjson.dumps(output)
    except TypeError:
        mark = "\0id\0"
        text = orjson.dumps(output | {"id": mark})
        return text.replace(orjson.dumps(mark), str(output["id"]).encode(), 1)
