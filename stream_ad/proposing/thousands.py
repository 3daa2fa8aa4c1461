"""Separators of thousands, which read as decimal points would make numbers 1000 times too small: 1.234 beside 999."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SEPARATORS = {".": ",", ",": "."}
"""Each with what is the decimal mark beside it."""
LOOKS = "thousands separators"
HOW_TO_MEND = "would be read as decimal points: export the file without them"
NUMBER = re.compile(r"[+-]?[\d.,]*\d", re.ASCII)


def thousands_columns(columns: Sequence[Sequence[str]]) -> set[int]:
    """Which columns of a file have separators of thousands.

    Where one column shows that a file has them, others whose numbers are all parted alike have them too.
    """
    found: set[int] = set()
    for separator in SEPARATORS:
        certain = {i for i, cells in enumerate(columns) if has_thousands(cells, separator)}
        parted = {i for i, cells in enumerate(columns) if any(separator in cell for cell in numbers(cells))}
        alike = {i for i in parted if all_groups(numbers(columns[i]), separator)}
        found |= alike if certain and alike == parted else certain
    return found


def has_thousands(cells: Iterable[str], separator: str) -> bool:
    """Whether a column shows that its numbers have separators of thousands.

    1.234 alone may as well be a decimal: whole numbers from 1 to 999 stand beside it, and larger ones never without
    a separator; or it goes on, as in 1.234.567 and 1.234,5.

    >>> has_thousands(["1.234", "999"], "."), has_thousands(["1.234", "999", "2.5"], ".")
    (True, False)
    """
    found = numbers(cells)
    if not all_groups(found, separator):
        return False
    mark = SEPARATORS[separator]
    if any(one.count(separator) > 1 or mark in one for one in found if separator in one):
        return True
    # A zero says nothing; -1 and -999 beside positive numbers stand for no reading.
    signed = any(one.startswith("-") for one in found if separator in one)
    plain = [one for one in found if one.isdigit() or (signed and one[1:].isdigit())]
    return all(len(one.lstrip("+-")) <= 3 for one in plain) and any(one.strip("+-0") for one in plain)


def all_groups(found: list[str], separator: str) -> bool:
    """Whether a separator parts groups of three digits wherever it stands, as 0.123 and 1.5 do not."""
    groups = re.compile(rf"[+-]?[1-9]\d{{0,2}}([{separator}]\d{{3}})+([{SEPARATORS[separator]}]\d+)?")
    parted = [one for one in found if separator in one]
    return bool(parted) and all(groups.fullmatch(one) for one in parted)


def numbers(cells: Iterable[str]) -> list[str]:
    """What is written in digits, points and commas alone."""
    return [text for cell in cells if NUMBER.fullmatch(text := cell.strip())]
