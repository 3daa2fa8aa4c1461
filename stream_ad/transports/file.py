"""Files as source and sink: CSV, JSON Lines, Parquet, gzip."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, DeadLetter, RawBatch, RecordSchema
from stream_ad.transports.base import ConfigurationError, DeliveryError, SourceStatistics
from stream_ad.transports.csv_rows import csv_records
from stream_ad.transports.parquet_rows import parquet_records

log = logging.getLogger("stream_ad.file")

ROWS_PER_POLL = 5000
FOLLOW_SECONDS = 0.2


class FileSource:
    """A file as a topic with one partition; each of its rows is a JSON record.

    JSON Lines are handed over as they are, rows of CSV and Parquet as JSON objects by column name. The offset
    is the 0-based number of the data row. Where a run of the worker left off is not kept: it begins anew.
    """

    def __init__(self, settings: config.FileSource, schema: RecordSchema, rows_per_poll: int = ROWS_PER_POLL) -> None:
        self._settings = settings
        self._schema = schema
        self._path = Path(settings.path)
        # It goes into records, which are UTF-8; the bytes of a file's name need not be.
        self._topic = os.fsencode(self._path.name).decode(errors="replace")
        self._records: Iterator[bytes] = iter(())
        self._rows_per_poll = rows_per_poll
        self._read = 0
        self._exhausted = False

    def open(self) -> None:
        """Raises `ConfigurationError` for a file that is not there or cannot be understood."""
        require_file(self._path)
        name = self._path.name.removesuffix(".gz")
        if name.endswith(".parquet"):
            self._records = parquet_records(self._path, self._schema)
        elif name.endswith(".csv"):
            self._records = csv_records(self._lines(), self._settings, self._schema)
        elif name.endswith((".jsonl", ".ndjson", ".json")):
            self._records = (line for line in self._lines() if line is None or line.strip())
        else:
            raise ConfigurationError(
                f"{self._path}: a file must end in .csv, .jsonl or .parquet (the first two also with .gz)"
            )
        # Errors in the header are found now, not at the first poll.
        first = next(self._records, b"")
        if first != b"":
            self._records = chain_first(first, self._records)
        elif not self._settings.follow:
            self._exhausted = True

    def poll(self, timeout: float) -> RawBatch:
        values: list[bytes | None] = []
        for value in islice(self._records, self._rows_per_poll):
            if value is None:
                break
            values.append(value)
        if not values:
            if self._settings.follow:
                time.sleep(min(timeout, FOLLOW_SECONDS))
            else:
                self._exhausted = True
            return RawBatch.empty()
        n = len(values)
        offsets = np.arange(self._read, self._read + n)
        self._read += n
        stamps = np.full(n, NO_TIMESTAMP, np.int64)
        return RawBatch(values, [None] * n, [()] * n, stamps, [self._topic] * n, np.zeros(n, np.int32), offsets)

    def commit(self) -> None:
        """Files have no group to commit to."""

    @property
    def exhausted(self) -> bool:
        return self._exhausted

    def statistics(self) -> SourceStatistics:
        return SourceStatistics(lag=[])

    def close(self) -> None:
        self._records = iter(())

    def _lines(self) -> Iterator[Any]:
        """Lines without their ends and without a byte order mark.

        Following, None stands for 'nothing whole yet': a line that is still being written is not handed over.
        """
        opener: Any = gzip.open if self._path.suffix == ".gz" else open
        try:
            with opener(self._path, "rb") as file:
                yield from self._lines_of(file)
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self._path, error) from error

    def _lines_of(self, file: IO[bytes]) -> Iterator[Any]:
        first, unfinished = True, b""
        while True:
            line = unfinished + file.readline()
            unfinished = b""
            if not line.endswith(b"\n") and self._settings.follow:
                if is_cut(file):
                    log.warning("%s is shorter than what was read of it: it is read from its beginning", self._path)
                    file.seek(0)
                    first = True
                else:
                    unfinished = line
                yield None
                continue
            if not line:
                return
            if first:
                line, first = line.removeprefix(b"\xef\xbb\xbf"), False
            yield line.rstrip(b"\r\n")


def require_file(path: Path) -> None:
    """Raise `ConfigurationError` unless there is such a file."""
    try:
        there = path.is_file()
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise unreadable(path, error) from error
    if not there:
        raise ConfigurationError(f"there is no file {path}")


def unreadable(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def is_cut(file: IO[bytes]) -> bool:
    """Whether a file ends before the place where it is read: whoever writes it has begun it anew."""
    return os.fstat(file.fileno()).st_size < file.tell()


def chain_first(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


class FileSink:
    """Writes JSON Lines; dead letters go beside it, as NAME.dead-letters.jsonl, once there is one. With `episodes`
    these do too, as NAME.episodes.jsonl; flagged rows need no second file, they are marked in the first.

    `append` goes on with a file that is there: for a source that resumes where it left off, whose earlier outputs
    come only once. Else the files are begun anew at the first write or flush, and the dead letters of an earlier run
    go then: an input that is refused costs no outputs.
    """

    def __init__(self, settings: config.FileSink, append: bool = False, episodes: bool = False) -> None:
        self._path = Path(settings.path)
        self._letters = self._beside("dead-letters")
        self._episodes = self._beside("episodes") if episodes else None
        self._append = append
        self._files: dict[Path, IO[bytes]] = {}
        self._begun = False
        self._failed = False

    @property
    def paths(self) -> list[Path]:
        """The files that may be written or removed."""
        return [path for path in (self._path, self._letters, self._episodes) if path is not None]

    def open(self) -> None:
        """Raises `ConfigurationError` if the files cannot be written; what they hold stays."""
        for path in self.paths:
            check_writable(path)

    def write(self, keys: list[bytes | None], values: list[bytes]) -> None:
        self._write(self._path, values)

    def write_alerts(self, keys: list[bytes | None], values: list[bytes]) -> None:
        if self._episodes is not None:
            self._write(self._episodes, values)

    def write_dead_letters(self, letters: list[DeadLetter]) -> None:
        self._write(self._letters, [orjson.dumps(readable(letter)) for letter in letters])

    def flush(self) -> None:
        self._begin()
        for path, file in self._files.items():
            with self._delivering(path):
                file.flush()

    def close(self) -> None:
        """Raises `DeliveryError` if not all could be written, unless that has been said before."""
        with ExitStack() as closing:
            if self._failed:
                closing.enter_context(suppress(DeliveryError))
            for path, file in self._files.items():
                closing.enter_context(self._delivering(path))
                closing.callback(file.close)
            self._files, self._begun, self._failed = {}, False, False

    def _beside(self, what: str) -> Path:
        name = self._path.name.removesuffix(".gz").removesuffix(".jsonl")
        return self._path.with_name(f"{name}.{what}.jsonl")

    def _begin(self) -> None:
        """Open what every run leaves, with rows or without."""
        if self._begun:
            return
        if not self._append:
            with self._delivering(self._letters):
                self._letters.unlink(missing_ok=True)
        for path in (self._path, self._episodes):
            if path is not None:
                self._open(path)
        self._begun = True

    def _open(self, path: Path) -> IO[bytes]:
        if path not in self._files:
            opener: Any = gzip.open if path.suffix == ".gz" else open
            with self._delivering(path):
                self._files[path] = opener(path, "ab" if self._append else "wb")
        return self._files[path]

    def _write(self, path: Path, lines: list[bytes]) -> None:
        self._begin()
        if lines:
            file = self._open(path)
            with self._delivering(path):
                file.write(b"\n".join(lines) + b"\n")

    @contextmanager
    def _delivering(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise DeliveryError(f"{path} cannot be written: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raise `ConfigurationError` if a file cannot be written; leave it as it is."""
    try:
        there = path.exists()
        if there and not (path.is_file() or path.is_dir()):
            return  # Whoever reads a pipe would take the end of this look for the end of all.
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def readable(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as JSON: bytes as text, or as base64 under the name with `_base64` behind."""
    found: dict[str, Any] = {
        "reason": letter.reason,
        "source": {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset},
    }
    for name, value in (("key", letter.key), ("value", letter.value)):
        found |= as_text(name, value)
    found["headers"] = [as_text("value", value) | as_text("name", name.encode()) for name, value in letter.headers]
    return found


def as_text(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}
