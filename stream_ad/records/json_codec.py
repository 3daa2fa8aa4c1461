"""JSON records: an object a record, or an array of objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from stream_ad.records.batch import NO_TIMESTAMP, BadRecord, Batch, Decoded, RawBatch, Reason, RefusedRecord
from stream_ad.records.numbers import NotANumber, clip, shown, to_number
from stream_ad.records.schema import RecordSchema
from stream_ad.records.timestamps import parse_timestamp

BOM = b"\xef\xbb\xbf"
PLAIN = frozenset((float, int, bool, type(None)))
LONG_INTEGER = 2**63
MOST_LISTED = 5
"""Numbers of bad rows in a message: a record can have hundreds of thousands."""
ABSENT = object()
Path = tuple[str, ...] | list[str]


class BadRow(ValueError):
    """A row that cannot be used, with the reason to count it under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class JsonDecoder:
    """Decodes whole polls; what is unusual is looked at record by record."""

    def __init__(self, schema: RecordSchema) -> None:
        self._schema = schema
        self._names = tuple(schema.features)
        self._words = frozenset(schema.missing_words)
        self._zone = ZoneInfo(schema.timezone)
        self._paths = [tuple(name.split(".")) for name in self._names]
        flat = schema.array_field is None and all(len(path) == 1 for path in self._paths)
        self._take: Callable[[Any], Any] | None = None
        if flat:
            one = itemgetter(*self._names)
            self._take = one if len(self._names) > 1 else lambda row: (one(row),)
        self._array_path = None if schema.array_field is None else tuple(schema.array_field.split("."))

    def decode(self, raw: RawBatch) -> Decoded:
        """Columns of all good rows; bad records with their reasons."""
        rows, record, row_number, bad, tombstones = self._parse(raw)
        values, refused = self._values(rows)
        if refused:
            self._refuse(refused, record, row_number, bad)
            good = [i for i in range(len(rows)) if i not in refused]
            rows = [rows[i] for i in good]
            record = [record[i] for i in good]
            row_number = [row_number[i] for i in good]
            values = values[good]
        clipped = clip(values, tuple(self._schema.missing_values))
        timestamps, bad_timestamps = self._timestamps(rows, record, raw)
        batch = Batch(
            raw=raw,
            values=values,
            record=np.array(record, np.int64),
            row=np.array(row_number, np.int64),
            ids=self._ids(rows, record, row_number, raw),
            keys=self._keys(rows, record, row_number, raw),
            timestamps=timestamps,
            clipped=clipped,
        )
        return Decoded(batch, bad, tombstones, bad_timestamps)

    def unknown_fields(self, raw: RawBatch) -> set[str]:
        """Paths in the last readable object of the poll that the schema does not know, beside those it does."""
        known = [path.split(".") for path in self._other_fields()] + [list(path) for path in self._paths]
        prefixes = {tuple(path[:depth]) for path in known for depth in range(1, len(path) + 1)}
        for value in reversed(raw.values):
            try:
                found = parse(value or b"")
            except BadRow:
                continue
            row = found[-1] if isinstance(found, list) and found else found
            parents = {tuple(path[:-1]) for path in known}
            objects = {parent: look_up(row, parent) for parent in parents}
            return {
                ".".join((*parent, name))
                for parent, inner in objects.items()
                if isinstance(inner, dict)
                for name in inner
                if (*parent, name) not in prefixes
            }
        return set()

    def _other_fields(self) -> list[str]:
        schema = self._schema
        return [path for path in (schema.id, schema.key, schema.timestamp, schema.array_field) if path is not None]

    def _parse(self, raw: RawBatch) -> tuple[list[dict[str, Any]], list[int], list[int], list[BadRecord], int]:
        """All rows of a poll as objects, with their record and row numbers; those that are none as bad records."""
        rows: list[dict[str, Any]] = []
        record: list[int] = []
        row_number: list[int] = []
        bad: list[BadRecord] = []
        tombstones = 0
        loads = orjson.loads
        for i, value in enumerate(raw.values):
            if value is None:
                tombstones += 1
                continue
            try:
                found = loads(value)
            except ValueError:
                try:
                    found = parse(value)
                except BadRow as error:
                    bad.append(BadRecord(i, error.reason, str(error)))
                    continue
            if type(found) is dict:
                rows.append(found)
                record.append(i)
                row_number.append(-1)
            elif isinstance(value, RefusedRecord):
                bad.append(BadRecord(i, Reason.NOT_AN_OBJECT, value.message))
            elif type(found) is list and found:
                wrong = []
                for j, one in enumerate(found):
                    if type(one) is dict:
                        rows.append(one)
                        record.append(i)
                        row_number.append(j)
                    else:
                        wrong.append(j)
                if wrong:
                    message = f"{listed(wrong)} no object, the first is {shown(found[wrong[0]])}"
                    bad.append(BadRecord(i, Reason.NOT_AN_OBJECT, message, wrong))
            else:
                message = f"a JSON object or an array of objects is needed, this is {shown(found)}"
                bad.append(BadRecord(i, Reason.NOT_AN_OBJECT, message))
        return rows, record, row_number, bad, tombstones

    def _values(self, rows: list[dict[str, Any]]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], dict[int, BadRow]]:
        """Feature values [n, d] with NaN for missing, and the rows that must be refused."""
        values = np.full((len(rows), len(self._names)), np.nan)
        taken, plain = self._take_plain(rows)
        if plain:
            try:
                values[plain] = np.array(taken, np.float64)
            except OverflowError:
                plain = []
        refused: dict[int, BadRow] = {}
        for i in sorted(set(range(len(rows))).difference(plain)):
            try:
                values[i] = self._row_values(rows[i])
            except BadRow as error:
                refused[i] = error
        return values, refused

    def _take_plain(self, rows: list[dict[str, Any]]) -> tuple[list[Any], list[int]]:
        """The values of the rows that hold every feature as a number or null, and which rows those are.

        One unusual row must not make its whole poll slow. Texts would become numbers in numpy by its rules, not ours.
        """
        if self._take is None:
            return [], []
        taken, plain = [], []
        for i, row in enumerate(rows):
            try:
                found = self._take(row)
            except KeyError:
                continue
            if PLAIN.issuperset(map(type, found)):
                taken.append(found)
                plain.append(i)
        return taken, plain

    def _row_values(self, row: dict[str, Any]) -> list[float]:
        """The features of one row. Raises `BadRow`."""
        found = self._array(row) if self._array_path else [look_up(row, path) for path in self._paths]
        if all(value is ABSENT for value in found):
            raise BadRow(Reason.NO_FEATURES, f"none of the {len(self._names)} features is there; fields: {fields(row)}")
        numbers = []
        for name, value in zip(self._names, found, strict=True):
            try:
                numbers.append(to_number(None if value is ABSENT else value, self._words))
            except NotANumber as error:
                raise BadRow(Reason.NOT_A_NUMBER, f"{name} is no number: {error}") from None
        return numbers

    def _array(self, row: dict[str, Any]) -> list[Any]:
        found = look_up(row, self._array_path or ())
        if found is ABSENT or found is None:
            raise BadRow(
                Reason.NO_FEATURES,
                f"the field {self._schema.array_field} is not there; fields: {fields(row)}",
            )
        if not isinstance(found, list):
            raise BadRow(Reason.NOT_A_NUMBER, f"{self._schema.array_field} is no array: {shown(found)}")
        if len(found) != len(self._names):
            message = f"{self._schema.array_field} has {len(found)} numbers, schema.features {len(self._names)}"
            raise BadRow(Reason.WRONG_LENGTH, message)
        return found

    @staticmethod
    def _refuse(refused: dict[int, BadRow], record: list[int], row_number: list[int], bad: list[BadRecord]) -> None:
        """Add the refused rows to the bad records: one for each record, whatever the number of its bad rows."""
        by_record = {one.record: one for one in bad}
        for i, error in refused.items():
            number = row_number[i]
            place = "" if number < 0 else f"row {number}: "
            known = by_record.get(record[i])
            if known is None:
                known = BadRecord(record[i], error.reason, f"{place}{error}", [])
                by_record[record[i]] = known
                bad.append(known)
            if number >= 0:
                known.rows.append(number)
        for one in bad:
            one.rows.sort()
        bad.sort(key=lambda one: one.record)

    def _timestamps(
        self, rows: list[dict[str, Any]], record: list[int], raw: RawBatch
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], int]:
        if self._schema.timestamp is None:
            return raw.timestamps[np.array(record, np.int64)], 0
        path, unit, zone = self._schema.timestamp.split("."), self._schema.timestamp_unit, self._zone
        parsed = [parse_timestamp(look_up(row, path), unit, zone) for row in rows]
        stamps = np.array([NO_TIMESTAMP if one is None else one for one in parsed], np.int64)
        return stamps, parsed.count(None)

    def _ids(
        self, rows: list[dict[str, Any]], record: list[int], row_number: list[int], raw: RawBatch
    ) -> list[str | int]:
        offsets, partitions = raw.offsets.tolist(), raw.partitions.tolist()
        path = [] if self._schema.id is None else self._schema.id.split(".")
        ids: list[str | int] = []
        digits = Digits(raw)
        for row, i, number in zip(rows, record, row_number, strict=True):
            own = look_up(row, path) if path else ABSENT
            if isinstance(own, str | int) and not isinstance(own, bool):
                ids.append(own)
            elif isinstance(own, float):
                ids.append(digits.of(own, i, number, path))
            else:
                name = f"{raw.topics[i]}-{partitions[i]}-{offsets[i]}"
                ids.append(name if number < 0 else f"{name}-{number}")
        return ids

    def _keys(
        self, rows: list[dict[str, Any]], record: list[int], row_number: list[int], raw: RawBatch
    ) -> list[bytes | None]:
        if self._schema.key is None:
            keys = raw.keys
            return [keys[i] for i in record]
        path = self._schema.key.split(".")
        keys_found: list[bytes | None] = []
        digits = Digits(raw)
        for row, i, number in zip(rows, record, row_number, strict=True):
            own = look_up(row, path)
            if isinstance(own, float):
                own = digits.of(own, i, number, path)
            keys_found.append(as_key(own, raw.keys[i]))
        return keys_found


