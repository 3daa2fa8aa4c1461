"""Records handed over inside the process: for the demo and for tests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from stream_ad.records import NO_TIMESTAMP, DeadLetter, Headers, RawBatch
from stream_ad.transports.base import PartitionLag, SourceStatistics

TOPIC = "memory"

OnWrite = Callable[[list[bytes | None], list[bytes]], None]
"""Called with keys and values."""


class MemorySource:
    """A queue of records, topic `memory`, partition 0; `append` and `poll` may be called from two threads."""

    def __init__(self, maximum_pending: int = 100_000, maximum_poll: int = 5000) -> None:
        self.committed = 0
        """Offset up to which the worker is done."""
        self._maximum_pending = maximum_pending
        self._maximum_poll = maximum_poll
        self._pending: deque[tuple[bytes | None, bytes | None, Headers, int]] = deque()
        self._changed = threading.Condition()
        self._read = 0
        self._closed = False

    def append(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        timestamps: Sequence[int] | None = None,
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """Add records; waits while more than `maximum_pending` are waiting to be read."""
        n = len(values)
        rows = zip(
            values,
            keys if keys is not None else [None] * n,
            headers if headers is not None else [()] * n,
            timestamps if timestamps is not None else [NO_TIMESTAMP] * n,
            strict=True,
        )
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending) < self._maximum_pending or self._closed)
            self._pending.extend(rows)
            self._changed.notify_all()

    def close_input(self) -> None:
        """Say that no more records will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def open(self) -> None:
        """Nothing to connect to."""

    def poll(self, timeout: float) -> RawBatch:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._pending and not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            taken = [self._pending.popleft() for _ in range(min(len(self._pending), self._maximum_poll))]
            self._changed.notify_all()
        if not taken:
            return RawBatch.empty()
        values, keys, headers, timestamps = map(list, zip(*taken, strict=True))
        n = len(values)
        offsets = np.arange(self._read, self._read + n)
        self._read += n
        return RawBatch(
            values, keys, headers, np.array(timestamps, np.int64), [TOPIC] * n, np.zeros(n, np.int32), offsets
        )

    def commit(self) -> None:
        self.committed = self._read

    @property
    def exhausted(self) -> bool:
        with self._changed:
            return self._closed and not self._pending

    def statistics(self) -> SourceStatistics:
        with self._changed:
            return SourceStatistics(lag=[PartitionLag(TOPIC, 0, len(self._pending))])

    def close(self) -> None:
        """Let nobody wait for room that will not come."""
        self.close_input()


class MemorySink:
    """Keeps what is written, or hands it to `on_write` instead."""

    def __init__(self, on_write: OnWrite | None = None) -> None:
        self.keys: list[bytes | None] = []
        self.values: list[bytes] = []
        self.anomalies: list[bytes] = []
        self.dead_letters: list[DeadLetter] = []
        self._on_write = on_write

    def open(self) -> None:
        """Nothing to connect to."""

    def write(self, keys: list[bytes | None], values: list[bytes]) -> None:
        if self._on_write is not None:
            self._on_write(keys, values)
            return
        self.keys += keys
        self.values += values

    def write_alerts(self, keys: list[bytes | None], values: list[bytes]) -> None:
        if self._on_write is None:
            self.anomalies += values

    def write_dead_letters(self, letters: list[DeadLetter]) -> None:
        self.dead_letters += letters

    def flush(self) -> None:
        """Writing is all there is to it."""

    def close(self) -> None:
        """Nothing to let go of."""
