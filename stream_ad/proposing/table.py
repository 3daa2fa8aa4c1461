"""From record values to columns, by the rules of the worker's own decoders."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stream_ad.proposing.encoding import is_printable, is_utf16
from stream_ad.proposing.sample import Sample
from stream_ad.records.json_codec import BadRow, parse
from stream_ad.transports import ConfigurationError

DEEPEST = 8
MOST_CELLS = 3_000_000
"""Rows times fields that are looked at; of wide records fewer rows."""
MOST_FIELDS = 20_000
LEAST_SHARE = 0.5
"""A format that reads fewer of the records is hardly theirs."""
LEAST_JSON = 0.05
"""Where nothing else fits, so many readable records are taken for what was meant."""
CERTAIN_SHARE = 0.99
PLAUSIBLE = (1e-9, 1e9)
"""Sizes of what sensors send; random bytes read as float32 lie outside three times in four."""

Path = tuple[str, ...]


@dataclass(slots=True)
class Column:
    """The values of one field, where it is there."""

    rows: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """Rows of a sample by field, fields in the order in which they first appear."""

    format: Literal["json", "float32"]
    columns: dict[Path, Column]
    groups: list[Hashable]
    """One for each row."""
    records: int
    """Records that were looked at, tombstones and unreadable ones included."""
    unreadable: int = 0
    first_unreadable: str = ""
    tombstones: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.groups)

    @property
    def rows_per_record(self) -> float:
        return self.rows / max(1, self.records)


def read_table(sample: Sample) -> Table:
    """Find the format of the records and read them.

    Raises `ConfigurationError` if they are neither JSON objects nor float32 vectors.
    """
    values = [value for value in sample.values if value is not None]
    if not values:
        raise ConfigurationError(f"{sample.name}: all of the {len(sample.values)} records looked at have no value")
    table = _json_table(sample)
    table.tombstones = len(sample.values) - len(values)
    readable = len(values) - table.unreadable
    if readable >= LEAST_SHARE * len(values):
        return table
    vectors = _float32_table(sample)
    if vectors is None and readable >= LEAST_JSON * len(values):
        return table
    if vectors is None:
        raise ConfigurationError(
            f"{sample.name}: {table.unreadable} of {len(values)} records are no JSON objects, and no float32 vectors "
            f"either. {_what_it_may_be(values)} The first: {table.first_unreadable}"
        )
    vectors.tombstones = table.tombstones
    return vectors


def _json_table(sample: Sample) -> Table:
    table = Table("json", {}, [], 0)
    cells = 0
    for value, group in zip(sample.values, sample.groups, strict=True):
        if cells > MOST_CELLS:
            table.notes.append(f"the records are wide: the first {table.records} of the sample were looked at")
            break
        table.records += 1
        if value is None:
            continue
        objects, problem = _objects(value)
        if problem:
            table.unreadable += 1
            table.first_unreadable = table.first_unreadable or problem
        for one in objects:
            cells += _add(table.columns, one, (), len(table.groups))
            table.groups.append(group)
    if len(table.columns) >= MOST_FIELDS:
        table.notes.append(f"more than {MOST_FIELDS} different fields: only these were looked at")
    return table


def _objects(value: bytes) -> tuple[list[dict[str, Any]], str]:
    """The rows of one record, and what is wrong with it."""
    try:
        found = parse(value)
    except BadRow as error:
        return [], str(error)
    rows = found if isinstance(found, list) and found else [found]
    objects = [row for row in rows if isinstance(row, dict)]
    if len(objects) < len(rows):
        kind = "an array of plain values" if isinstance(found, list) else f"a plain {type(found).__name__}"
        return objects, f"{kind} where a JSON object, or an array of objects, is needed"
    return objects, ""


def _add(columns: dict[Path, Column], row: dict[str, Any], parents: Path, number: int) -> int:
    """Add the fields of a row, those of nested objects by their path; return how many."""
    added = 0
    for name, value in row.items():
        path = (*parents, name)
        if isinstance(value, dict) and value and len(path) < DEEPEST:
            added += _add(columns, value, path, number)
            continue
        if path not in columns:
            if len(columns) >= MOST_FIELDS:
                continue
            columns[path] = Column()
        columns[path].rows.append(number)
        columns[path].values.append(value)
        added += 1
    return added


def _float32_table(sample: Sample) -> Table | None:
    """Records as float32 vectors, None if that is not what they are."""
    lengths = Counter(len(value) for value in sample.values if value)
    fitting = Counter({length: count for length, count in lengths.items() if length % 4 == 0})
    usual = {length: count for length, count in fitting.items() if count >= 0.01 * lengths.total()}
    if not usual or sum(usual.values()) < LEAST_SHARE * lengths.total():
        return None
    width = gcd(*usual) // 4
    rows, groups, unreadable = [], [], 0
    for value, group in zip(sample.values, sample.groups, strict=True):
        if value is None:
            continue
        if not value or len(value) % (4 * width):
            unreadable += 1
            continue
        vectors = np.frombuffer(value, "<f4").reshape(-1, width)
        rows.append(vectors)
        groups += [group] * len(vectors)
    x = np.concatenate(rows).astype(np.float64)
    if _printable(sample.values) or plausible_share(x) < CERTAIN_SHARE:
        return None
    columns: dict[Path, Column] = {
        (f"f{i:0{len(str(width - 1))}d}",): Column(list(range(len(x))), column.tolist()) for i, column in enumerate(x.T)
    }
    problem = f"its length is no multiple of {4 * width} bytes" if unreadable else ""
    table = Table("float32", columns, groups, len(sample.values), unreadable, problem)
    if len(usual) == 1:
        note = (
            f"every record has {4 * width} bytes: taken for one row of {width} float32 numbers; should it hold "
            "several rows, list only the features of one"
        )
    else:
        note = (
            f"records have {', '.join(map(str, sorted(usual)[:5]))} bytes: taken for rows of {width} float32 numbers, "
            "the largest width that fits them all, several rows a record"
        )
    table.notes.append(note)
    return table


def plausible_share(x: NDArray[np.float64]) -> float:
    """Share of numbers that are zero, missing (NaN) or of a size that sensors send."""
    size = np.abs(x)
    return float(((size == 0.0) | np.isnan(size) | ((size > PLAUSIBLE[0]) & (size < PLAUSIBLE[1]))).mean())


def _printable(values: list[bytes | None]) -> bool:
    """Whether the records are mostly ASCII text."""
    return is_printable(b"".join(value or b"" for value in values[:200]))


def _what_it_may_be(values: list[bytes]) -> str:
    if is_utf16(b"".join(values[:200])):
        return "They look like UTF-16: save or send them as UTF-8."
    for name, kind in (("big-endian float32", ">f4"), ("little-endian float64", "<f8"), ("big-endian float64", ">f8")):
        size = np.dtype(kind).itemsize
        whole = [np.frombuffer(value, kind) for value in values if value and len(value) % size == 0]
        if len(whole) < LEAST_SHARE * len(values) or _printable(list(values)):
            continue
        if plausible_share(np.concatenate(whole).astype(np.float64)) >= CERTAIN_SHARE:
            return f"They look like {name}: send little-endian float32, or JSON."
    framed = sum(value[:1] == b"\0" and len(value) > 5 for value in values)
    if framed > LEAST_SHARE * len(values):
        number = Counter(struct.unpack(">I", value[1:5])[0] for value in values if len(value) > 5).most_common(1)[0][0]
        return (
            f"They begin with a zero byte and the number {number}, as a schema registry's Avro, Protobuf or JSON "
            "Schema serialisers write: let the producer, or a stream processor between, send plain JSON."
        )
    if _printable(list(values)):
        return "They are texts of another kind: send a JSON object a record."
    return "Send a JSON object a record, or little-endian float32 vectors."
