"""CSV rows as JSON objects of texts, by column name."""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson

from stream_ad import config
from stream_ad.records import RecordSchema, RefusedRecord
from stream_ad.records.numbers import NotANumber, to_number
from stream_ad.transports.base import ConfigurationError
from stream_ad.transports.columns import check_repeated, needed_columns, optional_columns, warn_of_missing

log = logging.getLogger("stream_ad.file")

SHOWN_LINES = 6
DELIMITERS = (",", ";", "\t", "|")
END = bytes(bytearray(b"end"))  # Told from a line by identity.


def csv_records(lines: Iterator[bytes | None], settings: config.FileSource, schema: RecordSchema) -> Iterator[Any]:
    """Records of a CSV file, its header read and checked at the first one. None where nothing is there yet.

    Raises `ConfigurationError` for a header, or a first row, that says the file is of another dialect.
    """
    reader = CsvReader(lines, settings)
    while len(shown := reader.peek_lines(settings.header_line + SHOWN_LINES - 1)) < settings.header_line:
        if reader.ended:
            return  # an empty file
        yield None
    reader.skip_lines(settings.header_line - 1)
    while not (header := reader.next_row()):
        if header is None:
            return
        yield None
    names = column_names(header, schema)
    check_header(names, shown, settings, schema)
    reader.width = len(names)
    reader.columns = max((i for i, name in enumerate(names, 1) if name), default=0)
    while len(reader.peek_lines(settings.skip_after_header)) < settings.skip_after_header and not reader.ended:
        yield None
    reader.skip_lines(settings.skip_after_header)
    first = True
    features = set(schema.features)
    while (row := reader.next_row()) is not None:
        if not row:
            yield None
        elif not reader.fits(row):
            yield refused_row(row, reader.columns)
        elif row != header:  # It comes again in a file that was put together, or is begun anew.
            record = dict(zip(names, row, strict=False))  # Empty cells behind the last column are dropped.
            if settings.decimal_comma:
                record |= {name: record[name].replace(",", ".") for name in features & record.keys()}
            if first:
                check_first_row(record, settings, schema)
                first = False
            yield orjson.dumps(record)


def column_names(header: list[str], schema: RecordSchema) -> list[str]:
    """Names without the blanks around them, unless the schema has them too."""
    used = {*needed_columns(schema), *optional_columns(schema)}
    return [cell if cell in used else cell.strip() for cell in header]


def refused_row(row: list[str], columns: int) -> RefusedRecord:
    """A row of another width than the header's: no object, so that a dead letter shows it as it is."""
    refused = RefusedRecord(orjson.dumps(row))
    refused.message = f"{len(row)} {'cell' if len(row) == 1 else 'cells'}, the header has {columns}"
    if len(row) == 1 and len(row[0]) > csv.field_size_limit():
        refused.message = f"a cell of more than {csv.field_size_limit()} characters"
    elif len(row) == 1 and '"' in row[0]:
        refused.message += f"; a quote in it is not closed: {row[0][:100]!r}"
    return refused


