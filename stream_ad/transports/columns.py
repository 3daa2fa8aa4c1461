"""Which columns of a table a schema calls for, and what is said of those that are not there just once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stream_ad.records import RecordSchema
from stream_ad.transports.base import ConfigurationError

log = logging.getLogger("stream_ad.file")


def needed_columns(schema: RecordSchema) -> list[str]:
    """Columns that a table must have for this schema."""
    paths = schema.features if schema.array_field is None else [schema.array_field]
    return list(dict.fromkeys(path.split(".")[0] for path in paths))


def optional_columns(schema: RecordSchema) -> dict[str, str]:
    """Columns that are used where a table has them, each with the key that names it."""
    named = {"schema.id": schema.id, "schema.key": schema.key, "schema.timestamp": schema.timestamp}
    return {path.split(".")[0]: key for key, path in named.items() if path is not None}


def check_repeated(path: Path | str, names: Sequence[str], schema: RecordSchema) -> None:
    """Raise `ConfigurationError` if a column that is used appears twice; others are only told of."""
    used = {*needed_columns(schema), *optional_columns(schema)}
    for name, count in Counter(names).items():
        if count == 1 or not name:
            continue
        places = " and ".join(str(i) for i, one in enumerate(names, 1) if one == name)
        if name in used:
            raise ConfigurationError(f"{path}: column {name} appears twice, at {places}: rename one")
        log.warning("%s: column %s, which is not used, appears at %s", path, name, places)


def warn_of_missing(path: Path | str, names: Sequence[str], schema: RecordSchema) -> None:
    """A row does without id, key or time, but nobody should have to find that out from the outputs."""
    missing = [f"{name} ({key})" for name, key in optional_columns(schema).items() if name not in names]
    if missing:
        log.warning("%s lacks the columns %s: its rows go without", path, ", ".join(missing))