class Digits:
    """Gives back the digits of whole numbers beyond 64 bits, of which orjson makes floats.

    It parses a record again for that, but once, whatever the number of its rows: rows of a record come together.
    """

    def __init__(self, raw: RawBatch) -> None:
        self._raw = raw
        self._record = -1
        self._parsed: Any = None

    def of(self, value: float, record: int, number: int, path: Path) -> str | int:
        """An id or key that orjson has made a float of, as it was written; of a fraction what Python makes of it."""
        if abs(value) < LONG_INTEGER:
            return repr(value)
        if record != self._record:
            self._record = record
            try:
                self._parsed = slow_parse(self._raw.values[record] or b"")
            except RecursionError:
                self._parsed = None
        if self._parsed is None:
            return repr(value)
        again = look_up(self._parsed if number < 0 else self._parsed[number], path)
        return again if isinstance(again, str | int) else repr(again)


def as_key(value: Any, otherwise: bytes | None) -> bytes | None:
    """A field's value as a record key; the record's own where the field is not there, or holds no single value."""
    if value is ABSENT or value is None or isinstance(value, dict | list):
        return otherwise
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode(errors="replace")  # JSON can escape half of a surrogate pair, UTF-8 cannot hold it.


def look_up(row: Any, path: Path) -> Any:
    """The value at a path of names, `ABSENT` where it leads nowhere. A key with dots in it is never looked up."""
    for name in path:
        if type(row) is not dict or name not in row:
            return ABSENT
        row = row[name]
    return row


