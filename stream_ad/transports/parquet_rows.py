"""Rows of a Parquet file as JSON objects, a part of a row group at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stream_ad.records import RecordSchema, format_timestamp
from stream_ad.transports.base import ConfigurationError
from stream_ad.transports.columns import check_repeated, needed_columns, optional_columns, warn_of_missing

ROWS_AT_ONCE = 5000


def parquet_records(path: Path, schema: RecordSchema) -> Iterator[bytes]:
    """Records of a Parquet file: the columns that the schema calls for.

    Raises `ConfigurationError` if it is no Parquet file, is damaged, lacks a feature or has a column twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error
    names = file.schema_arrow.names
    check_repeated(path, names, schema)
    wanted = needed_columns(schema)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigurationError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    warn_of_missing(path, names, schema)
    columns = [name for name in dict.fromkeys([*wanted, *optional_columns(schema)]) if name in names]
    try:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
            table = pyarrow.table({name: times_as_texts(batch.column(name)) for name in columns})
            for row in table.to_pylist():
                # By the standard library: it writes Infinity, where orjson would write null.
                yield json.dumps(row, default=as_json).encode()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def times_as_texts(column: Any) -> Any:
    """A column with all times in it as texts: Python's own know no nanoseconds and no year 10000.

    Moments are as in output records; one without a zone stays without one.
    """
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pyarrow.types.is_timestamp(column.type):
        kind = texts_for_times(column.type)
        return column if kind == column.type else column.cast(kind)
    stamps = column.cast(pyarrow.timestamp("ms", column.type.tz), safe=False).cast(pyarrow.int64()).to_pylist()
    texts = [None if stamp is None else format_timestamp(stamp) for stamp in stamps]
    if column.type.tz is None:
        texts = [None if text is None else text.removesuffix("Z") for text in texts]
    return pyarrow.array(texts, pyarrow.string())


def texts_for_times(kind: Any) -> Any:
    """An Arrow type with texts where it has times, however deep; a duration becomes the number of its units."""
    import pyarrow
    from pyarrow import types

    def inside(field: Any) -> Any:
        return field.with_type(texts_for_times(field.type))

    if types.is_temporal(kind):
        return pyarrow.string()
    if types.is_dictionary(kind):
        return texts_for_times(kind.value_type)
    if types.is_struct(kind):
        return pyarrow.struct([inside(field) for field in kind])
    if types.is_map(kind):
        return pyarrow.map_(*map(inside, (kind.key_field, kind.item_field)))
    if types.is_large_list(kind):
        return pyarrow.large_list(inside(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(inside(kind.value_field), kind.list_size)
    if types.is_list(kind):
        return pyarrow.list_(inside(kind.value_field))
    return kind


def as_json(value: Any) -> str:
    """What JSON has no type for as text: decimals, bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
