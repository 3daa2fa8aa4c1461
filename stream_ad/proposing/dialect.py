"""Finding out how a CSV file is written: what parts its columns, its numbers, its head."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from stream_ad.config import FileSource
from stream_ad.proposing.fields import MISSING_WORDS
from stream_ad.records.numbers import NotANumber, to_number
from stream_ad.transports import ConfigurationError
from stream_ad.transports.csv_rows import CsvReader

DELIMITERS = ",;\t|"
LINES = 300
LEAST_NUMERIC = 0.8
COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*", re.ASCII)
POINT_NUMBER = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*", re.ASCII)

Rows = list[list[str]]


def find_dialect(path: Path) -> tuple[FileSource, list[str], list[str]]:
    """The settings to read a CSV file by, all of its column names, and of those the columns of numbers.

    Raises `ConfigurationError` for a file without a header, without rows or without numbers.
    """
    lines = list(islice(first_lines(path), LINES))
    if not lines:
        raise ConfigurationError(f"{path} is empty: there is nothing to look at")
    tried = {delimiter: read_rows(lines, path, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda one: fit(tried[one], one))
    rows = tried[delimiter]
    cells = [cell for row in rows for cell in row]
    commas = sum(COMMA_NUMBER.fullmatch(cell) is not None for cell in cells)
    decimal_comma = delimiter != "," and commas > sum(POINT_NUMBER.fullmatch(cell) is not None for cell in cells)
    width = usual_width(rows)
    numeric = numeric_columns(rows, width, decimal_comma)
    if not numeric:
        raise ConfigurationError(
            f"{path}: no column of numbers is below its first lines. It begins\n    "
            + "\n    ".join(line.decode(errors="replace")[:100] for line in lines[:4])
        )
    first_data = next(i for i, row in enumerate(rows) if is_data(row, numeric, decimal_comma))
    header = find_header(rows, first_data, width, numeric, path)
    settings = FileSource(
        type="file",
        path=str(path),
        delimiter=delimiter,
        decimal_comma=decimal_comma,
        header_line=header + 1,
        skip_after_header=first_data - header - 1,
    )
    names = rows[header]
    return settings, names, [names[i] for i in numeric if i < len(names)]


def first_lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends and without a byte order mark."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file):
                if number == 0 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise ConfigurationError(f"{path} is UTF-16: save it as UTF-8")
                yield line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    except (OSError, EOFError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def read_rows(lines: list[bytes], path: Path, delimiter: str) -> Rows:
    reader = CsvReader(iter(lines), FileSource(type="file", path=str(path), delimiter=delimiter))
    return reader.peek(len(lines))


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
        there = [row[i] for row in below if row[i].strip() and row[i].strip() not in MISSING_WORDS]
        if there and sum(is_number(cell, comma) for cell in there) >= LEAST_NUMERIC * len(there):
            found.append(i)
    return found


def is_data(row: list[str], numeric: list[int], comma: bool) -> bool:
    """Whether most of what a row has in the columns of numbers is a number."""
    there = [row[i] for i in numeric if i < len(row) and row[i].strip() and row[i].strip() not in MISSING_WORDS]
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