class CsvReader:
    """Rows of texts from lines of bytes; quoted cells may hold line ends.

    A stray quote would swallow the rows up to the next one: it costs its own line and no other.
    """

    def __init__(self, lines: Iterator[bytes | None], settings: config.FileSource) -> None:
        self._again: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._waiting = False
        self.ended = False
        """Whether no line will come any more."""
        self._line_number = 0
        self.width = 0
        """Cells of the header, once it is known; it may end in a delimiter."""
        self.columns = 0
        """Its cells up to the last one with a name in it: rows may end there, too."""
        self._lines = lines
        self._delimiter = settings.delimiter
        self._rows = csv.reader(self, delimiter=settings.delimiter, strict=True)

    def next_row(self) -> list[str] | None:
        """The next row; [] if none is there yet, None at the end."""
        while True:
            self._taken, self._waiting = [], False
            try:
                row = next(self._rows)
            except StopIteration:
                return [] if self._waiting else None
            except csv.Error:  # text behind a closing quote, a quote that is not closed, a cell beyond all measure
                if not self._waiting:
                    return self._only_first_line()
                self._put_back(self._taken)  # The quote may be closed by what is still to come.
                return []
            if len(self._taken) > 1 and self.width and (not self.fits(row) or self._holds_rows()):
                return self._only_first_line()
            if row:
                return row

    @property
    def row_lines(self) -> tuple[int, int]:
        """Numbers of the first and the last line of the row that was read last; blank lines are counted."""
        return self._line_number - len(self._taken) + 1, self._line_number

    def peek_lines(self, count: int) -> list[bytes]:
        """Up to `count` lines that will come next, as far as they are there."""
        while len(self._again) < count:
            line = next(self._lines, END)
            if line is None or line is END:
                self.ended = line is END
                break
            self._again.append(line)
        return list(islice(self._again, count))

    def skip_lines(self, count: int) -> None:
        """Pass over lines that `peek_lines` has shown."""
        for _ in range(min(count, len(self._again))):
            self._again.popleft()
            self._line_number += 1

    def fits(self, row: list[str]) -> bool:
        """Whether a row has a cell for each column, and behind the header's cells none but empty ones."""
        return len(row) == self.width or (self.columns <= len(row) and not any(row[self.width :]))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line for the csv module, which asks for more while a quote is open."""
        line = self._again.popleft() if self._again else next(self._lines, END)
        self._waiting, self.ended = line is None, line is END
        if line is None or line is END:
            raise StopIteration
        self._line_number += 1
        self._taken.append(line)
        return line.decode(errors="replace") + "\n"

    def _holds_rows(self) -> bool:
        """Whether the lines of a row look like whole rows: two stray quotes, and what stands between them."""
        delimiter = self._delimiter.encode()
        counts = [line.count(delimiter) + 1 for line in self._taken]
        return len(counts) > 2 and self.columns > 1 and all(self.columns <= count <= self.width for count in counts)

    def _only_first_line(self) -> list[str]:
        """The first of the lines taken, its cells only if the quotes in it leave no doubt where they end."""
        line, *rest = self._taken
        self._put_back(rest)
        self._taken = [line]
        text = line.decode(errors="replace")
        if not rest:
            with suppress(csv.Error):
                row = next(csv.reader([text], delimiter=self._delimiter))
                if not self.width or self.fits(row):
                    return row
        return [text]

    def _put_back(self, lines: list[bytes]) -> None:
        self._again.extendleft(reversed(lines))
        self._line_number -= len(lines)


def check_header(names: list[str], shown: list[bytes], settings: config.FileSource, schema: RecordSchema) -> None:
    """Raise `ConfigurationError` unless the header has each feature once."""
    check_repeated(settings.path, names, schema)
    wanted = needed_columns(schema)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConfigurationError(header_message(missing, shown, settings, wanted))
    warn_of_missing(settings.path, names, schema)
    unknown = [name for name in names if name not in {*wanted, *optional_columns(schema)}]
    if unknown:
        log.info("%s: columns that are not used: %s", settings.path, ", ".join(unknown))


def header_message(missing: list[str], shown: list[bytes], settings: config.FileSource, wanted: list[str]) -> str:
    texts = [line.decode(errors="replace") for line in shown]
    lines = "\n".join(f"    {i}: {text[:100]}" for i, text in enumerate(texts[:SHOWN_LINES], 1))
    return (
        f"{settings.path}: line {settings.header_line}, taken for the header, lacks {', '.join(missing)}.\n"
        f"  The file begins\n{lines}\n  {header_hint(texts, settings, set(wanted))}"
    )


def header_hint(texts: list[str], settings: config.FileSource, wanted: set[str]) -> str:
    """What to say so that the line with all wanted names is taken for the header, if there is one."""
    for delimiter in dict.fromkeys((settings.delimiter, *DELIMITERS)):
        for i, text in enumerate(texts, 1):
            tried = delimiter == settings.delimiter and i == settings.header_line
            if tried or not wanted <= {cell.strip().strip('"') for cell in text.split(delimiter)}:
                continue
            if delimiter == settings.delimiter:
                return f"line {i} looks like the header: --header-line {i} (source.header_line)"
            written = r"\t" if delimiter == "\t" else delimiter
            line = "" if i == settings.header_line else f" --header-line {i}"
            return (
                f"line {i} looks like the header, its columns parted by {written}: --delimiter '{written}'{line} "
                f"(source.delimiter{', source.header_line' if line else ''})"
            )
    return "name the columns that are there in schema.features"


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
