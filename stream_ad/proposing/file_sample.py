"""Some rows of a file, spread over all of it, read as the worker reads them."""

from __future__ import annotations

import time
from pathlib import Path

from stream_ad.config import FileSource
from stream_ad.proposing.dialect import find_dialect
from stream_ad.proposing.fields import MISSING_WORDS, NO_READING
from stream_ad.proposing.sample import PROGRESS_SECONDS, Progress, Sample
from stream_ad.records import RecordSchema
from stream_ad.transports import ConfigurationError
from stream_ad.transports.file import FileSource as FileReader
from stream_ad.transports.file import require_file

MOST_ROWS = 10_000
LONGEST_SECONDS = 15.0
ANY_WORD = tuple({*MISSING_WORDS, *(write(one) for one in NO_READING for write in (str, str.upper, str.capitalize))})
"""Which of them the configuration will need is found out from the rows."""


def sample_file(path: Path, progress: Progress) -> tuple[Sample, FileSource]:
    """Look at up to `MOST_ROWS` rows; return them with the settings to read the file by.

    Raises `ConfigurationError` for a file that is not there, is of another kind, or has nothing in it.
    """
    require_file(path)
    settings = FileSource(type="file", path=str(path))
    columns, repeated, thousands, unreadable = ["-"], list[str](), list[str](), list[str]()
    kind = path.name.removesuffix(".gz")
    if kind.endswith(".csv"):
        dialect = find_dialect(path)
        settings, thousands = dialect.settings, dialect.thousands
        repeated = repeated_in(dialect.names)
        columns = [name for name in dialect.numeric if "." not in name and name not in repeated] or dialect.numeric
    elif kind.endswith(".parquet"):
        names = parquet_columns(path)
        repeated = repeated_in(names)
        columns = [name for name in names if "." not in name and name not in repeated]
        unreadable = unreadable_columns(settings, columns)
        columns = [name for name in columns if name not in unreadable]
    values, total, whole = read_sample(settings, columns, progress)
    if not values:
        raise ConfigurationError(f"{path} has no row in it: there is nothing to look at")
    sample = Sample(f"file {path}", list(values), [0] * len(values), total)
    sample.repeated_columns, sample.thousands_columns = repeated, thousands
    if unreadable:
        sample.notes.append(f"damaged, or of a type that is not read, and left out: {', '.join(unreadable)}")
    if not whole:
        sample.notes.append(f"the file is long: its first {total} rows were read within {LONGEST_SECONDS:g} s")
    return sample, settings


def repeated_in(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def read_sample(settings: FileSource, columns: list[str], progress: Progress) -> tuple[list[bytes], int, bool]:
    """As `spread_rows`. Raises `ConfigurationError` for a file that is damaged."""
    reader = FileReader(settings, RecordSchema(list(dict.fromkeys(columns)), missing_words=ANY_WORD))
    try:
        reader.open()
        return spread_rows(reader, progress)
    finally:
        reader.close()


def unreadable_columns(settings: FileSource, columns: list[str]) -> list[str]:
    """Columns of a Parquet file that are damaged, or of a type that is not read, unless all are."""
    if not columns or can_be_read(settings, columns):
        return []
    found = [name for name in columns if not can_be_read(settings, [name])]
    return found if len(found) < len(columns) else []


def can_be_read(settings: FileSource, columns: list[str]) -> bool:
    """Whether the first rows can be."""
    reader = FileReader(settings, RecordSchema(columns))
    try:
        reader.open()
    except ConfigurationError:
        return False
    finally:
        reader.close()
    return True


def spread_rows(reader: FileReader, progress: Progress) -> tuple[list[bytes], int, bool]:
    """Rows at even distances, in order; how many were read; whether to the end."""
    kept: list[bytes] = []
    stride, read = 1, 0
    started = told = time.monotonic()
    while not reader.exhausted and time.monotonic() < started + LONGEST_SECONDS:
        values = [value for value in reader.poll(0.0).values if value is not None]
        kept += values[-read % stride :: stride]
        read += len(values)
        while len(kept) > MOST_ROWS:
            kept, stride = kept[::2], 2 * stride
        if time.monotonic() > told + PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"{read} rows read")
    return kept, read, reader.exhausted


def parquet_columns(path: Path) -> list[str]:
    """Raises `ConfigurationError` if it is no Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigurationError(f"{path} is no Parquet file: {error}") from error
