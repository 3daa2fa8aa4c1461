"""What the worker asks of a transport: a `Source` and a `Sink` of three or four verbs each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from stream_ad.records import DeadLetter, RawBatch


class TransportError(Exception):
    """A source or sink cannot be used; the message says what, where and how to mend it."""


class ConfigurationError(TransportError):
    """The far side answered, and what the config names is wrong there (no such topic, wrong password)."""


class DeliveryError(TransportError):
    """A record that was sent has not been acknowledged: its input must not be committed."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far the consumer is behind the end of one partition."""

    topic: str
    partition: int
    records: int


@dataclass(slots=True)
class SourceStatistics:
    """Counters of a source since it was opened, and where it stands."""

    lag: list[PartitionLag]
    """One entry for each partition assigned now."""
    lost_records: int = 0
    """Offsets that retention took before they were read."""
    resets: int = 0
    """Topics found deleted and made again."""
    commit_failures: int = 0
    rebalances: int = 0
    missing_topics: list[str] = field(default_factory=list)
    """Topics that were read and are gone now."""
    revoked: set[tuple[str, int]] = field(default_factory=set)
    """Topics and partitions that were read here and are others' to read now."""


class Source(Protocol):
    """Where records come from."""

    def open(self) -> None:
        """Connect once and check that all that the config names is there.

        Raises `ConfigurationError` for what waiting cannot mend and `TransportError` for what it may;
        the caller retries the latter with back-off.
        """

    def poll(self, timeout: float) -> RawBatch:
        """Return the next records, or an empty batch after `timeout` seconds."""

    def commit(self) -> None:
        """Make the position after the last poll durable. Only called when all its outputs are."""

    @property
    def exhausted(self) -> bool:
        """True when no record will ever come again (a file that is read to its end)."""

    def statistics(self) -> SourceStatistics: ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Where scores and dead letters go."""

    def open(self) -> None:
        """As `Source.open`."""

    def write(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """Send output records, one for each row."""

    def write_alerts(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """Send records to the anomalies topic, if there is one."""

    def write_dead_letters(self, letters: list[DeadLetter]) -> None: ...

    def flush(self) -> None:
        """Return when everything written is acknowledged; raise `DeliveryError` if anything is not."""

    def close(self) -> None: ...
