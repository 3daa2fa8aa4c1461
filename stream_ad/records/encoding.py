"""The output record of each row, as strict JSON in UTF-8."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson

from stream_ad.records.batch import Batch, Status, Verdicts
from stream_ad.records.schema import RecordSchema
from stream_ad.records.timestamps import format_timestamp

_STATUS = [status.name.lower() for status in Status]


def encode(batch: Batch, verdicts: Verdicts, schema: RecordSchema) -> list[bytes]:
    """Return one JSON object for each row of the batch, in its order.

    Rows with missing values name them in `imputed`; flagged rows add `expected` and `attribution` as well.
    What is not finite becomes null. A record key that is no UTF-8 is base64, and `key_encoding` says so.
    """
    if not len(batch):
        return []
    # Columns become texts in one go, then each row is put together: a third of the time of a dict a row.
    columns = zip(
        map(json_text, batch.ids),
        map(json_key, batch.keys),
        map(json_timestamp, batch.timestamps.tolist()),
        [_STATUS[status] for status in verdicts.status.tolist()],
        _numbers(verdicts.score),
        _numbers(verdicts.p_value),
        _numbers(verdicts.is_anomaly),
        _sources(batch),
        strict=True,
    )
    model = json_text(verdicts.model)
    outputs = [
        f'{{"schema_version":1,"id":{id_},"key":{key},"timestamp":{timestamp},"status":"{status}","score":{score},'
        f'"p_value":{p_value},"is_anomaly":{is_anomaly},"model":{model},"source":{source}}}'.encode()
        for id_, key, timestamp, status, score, p_value, is_anomaly, source in columns
    ]
    _add_findings(outputs, batch, verdicts, schema)
    return outputs


def _add_findings(outputs: list[bytes], batch: Batch, verdicts: Verdicts, schema: RecordSchema) -> None:
    """Put what only some rows have behind the rest, in place."""
    features = np.array(schema.features, object)
    position = {row: i for i, row in enumerate(verdicts.flagged.tolist())}
    imputed = np.flatnonzero(verdicts.imputed & (verdicts.status != Status.UNSCORED)).tolist()
    for row in sorted({*position, *imputed}):
        findings: dict[str, Any] = {}
        if row in position:
            found = position[row]
            findings["expected"] = dict(zip(features, verdicts.expected[found].tolist(), strict=True))
            findings["attribution"] = dict(zip(features, verdicts.attribution[found].tolist(), strict=True))
        findings["imputed"] = features[np.isnan(batch.values[row])].tolist()
        outputs[row] = outputs[row][:-1] + b"," + orjson.dumps(findings)[1:]


def _numbers(column: Any) -> list[str]:
    """JSON texts of a column of numbers or truth values; null for what is not finite."""
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")


def _sources(batch: Batch) -> list[str]:
    raw = batch.raw
    topics = {topic: json_text(topic) for topic in set(raw.topics)}
    return [
        f'{{"topic":{topics[raw.topics[record]]},"partition":{partition},"offset":{offset}}}'
        for record, partition, offset in zip(
            batch.record.tolist(),
            raw.partitions[batch.record].tolist(),
            raw.offsets[batch.record].tolist(),
            strict=True,
        )
    ]


def json_text(value: str | int | None) -> str:
    """A text or whole number as JSON, whatever is in it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        if isinstance(value, int):
            return str(value)  # More than 64 bits.
        # Half of a surrogate pair, which JSON can escape and UTF-8 cannot hold.
        return orjson.dumps(str(value).encode("utf-8", "replace").decode()).decode()


def json_key(key: bytes | None) -> str:
    """A record key as JSON; behind one that is no UTF-8 follows `key_encoding`."""
    if key is None:
        return "null"
    try:
        return orjson.dumps(key.decode()).decode()
    except UnicodeDecodeError:
        return f'"{base64.b64encode(key).decode()}","key_encoding":"base64"'


def json_timestamp(milliseconds: int) -> str:
    """ISO 8601 in UTC as JSON, null for `NO_TIMESTAMP`."""
    text = format_timestamp(milliseconds)
    return "null" if text is None else f'"{text}"'
