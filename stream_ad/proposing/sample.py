"""What a proposal is made from: some records, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

MOST_RECORDS = 2500
"""Enough to see a value that is wrong once in a hundred records, few enough for a coffee-free wait."""
PROGRESS_SECONDS = 2.0

Progress = Callable[[str], None]
"""Called now and then, once sampling has taken longer than `PROGRESS_SECONDS`."""


@dataclass(slots=True)
class Sample:
    """Records of one topic or file, in their order within each group."""

    name: str
    """As people say it: `topic plant`, `file history.csv`."""
    values: list[bytes | None]
    """None is a tombstone."""
    groups: list[Hashable]
    """For each record the stream it belongs to: within one, order means something."""
    total: int
    """Records that are there in all, sampled or not; of a file too long to be read an estimate."""
    per_second: float | None = None
    """Records a second, None where nothing tells."""
    keyed: float = 0.0
    """Share of the records that have a key."""
    notes: list[str] = field(default_factory=list)
    """What was assumed while sampling."""
    repeated_columns: list[str] = field(default_factory=list)
    """Columns of a file whose name stands there twice."""
    thousands_columns: list[str] = field(default_factory=list)
    """Columns of a file whose numbers have separators of thousands."""

    @property
    def has_keys(self) -> bool:
        """Whether the records themselves say what a row is of."""
        return self.keyed >= 0.5
