"""What each field looks like, and whether it can be a feature."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.data_report import never_falls, steps_within
from stream_ad.proposing import names
from stream_ad.proposing.table import Column, Path, Table
from stream_ad.proposing.thousands import HOW_TO_MEND, LOOKS, SEPARATORS, has_thousands
from stream_ad.records.numbers import NotANumber, shown, to_number
from stream_ad.records.timestamps import BY_SIZE, PER_MILLISECOND, parse_timestamp

MISSING_WORDS = frozenset(("NA", "N/A", "NaN", "NAN", "null", "NULL"))
"""Those of `schema.missing_words`."""
NO_READING = frozenset(
    [
        *("bad", "-", "--", "---", "?", "none", "nil", "na", "n.a.", "n/a", "#n/a", "nan", "null", "error", "err"),
        *("offline", "no data", "nodata", "missing", "invalid", "undefined", "unknown", "bad input", "i/o timeout"),
    ]
)
"""Words, in lower case, that loggers write in place of a number."""
UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
ENGLISH_OR_GERMAN_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}\b")
EPOCH_SECONDS = (9.4e8, 2.9e9)
"""From late 1999 to 2061."""

FEW_ROWS = 50
"""Below, the evidence is weak; below `TOO_FEW_FOR_CONSTANTS` a value that never changes says nothing."""
TOO_FEW_FOR_CONSTANTS = 10
MOSTLY = 0.95
USUALLY = 0.8
LEAST_PRESENT = 0.5
STRAY_TEXTS = 0.2
MOSTLY_DISTINCT = 0.9
"""Ids of records that were sent again come twice."""
FEW_VALUES = 20
CODE_VALUES = 50
FLAT = 1e-11
SEQUENCE_SHARE = 0.9
SPARSE = 1000
"""Whole numbers that are all different, with so many times more room than rows, are no readings."""
EXAMPLES = 3

Float64 = NDArray[np.float64]


@dataclass(slots=True)
class Field:
    """One field of the records and what becomes of it."""

    name: str
    """Its path with dots, as in `schema.features`."""
    path: Path
    numbers: Float64
    """[rows] NaN where it is missing or no number."""
    raw: list[Any]
    """Its values where it is there and not missing."""
    row: list[int]
    """The rows of those."""
    texts: Counter[str]
    """Values that are no numbers, and how often."""
    looks: str = ""
    """As in `number`, `counter`, `label`."""
    use: str = ""
    """feature, timestamp, id, key, features (an array of them), or nothing."""
    why: str = ""
    notes: list[str] = field(default_factory=list)

    def decide(self, looks: str, why: str, use: str = "") -> None:
        self.looks, self.why, self.use = looks, why, use

    def leave_out(self, sentinels: list[float]) -> None:
        """Take these numbers for missing."""
        dropped = np.isin(self.numbers, sentinels)
        if not dropped.any():
            return
        self.numbers[dropped] = np.nan
        kept = [i for i, row in enumerate(self.row) if not dropped[row]]
        self.raw, self.row = [self.raw[i] for i in kept], [self.row[i] for i in kept]

    @property
    def known(self) -> Float64:
        found: Float64 = self.numbers[~np.isnan(self.numbers)]
        return found

    @property
    def examples(self) -> str:
        distinct = dict.fromkeys(shown_value(value) for value in self.raw[:50])
        return ", ".join(list(distinct)[:EXAMPLES])

    @property
    def distinct(self) -> int:
        return len(set(map(repr, self.raw)))

    @property
    def whole(self) -> bool:
        known = self.known
        return bool(len(known) and np.all(known == np.round(known)))

    @property
    def numeric(self) -> bool:
        return len(self.known) > 0 and self.texts.total() <= STRAY_TEXTS * len(self.raw)


def shown_value(value: Any) -> str:
    """A value short enough for a table."""
    if isinstance(value, dict | list):
        return shown(value)
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def read_fields(table: Table) -> list[Field]:
    """All fields of a table, nothing decided yet."""
    return [_field(path, column, table.rows) for path, column in table.columns.items()]


def _field(path: Path, column: Column, rows: int) -> Field:
    numbers = np.full(rows, np.nan)
    texts: Counter[str] = Counter()
    raw, at = [], []
    for row, value in zip(column.rows, column.values, strict=True):
        try:
            number = to_number(value, MISSING_WORDS)
        except NotANumber:
            texts[value if isinstance(value, str) else shown(value)] += 1
        else:
            if number != number:
                continue
            numbers[row] = number
        raw.append(value)
        at.append(row)
    return Field(".".join(path), path, numbers, raw, at, texts)


def decide_fields(fields: list[Field], groups: Sequence[Hashable], *, needs_key: bool) -> None:
    """Say of each field that is not out of reach what it looks like and what it is used for.

    `needs_key`: records have no keys of their own, so a field may give them. At most one field becomes the
    timestamp, one the id, one the key.
    """
    rows = len(groups)
    for one in fields:
        if not one.looks and not one.numeric:
            _text(one, rows)
    key = _choose_key(fields, rows) if needs_key else None
    codes = _group_codes(groups, key, rows)
    for one in fields:
        if not one.looks and one.numeric:
            _number(one, rows, codes)
    _choose_timestamp(fields, rows)
    _choose_id(fields, rows)
    if rows < FEW_ROWS and not any(one.use for one in fields if one.use in ("feature", "features")):
        for one in fields:
            if one.looks == "constant" and one.numeric:
                one.decide("constant", f"the same in all of {rows} rows, which are too few to tell", "feature")


def out_of_reach(fields: list[Field], repeated: Sequence[str], thousands: Sequence[str]) -> None:
    """Decide on fields that the configuration cannot name, or whose numbers the worker would misread.

    `repeated`: columns whose name stands twice. `thousands`: columns with separators of thousands.
    """
    for one in fields:
        if any("." in part for part in one.path):
            one.decide("name with a dot", "a dot in schema.features leads into a nested object: rename the field")
        elif not one.name.strip() or not one.name.isprintable():
            one.decide("no name", "a field needs a name of printable characters")
        elif one.name in repeated:
            one.decide("named twice", "two columns have this name: rename one")
        elif one.name in thousands or _has_thousands(one):
            texts = [shown_value(value) for value in one.raw if isinstance(value, str)]
            beside = " beside ".join(dict.fromkeys([max(texts, key=len), min(texts, key=len)]))
            one.decide(LOOKS, f"as in {beside}, {HOW_TO_MEND}")


def _has_thousands(one: Field) -> bool:
    texts = [value for value in one.raw if isinstance(value, str)]
    return any(has_thousands(texts, separator) for separator in SEPARATORS)


def _text(one: Field, rows: int) -> None:
    """Decide on a field that is no number."""
    values = one.raw
    if not values:
        one.decide("empty", f"missing in all of {rows} rows")
        return
    if all(isinstance(value, list) for value in values):
        _array(one, rows)
        return
    if all(isinstance(value, dict) for value in values):
        one.decide("object", "empty, or nested too deep to be looked into")
        return
    distinct = one.distinct
    stamps = [value for value in values if isinstance(value, str) and parse_timestamp(value, "auto", ZoneInfo("UTC"))]
    counted = one.known if names.time_like(one.name) else one.known[:0]
    dates = [value for value in values if isinstance(value, str) and ENGLISH_OR_GERMAN_DATE.match(value.strip())]
    if names.certain_label(one.name):
        one.decide("label", "its name says that it is the answer, not a reading")
    elif len(stamps) + len(counted) >= MOSTLY * len(values):
        one.decide("time", "ISO 8601 texts, and numbers since 1970" if len(counted) else "ISO 8601 texts")
    elif len(dates) >= MOSTLY * len(values):
        one.decide("time", "dates that are not ISO 8601: days and months are never guessed")
    elif all(isinstance(value, str) and UUID.fullmatch(value.strip()) for value in values):
        one.decide("identifier", f"UUIDs, {distinct} different ones in {len(values)} rows")
    elif {str(value).strip().lower() for value in values} <= {"true", "false"}:
        one.decide("texts", "true and false as texts are no numbers: write 1 and 0 to use it")
    elif len(values) > 1 and distinct >= (MOSTLY_DISTINCT if names.id_like(one.name) else 1.0) * len(values):
        one.decide("identifier", f"{distinct} different texts in {len(values)} rows")
    elif len(one.known):
        share = one.texts.total() / len(values)
        one.decide("mixed", f"{share:.0%} of its values are texts, such as {most_common(one.texts)}")
    elif distinct == 1:
        one.decide("constant", f"always {shown_value(values[0])}")
    else:
        one.decide("category", f"{distinct} different texts in {len(values)} rows")


def _array(one: Field, rows: int) -> None:
    """Decide on a field of arrays: maybe it holds all the features."""
    lengths = Counter(map(len, one.raw))
    length, usual = lengths.most_common(1)[0]
    arrays = [value for value in one.raw if len(value) == length]
    if any(isinstance(item, dict | list) for value in arrays for item in value):
        one.decide("array of objects", "what is in an array of objects has no path: send it as fields")
        return
    try:
        for value in arrays:
            for item in value:
                to_number(item, MISSING_WORDS)
    except NotANumber as error:
        one.decide("array", f"holds what is no number, such as {error}")
        return
    if length == 0 or usual < MOSTLY * len(one.raw) or len(one.raw) < MOSTLY * rows:
        spread = ", ".join(str(length) for length, _ in lengths.most_common(4))
        one.decide("array", f"features need arrays of one length in every row; these have {spread}")
        return
    one.decide(f"array of {length} numbers", "")


def most_common(texts: Counter[str]) -> str:
    return ", ".join(f"{shown_value(text)!r}" for text, _ in texts.most_common(2))


def _choose_key(fields: list[Field], rows: int) -> Field | None:
    """A field that says what a row is of: a device, a line."""
    for one in fields:
        plain = one.looks == "category" or (not one.looks and one.whole and names.id_like(one.name))
        few = 2 <= one.distinct <= max(2, rows / 4) and len(one.raw) >= MOSTLY * rows
        if plain and few and names.key_like(one.name):
            one.decide("key", f"names what a row is of: {one.distinct} different ones in {rows} rows", "key")
            return one
    return None


def _group_codes(groups: Sequence[Hashable], key: Field | None, rows: int) -> NDArray[np.int64]:
    """[rows] a number for each stream of rows whose order means something."""
    keys: list[Any] = [None] * rows
    if key is not None:
        for row, value in zip(key.row, key.raw, strict=True):
            keys[row] = value
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault((g, repr(k)), len(known)) for g, k in zip(groups, keys, strict=True)], np.int64)


def _number(one: Field, rows: int, codes: NDArray[np.int64]) -> None:
    """Decide on a field of numbers."""
    known, distinct = one.known, one.distinct
    steps = steps_within(one.numbers, codes)
    label = distinct <= max(2, min(FEW_VALUES, len(known) // 2))
    if names.certain_label(one.name):
        one.decide("label", "its name says that it is the answer, not a reading")
    elif names.possible_label(one.name) and label and one.whole:
        one.decide("label", f"its name, and only {distinct} different values: an answer, not a reading")
    elif (unit := epoch_unit(known)) and (names.time_like(one.name) or never_falls(known, steps, 0.5)):
        one.decide("time", f"numbers of {unit} since 1970")
    elif one.whole and names.id_like(one.name) and not _is_flag(known):
        one.decide("identifier", f"whole numbers, and its name: {distinct} different ones in {len(known)} rows")
    elif rows >= TOO_FEW_FOR_CONSTANTS and _flat(known):
        one.decide("constant", f"always {known[0]:g}: nothing to learn from")
    elif len(known) < LEAST_PRESENT * rows:
        one.decide("mostly missing", f"there in only {len(known) / rows:.0%} of the rows")
    elif reason := _counts(one, known, steps):
        one.decide("counter", reason)
    elif _sparse(one, known, rows):
        one.decide("identifier", "whole numbers that are different in every row and far apart")
    elif one.whole and names.code_like(one.name) and 2 < distinct <= CODE_VALUES:
        one.decide("code", f"its name, and {distinct} different whole numbers: not a quantity")
    else:
        _feature(one, known, rows)


def _feature(one: Field, known: Float64, rows: int) -> None:
    boolean = all(isinstance(value, bool) for value in one.raw)
    one.decide("true/false" if boolean else "number", f"{known.min():.6g} … {known.max():.6g}", "feature")
    missing = 1.0 - len(known) / rows
    if boolean:
        one.why = f"true in {known.mean():.0%} of the rows; counts as 1 and 0"
    if missing >= 0.005:
        one.why += f", missing in {missing:.0%}"
    if one.texts:
        one.notes.append(f"{one.texts.total()} values are no numbers: {most_common(one.texts)}")


def _counts(one: Field, known: Float64, steps: Float64) -> str:
    """Why a field looks like a counter; an empty text if it does not."""
    if len(steps) >= 8 and one.whole:
        usual, count = Counter(steps.tolist()).most_common(1)[0]
        if usual != 0.0 and count >= SEQUENCE_SHARE * len(steps):
            return f"goes on by {usual:g} from row to row: tomorrow's values are all new"
    if len(known) >= FEW_ROWS and never_falls(known, steps):
        return "never falls: tomorrow's values are all new"
    return ""


def _flat(known: Float64) -> bool:
    low, high = float(known.min()), float(known.max())
    return low == high or (bool(np.isfinite([low, high]).all()) and high - low <= FLAT * max(abs(low), abs(high)))


def _is_flag(known: Float64) -> bool:
    return bool(np.isin(known, (0.0, 1.0)).all())


def _sparse(one: Field, known: Float64, rows: int) -> bool:
    wide = float(np.ptp(known)) >= SPARSE * len(known)
    return rows >= FEW_ROWS and one.whole and wide and one.distinct >= 0.99 * len(known)


def epoch_unit(known: Float64) -> str | None:
    """The unit in which numbers are moments of our days; `mixed units` if each row has its own, None if none fits."""
    units: Counter[str] = Counter()
    for value in known.tolist():
        unit = next(name for limit, name in BY_SIZE if abs(value) < limit or limit == np.inf)
        seconds = value / PER_MILLISECOND[unit] / 1000.0
        if EPOCH_SECONDS[0] <= seconds <= EPOCH_SECONDS[1]:
            units[unit] += 1
    if units.total() < MOSTLY * len(known):
        return None
    spoken = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    return spoken[next(iter(units))] if len(units) == 1 else "mixed units (told apart by size)"


def _choose_timestamp(fields: list[Field], rows: int) -> None:
    times = [one for one in fields if one.looks == "time" and "not ISO" not in one.why]
    whole = [one for one in times if len(one.raw) >= USUALLY * rows]
    if not whole:
        return
    chosen = next((one for one in whole if names.time_like(one.name)), whole[0])
    for one in times:
        if one is chosen:
            one.decide("time", one.why, "timestamp")
        else:
            one.decide("time", f"{one.why}; {chosen.name} is taken for the row's time")


def _choose_id(fields: list[Field], rows: int) -> None:
    for one in fields:
        # A whole number of more than 64 bits has become a float, of which the worker's codec makes an id again.
        plain = all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in one.raw)
        candidate = one.looks == "identifier" or (one.looks == "counter" and names.id_like(one.name))
        named = names.id_like(one.name) or "UUID" in one.why
        if candidate and plain and named and len(one.raw) == rows > 1 and one.distinct >= MOSTLY_DISTINCT * rows:
            one.use = "id"
            return


def choose_array(fields: list[Field]) -> Field | None:
    """The array that holds the features, if it has more of them than there are single fields."""
    arrays = [one for one in fields if one.looks.startswith("array of ") and one.looks.endswith(" numbers")]
    singles = [one for one in fields if one.use == "feature"]
    best = max(arrays, key=lambda one: len(one.raw[0]), default=None)
    chosen = best if best is not None and array_length(best) > len(singles) else None
    for one in arrays:
        if one is chosen:
            one.decide(one.looks, f"every row has one of {array_length(one)}: these are the features", "features")
        else:
            one.why = "features are either single fields or one array; there are more of the others"
    if chosen is not None:
        for one in singles:
            one.decide(one.looks, f"features are either single fields or one array, and {chosen.name} has more")
    return chosen


def array_length(one: Field) -> int:
    return Counter(map(len, one.raw)).most_common(1)[0][0]
