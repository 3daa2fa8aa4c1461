"""CSV rows as JSON objects of texts, by column name."""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from stream_ad import config
from stream_ad.records import RecordSchema
from stream_ad.records.numbers import NotANumber, to_number
from stream_ad.transports.base import ConfigurationError

log = logging.getLogger("stream_ad.file")

SHOWN_LINES = 6
END = bytes(bytearray(b"end"))  # Told from a line by identity.


def csv_records(lines: Iterator[bytes | None], settings: config.FileSource, schema: RecordSchema) -> Iterator[Any]:
    """Records of a CSV file, its header read and checked at the first one. None where nothing is there yet.

    Raises `ConfigurationError` for a header, or a first row, that says the file is of another dialect.
    """
    reader = CsvReader(lines, settings)
    above: list[list[str]] = []
    while len(above) < settings.header_line:
        row = reader.next_row()
        if row is None:
            return  # an empty file
        if row == []:
            yield None
            continue
        above.append(row)
    names = above[-1]
    reader.width = len(names)
    shown = [*above, *reader.peek(SHOWN_LINES)]
    check_header(names, shown, settings, schema)
    skipped = 0
    first = True
    features = set(schema.features)
    while (row := reader.next_row()) is not None:
        if row == []:
            yield None
        elif skipped < settings.skip_after_header:
            skipped += 1
        elif len(row) != len(names) and not (len(row) > len(names) and not any(row[len(names) :])):
            # Not an object: the decoder will refuse it, with the row itself in the dead letter.
            yield orjson.dumps(row)
        else:
            record = dict(zip(names, row, strict=False))  # Empty cells behind the last column are dropped.
            if settings.decimal_comma:
                record |= {name: record[name].replace(",", ".") for name in features & record.keys()}
            if first:
                check_first_row(record, settings, schema)
                first = False
            yield orjson.dumps(record)


class CsvReader:
    """Rows of texts from lines of bytes; quoted cells may hold line ends.

    A quote that is never closed would swallow the rest of the file: it costs its own line and no other.
    """

    def __init__(self, lines: Iterator[bytes | None], settings: config.FileSource) -> None:
        self._ahead: list[list[str]] = []
        self._again: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._waiting = False
        self._ended = False
        self.width = 0
        """Cells of the header, once it is known."""
        self._lines = lines
        self._rows = csv.reader(self, delimiter=settings.delimiter)

    def next_row(self) -> list[str] | None:
        """The next row; [] if none is there yet, None at the end."""
        return self._ahead.pop(0) if self._ahead else self._read()

    def peek(self, count: int) -> list[list[str]]:
        """Up to `count` rows that will come next."""
        while len(self._ahead) < count and (row := self._read()):
            self._ahead.append(row)
        return self._ahead[:count]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line for the csv module, which asks for more while a quote is open."""
        line = self._again.popleft() if self._again else next(self._lines, END)
        self._waiting, self._ended = line is None, line is END
        if line is None or line is END:
            raise StopIteration
        self._taken.append(line)
        return line.decode(errors="replace") + "\n"

    def _read(self) -> list[str] | None:
        while True:
            self._taken, self._waiting, self._ended = [], False, False
            try:
                row = next(self._rows)
            except StopIteration:
                return [] if self._waiting else None
            except csv.Error:  # A quoted cell beyond all measure: a quote that is not closed.
                return self._only_first_line()
            if self._waiting:  # The quote may be closed by what is still to come.
                self._again.extendleft(reversed(self._taken))
                return []
            if len(self._taken) > 1 and (self._ended or (self.width and len(row) != self.width)):
                return self._only_first_line()
            if row:
                return row

    def _only_first_line(self) -> list[str]:
        line, *rest = self._taken
        self._again.extendleft(reversed(rest))
        return [line.decode(errors="replace")]


def check_header(names: list[str], shown: list[list[str]], settings: config.FileSource, schema: RecordSchema) -> None:
    """Raise `ConfigurationError` unless the header has each feature once."""
    wanted = [path.split(".")[0] for path in schema.features] if schema.array_field is None else [schema.array_field]
    for name in dict.fromkeys(names):
        places = [str(i + 1) for i, one in enumerate(names) if one == name]
        if len(places) > 1 and name in wanted:
            raise ConfigurationError(
                f"{settings.path}: column {name} appears twice, at {' and '.join(places)}: rename one"
            )
        if len(places) > 1:
            log.warning("%s: column %s, which is not used, appears at %s", settings.path, name, " and ".join(places))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigurationError(header_message(missing, shown, settings, wanted))
    unknown = [name for name in names if name not in {*wanted, schema.id, schema.key, schema.timestamp}]
    if unknown:
        log.info("%s: columns that are not used: %s", settings.path, ", ".join(unknown))


def header_message(missing: list[str], shown: list[list[str]], settings: config.FileSource, wanted: list[str]) -> str:
    lines = "\n".join(f"    {i}: {settings.delimiter.join(row)[:100]}" for i, row in enumerate(shown[:SHOWN_LINES], 1))
    looks = [i for i, row in enumerate(shown, 1) if set(wanted) <= {cell.strip() for cell in row}]
    other = [d for d in (";", "\t", ",") if any(set(wanted) <= set(d.join(row).split(d)) for row in shown)]
    if looks:
        hint = f"line {looks[0]} looks like the header: --header-line {looks[0]} (source.header_line)"
    elif other and other[0] != settings.delimiter:
        hint = f"the columns seem to be parted by {other[0]!r}: --delimiter {other[0]!r} (source.delimiter)"
    else:
        hint = "name the columns that are there in schema.features"
    return (
        f"{settings.path}: line {settings.header_line}, taken for the header, lacks {', '.join(missing)}.\n"
        f"  The file begins\n{lines}\n  {hint}"
    )


def check_first_row(record: dict[str, str], settings: config.FileSource, schema: RecordSchema) -> None:
    """Raise `ConfigurationError` if no feature of the first row is a number: units, or decimal commas."""
    words = frozenset(schema.missing_words)
    refused: list[str] = []
    names = [name for name in schema.features if name in record]
    for name in names:
        try:
            to_number(record[name], words)
        except NotANumber:
            refused.append(name)
    if not refused:
        return
    for name in refused:
        text = record[name]
        try:
            to_number(text.replace(",", "."), words)
        except NotANumber:
            continue
        raise ConfigurationError(
            f"{settings.path}: row 1, column {name} holds {text!r}: are commas decimal points here? "
            "Then say --decimal-comma (source.decimal_comma: true)"
        )
    if len(refused) == len(names):
        texts = ", ".join(f"{name}={record[name]!r}" for name in names[:4])
        raise ConfigurationError(
            f"{settings.path}: the first row below the header has no number in it ({texts}): if it is units or "
            "kinds, say how many such lines there are with --skip-after-header (source.skip_after_header), and "
            "which line is the header with --header-line"
        )
