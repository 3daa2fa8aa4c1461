"""Finding out how a CSV file is written: what parts its columns, its numbers, its head."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stream_ad.config import FileSource
from stream_ad.proposing.encoding import is_utf16
from stream_ad.proposing.fields import MISSING_WORDS, NO_READING
from stream_ad.proposing.thousands import HOW_TO_MEND, thousands_columns
from stream_ad.records.numbers import NotANumber, to_number
from stream_ad.transports import ConfigurationError
from stream_ad.transports.csv_rows import CsvReader

DELIMITERS = ",;\t|"
LINES = 300
LEAST_NUMERIC = 0.8
COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*", re.ASCII)
POINT_NUMBER = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*", re.ASCII)

Rows = list[list[str]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is to be read."""

    settings: FileSource
    names: list[str]
    """Of all columns."""
    numeric: list[str]
    """Those of the columns of numbers that can be read."""
    thousands: list[str]
    """Those of the columns whose numbers have separators of thousands."""


def find_dialect(path: Path) -> Dialect:
    """Raises `ConfigurationError` for a file without a header, without rows or without numbers."""
    lines = list(islice(first_lines(path), LINES))
    if not lines:
        raise ConfigurationError(f"{path} is empty: there is nothing to look at")
    tried = {delimiter: read_rows(lines, path, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda one: fit(tried[one][0], one))
    rows, places = tried[delimiter]
    width = usual_width(rows)
    thousands = thousands_columns(list(zip(*(row for row in rows if len(row) == width), strict=True)))
    decimal_comma = delimiter != "," and has_decimal_commas(rows, thousands)
    commas = decimal_comma or bool(thousands)
    numeric = numeric_columns(rows, width, commas)
    if not numeric:
        raise ConfigurationError(
            f"{path}: no column of numbers is below its first lines. It begins\n    "
            + "\n    ".join(line.decode(errors="replace")[:100] for line in lines[:4])
        )
    first_data = find_data(rows, numeric, commas)
    header = find_header(rows, first_data, width, numeric, path)
    settings = FileSource(
        type="file",
        path=str(path),
        delimiter=delimiter,
        decimal_comma=decimal_comma,
        header_line=places[header][0],
        skip_after_header=places[first_data][0] - places[header][1] - 1,
    )
    names = [name.strip() for name in rows[header]]
    readable = [names[i] for i in numeric if i < len(names) and i not in thousands]
    if not readable:
        raise ConfigurationError(
            f"{path}: no column of numbers can be read: {names[numeric[0]]} seems to have thousands separators, as in "
            f"{rows[first_data][numeric[0]]}, which {HOW_TO_MEND}"
        )
    return Dialect(settings, names, readable, [names[i] for i in sorted(thousands) if i < len(names)])


def first_lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends and without a byte order mark."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file):
                if number == 0 and is_utf16(line):
                    raise ConfigurationError(f"{path} is UTF-16: save it as UTF-8")
                yield line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def read_rows(lines: list[bytes], path: Path, delimiter: str) -> tuple[Rows, list[tuple[int, int]]]:
    """Rows, and for each the numbers of its first and its last line."""
    reader = CsvReader(iter(lines), FileSource(type="file", path=str(path), delimiter=delimiter))
    rows, places = [], []
    while row := reader.next_row():
        rows.append(row)
        places.append(reader.row_lines)
    return rows, places


def usual_width(rows: Rows) -> int:
    return Counter(map(len, rows)).most_common(1)[0][0] if rows else 0


def fit(rows: Rows, delimiter: str) -> tuple[float, int]:
    """How well a delimiter parts rows into numbers, all rows into as many."""
    width = usual_width(rows)
    usual = [row for row in rows if len(row) == width]
    cells = [cell for row in usual for cell in row]
    numbers = sum(is_number(cell, delimiter != ",") for cell in cells)
    return (numbers / max(1, len(cells)) * len(usual) / max(1, len(rows)), width)


def is_number(cell: str, comma: bool) -> bool:
    """Whether a cell is a number; a missing one is none."""
    if comma and COMMA_NUMBER.fullmatch(cell):
        return True
    try:
        number = to_number(cell, MISSING_WORDS)
    except NotANumber:
        return False
    return number == number


def numeric_columns(rows: Rows, width: int, comma: bool) -> list[int]:
    """Columns in whose lower half most of what is there is a number."""
    usual = [row for row in rows if len(row) == width]
    below = usual[len(usual) // 2 :]
    found = []
    for i in range(width):
        there = [row[i] for row in below if not is_missing(row[i])]
        if there and sum(is_number(cell, comma) for cell in there) >= LEAST_NUMERIC * len(there):
            found.append(i)
    return found


def has_decimal_commas(rows: Rows, thousands: set[int]) -> bool:
    """Whether more cells are numbers with a decimal comma than with a decimal point."""
    cells = [cell for row in rows for i, cell in enumerate(row) if i not in thousands]
    commas = sum(COMMA_NUMBER.fullmatch(cell) is not None for cell in cells)
    return commas > sum(POINT_NUMBER.fullmatch(cell) is not None for cell in cells)


def find_data(rows: Rows, numeric: list[int], comma: bool) -> int:
    """The first row of data; a logger's first rows may come before its sensors' first readings."""
    first = next(i for i, row in enumerate(rows) if is_data(row, numeric, comma))
    while first > 0 and is_without_readings(rows[first - 1], rows[first], numeric):
        first -= 1
    return first


def is_missing(cell: str) -> bool:
    return not cell.strip() or cell.strip() in MISSING_WORDS or cell.strip().lower() in NO_READING


def is_without_readings(row: list[str], below: list[str], numeric: list[int]) -> bool:
    """Whether a row has what the one below it has, a time or a name, and only the readings are missing."""
    if len(row) != len(below) or not all(is_missing(row[i]) for i in numeric if i < len(row)):
        return False
    return all(is_missing(cell) or shape(cell) == shape(other) for cell, other in zip(row, below, strict=True))


def shape(cell: str) -> str:
    """A text with its numbers and words made one: two times have the same, a time and its unit have not.

    >>> shape("2031-03-04 09:00"), shape("pump 7"), shape("pump"), shape("sec")
    ('0-0-0 0:0', 'a 0', 'a', 'a')
    """
    return re.sub(r"[^\W\d]+", "a", re.sub(r"\d+([.,]\d+)?", "0", cell.strip()))


def is_data(row: list[str], numeric: list[int], comma: bool) -> bool:
    """Whether most of what a row has in the columns of numbers is a number."""
    there = [row[i] for i in numeric if i < len(row) and not is_missing(row[i])]
    return sum(is_number(cell, comma) for cell in there) > 0.5 * len(there)


def find_header(rows: Rows, first_data: int, width: int, numeric: list[int], path: Path) -> int:
    """The first line above the data that has a name, and no number, for each column of numbers."""
    # Rows may end in a delimiter where the header does not.
    widths = {width, width - all(not row[-1] for row in rows[first_data:] if len(row) == width)}
    above = [(i, row) for i, row in enumerate(rows[:first_data]) if len(row) in widths]
    counted = [str(i) for i in range(width)]
    if not above and rows[0] == counted:
        return 0
    for i, row in above:
        found = [row[j].strip() for j in numeric if j < len(row)]
        if all(found) and not any(is_number(name, False) for name in found):
            return i
    if above:
        return above[-1][0]
    raise ConfigurationError(
        f"{path} has no line with the names of its {width} columns above the data, which begins\n"
        f"    {rows[first_data]}\nWrite one: the configuration calls columns by name."
    )
