"""The schema: which fields are features, in which order, and what a record looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict


class Context(TypedDict):
    """What rows are extended by before they are scored and learned; plain data, to go with a model."""

    window: int
    calendar: bool


NO_CONTEXT = Context(window=0, calendar=False)


@dataclass(frozen=True)
class RecordSchema:
    """Feature names and their order, and where id, key and time of a row are found.

    The fields are those of the configuration's section `schema`. Raises ValueError for a feature that is named
    twice.
    """

    features: Sequence[str]
    format: Literal["json", "float32"] = "json"
    array_field: str | None = None
    key: str | None = None
    id: str | None = None
    timestamp: str | None = None
    timestamp_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    timezone: str = "UTC"
    missing_values: Sequence[float] = ()
    missing_words: Sequence[str] = ("NA", "N/A", "NaN", "NAN", "null", "NULL")
    max_missing: float = 0.5
    window: int = 0
    calendar: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "missing_values", tuple(self.missing_values))
        object.__setattr__(self, "missing_words", tuple(self.missing_words))
        twice = sorted({name for name in self.features if list(self.features).count(name) > 1})
        if twice:
            raise ValueError(f"features named twice: {', '.join(twice)}")

    def as_json(self) -> RecordSchema:
        """The same schema for sources whose rows are JSON objects whatever `format` says: files."""
        return replace(self, format="json")

    @property
    def context(self) -> Context:
        """What rows of this schema are extended by."""
        return Context(window=self.window, calendar=self.calendar)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any feature's name or place, and with the context."""
        text = "\0".join(self.features)
        if self.context != NO_CONTEXT:
            text += f"\0\0{self.window}\0{self.calendar}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