def listed(rows: list[int]) -> str:
    """Row numbers as they may stand in a message: the first few, and how many there are."""
    first = ", ".join(map(str, rows[:MOST_LISTED]))
    return f"row {first} is" if len(rows) == 1 else f"{len(rows)} rows ({first}{', …' * (len(rows) > MOST_LISTED)}) are"


def fields(row: dict[str, Any]) -> str:
    return shown(", ".join(sorted(row))) if row else "none"


def parse(value: bytes) -> Any:
    """Any JSON value, with NaN, Infinity and numbers of any size as Python takes them. Raises `BadRow`.

    What orjson refuses goes to the standard library, whatever its length: one rule for all records.
    """
    value = value.removeprefix(BOM)
    try:
        return orjson.loads(value)
    except ValueError as error:
        first: Exception = error
    try:
        return slow_parse(value)
    except ValueError:
        pass
    except RecursionError as error:
        first = error
    what = "an empty value" if not value.strip() else f"{value[:LONGEST_VALUE].decode(errors='replace')!r}"
    raise BadRow(Reason.PARSE, f"no JSON: {first} in {what}")


LONGEST_VALUE = 60
MOST_DIGITS = 4300


def slow_parse(value: bytes) -> Any:
    """By the standard library: whole numbers of any length, NaN and Infinity; slow, and not deep."""
    return json.loads(value.removeprefix(BOM).decode(), parse_int=whole_number)


def whole_number(digits: str) -> int | str:
    """Python refuses to convert thousands of digits; as a text they are the same number by our rules."""
    return int(digits) if len(digits) <= MOST_DIGITS else digits
