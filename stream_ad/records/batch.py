"""What travels through the worker: columns, never one object a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

NO_TIMESTAMP = int(np.iinfo(np.int64).min)
"""In every `timestamps` column: the row has no usable time stamp."""

LONGEST_CACHED = 256
"""Bytes of a key for which something is kept: tens of thousands of long ones would fill the memory."""

Headers = Sequence[tuple[str, bytes | None]]
Place = bytes | tuple[str, int]
"""Whose rows follow each other: those of a key, else those of a topic and partition."""


class RefusedRecord(bytes):
    """A record that its source could not make sense of; `message` says why."""

    message: str


@dataclass(slots=True)
class RawBatch:
    """The records of one poll as the source read them, nothing decoded.

    All lists and arrays have one entry a record, in the order in which they were read; records of one
    partition are in offset order.
    """

    values: list[bytes | None]
    """Record values; None is a tombstone."""
    keys: list[bytes | None]
    headers: list[Headers]
    timestamps: Int64
    """Milliseconds since the epoch (UTC); `NO_TIMESTAMP` where the source has none."""
    topics: list[str]
    partitions: Int32
    offsets: Int64
    """Kafka offset; for a file the 0-based number of the data row."""

    def __len__(self) -> int:
        return len(self.values)

    def select(self, records: Int64) -> RawBatch:
        """The records at these indices, which ascend."""
        at = records.tolist()
        return RawBatch(
            [self.values[i] for i in at],
            [self.keys[i] for i in at],
            [self.headers[i] for i in at],
            self.timestamps[records],
            [self.topics[i] for i in at],
            self.partitions[records],
            self.offsets[records],
        )

    @classmethod
    def empty(cls) -> RawBatch:
        none = np.empty(0, np.int64)
        return cls([], [], [], none, [], np.empty(0, np.int32), none)


@dataclass(slots=True)
class Batch:
    """Decoded rows as columns. A record that holds many rows contributes many."""

    raw: RawBatch
    values: Float64
    """[n, n_features] float64, in schema order. NaN is missing; infinities and numbers beyond float32 are
    clipped to the largest float32 (see `clipped`), so every other entry is finite as a float32."""
    record: Int64
    """[n] index into `raw`: which record the row came from."""
    row: Int64
    """[n] number of the row within its record, -1 where the record is one row by itself."""
    ids: list[str | int]
    """[n] as they came in (digit for digit), else `topic-partition-offset[-row]`."""
    keys: list[bytes | None]
    """[n] what the output's record key will be."""
    timestamps: Int64
    """[n] milliseconds since the epoch (UTC), `NO_TIMESTAMP` where there is none."""
    clipped: Bool
    """[n] True where a value was infinite or beyond float32: never a normal row."""

    def __len__(self) -> int:
        return len(self.ids)

    def places(self) -> list[Place]:
        """[n] whose each row is."""
        raw = self.raw
        of_record = list(zip(raw.topics, raw.partitions.tolist(), strict=True))
        return [
            of_record[record] if key is None else key
            for key, record in zip(self.keys, self.record.tolist(), strict=True)
        ]

    def sequences(self) -> Int64:
        """[n] a number of each row's place, the same in every process."""
        places = self.places()
        numbers = {place: number_of(place) for place in set(places)}
        return np.fromiter(map(numbers.__getitem__, places), np.int64, len(self))

    def select(self, rows: Int64) -> Batch:
        """The rows at these indices, which ascend."""
        at = rows.tolist()
        return Batch(
            raw=self.raw,
            values=self.values[rows],
            record=self.record[rows],
            row=self.row[rows],
            ids=[self.ids[i] for i in at],
            keys=[self.keys[i] for i in at],
            timestamps=self.timestamps[rows],
            clipped=self.clipped[rows],
        )


def number_of(place: Place) -> int:
    """64 bits for a key, or for a topic and partition; unlike their hash they outlast the process."""
    return _short_number(place) if len(place) <= LONGEST_CACHED else _number(place)


def _number(place: Place) -> int:
    name = place if isinstance(place, bytes) else f"{place[0]}\0{place[1]}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little", signed=True)


_short_number = lru_cache(maxsize=65_536)(_number)


class Status(IntEnum):
    """What happened to a row; its lower-case name is the `status` of the output record."""

    SCORED = 0
    WARMING_UP = 1
    UNSCORED = 2


@dataclass(slots=True)
class Verdicts:
    """The detector's findings on a `Batch`, row by row in the same order."""

    status: NDArray[np.uint8]
    """[n] of `Status`."""
    score: Float64
    """[n] >= 0, 1.0 is the alert threshold; NaN where there is none."""
    p_value: Float64
    """[n] in (0, 1]; NaN where there is none."""
    is_anomaly: Bool
    """[n]"""
    flagged: Int64
    """[k] indices of the rows with `is_anomaly`, ascending."""
    expected: Float64
    """[k, n_features] what the flagged rows' values should have been, in units of the input."""
    attribution: Float64
    """[k, n_features] each feature's share in the finding; rows sum to 1."""
    imputed: Bool
    """[n] True where any feature was missing."""
    model: str | None
    """Version of the model that scored, None while there is none."""


class Reason:
    """Why a record is a dead letter: the fixed values of the metric label `reason`."""

    PARSE = "parse"
    """Not JSON, cut off, nested too deep, not decodable at all."""
    NOT_AN_OBJECT = "not_an_object"
    """Parsed, but a number, a text, null ... instead of an object (or an array of objects)."""
    NO_FEATURES = "no_features"
    """Not one feature of the schema is there."""
    WRONG_LENGTH = "wrong_length"
    """An array or a float32 vector of another length than the schema's."""
    NOT_A_NUMBER = "not_a_number"
    """A feature holds something that is no number and no missing value."""
    TOO_LARGE = "too_large"
    """It was read and scored, but its output is larger than the topic takes."""


@dataclass(slots=True)
class BadRecord:
    """A record that could not be decoded, wholly or in some of its rows."""

    record: int
    """Index into the `RawBatch`."""
    reason: str
    """One of `Reason`."""
    message: str
    """What is wrong, where, with the text found (shortened)."""
    rows: list[int] = field(default_factory=list)
    """Numbers of the bad rows where the record held several."""


@dataclass(slots=True)
class Decoded:
    """What a codec makes of a `RawBatch`."""

    batch: Batch
    bad: list[BadRecord]
    tombstones: int = 0
    """Records whose value was null: skipped."""
    bad_timestamps: int = 0
    """Rows that have a time stamp field which could not be understood."""


@dataclass(slots=True)
class DeadLetter:
    """A bad record on its way to the dead-letter topic, with everything it had."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    """The original headers first, in order, then ours (Kafka Connect's names)."""
    timestamp: int
    """Milliseconds since the epoch or `NO_TIMESTAMP`."""
    reason: str
    topic: str
    """Where the record came from, with `partition` and `offset`."""
    partition: int
    offset: int
    ours: int = 0
    """How many of the headers, the last ones, are ours."""
