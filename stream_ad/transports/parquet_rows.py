"""Rows of a Parquet file as JSON objects, a part of a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from stream_ad.transports.base import ConfigurationError

ROWS_AT_ONCE = 5000


def parquet_records(path: Path, wanted: list[str]) -> Iterator[bytes]:
    """Records of a Parquet file. Raises `ConfigurationError` if it is none or lacks a wanted column."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error
    names = file.schema_arrow.names
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigurationError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            # By the standard library: it writes Infinity, where orjson would write null.
            yield json.dumps(row, default=as_json).encode()


def as_json(value: Any) -> Any:
    """What JSON has no type for: decimals as texts, moments as ISO 8601 in UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, Decimal | date):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
