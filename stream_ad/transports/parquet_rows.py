"""Rows of a Parquet file as JSON objects, a part of a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from stream_ad.records import format_timestamp
from stream_ad.transports.base import ConfigurationError

ROWS_AT_ONCE = 5000


def parquet_records(path: Path, wanted: list[str], optional: list[str]) -> Iterator[bytes]:
    """Records of a Parquet file: the columns `wanted`, and of the `optional` those that are there.

    Raises `ConfigurationError` if it is no Parquet file, lacks a wanted column or has one twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error
    names = file.schema_arrow.names
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        places = " and ".join(str(i + 1) for i, name in enumerate(names) if name == twice[0])
        raise ConfigurationError(f"{path}: column {twice[0]} appears twice, at {places}: rename one")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigurationError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    columns = [name for name in dict.fromkeys([*wanted, *optional]) if name in names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
        for row in pyarrow.table({name: whole_milliseconds(batch.column(name)) for name in columns}).to_pylist():
            # By the standard library: it writes Infinity, where orjson would write null.
            yield json.dumps(row, default=as_json).encode()


def whole_milliseconds(column: Any) -> Any:
    """Moments as the texts of output records, other columns as they are.

    Python's own times know no nanoseconds and no year 10000. A moment without a zone stays without one.
    """
    import pyarrow

    if not pyarrow.types.is_timestamp(column.type):
        return column
    stamps = column.cast(pyarrow.timestamp("ms", column.type.tz), safe=False).cast(pyarrow.int64()).to_pylist()
    texts = [None if stamp is None else format_timestamp(stamp) for stamp in stamps]
    if column.type.tz is None:
        texts = [None if text is None else text.removesuffix("Z") for text in texts]
    return pyarrow.array(texts, pyarrow.string())


def as_json(value: Any) -> Any:
    """What JSON has no type for: decimals as texts, moments as ISO 8601 in UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, Decimal | date):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
