"""Reading Kafka topics as a member of a consumer group."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition, errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import MemberState

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, RawBatch
from stream_ad.transports.base import ConfigurationError, PartitionLag, SourceStatistics, TransportError
from stream_ad.transports.kafka_connection import client_config, make_client
from stream_ad.transports.kafka_poll_size import PollSize
from stream_ad.transports.kafka_positions import Positions
from stream_ad.transports.kafka_probe import probe

log = logging.getLogger(__name__)

COMMIT_MS = 5000
CLOSE_MS = 5000
# Fetched in one go from a partition, so that it fills a poll with small records, and from a broker.
PARTITION_FETCH_BYTES = 4 << 20
FETCH_BYTES = 32 << 20
# Other members learn of a rebalance by their next heartbeat, at most this much later.
REBALANCE_SECONDS = 3.0
# Records wait but none come: after so long we say that something holds them back, and go on saying it.
HELD_BACK_SECONDS = 10.0
HELD_BACK_REMINDER_SECONDS = 60.0

_TRANSIENT = (errors.RetriableError, errors.CommitFailedError, errors.RebalanceInProgressError)


class KafkaSource:
    """Reads committed records of `settings.topics` and commits what has been dealt with.

    `Positions` says where reading begins. With `most_behind` records it is the newest ones that count: a longer
    backlog is passed over. `key` is where the configuration names the topics. Not for use by several threads.
    """

    exhausted = False
    _positions: Positions

    def __init__(
        self, settings: config.KafkaSource, most_behind: int | None = None, key: str = "source.topics"
    ) -> None:
        self._settings = settings
        self._key = key
        self._most_behind = most_behind
        self._consumer: Any = None
        self._network: Any = None
        self._rebalances = _Rebalances()
        self._poll_size = PollSize(settings.max_poll_records)
        self._held_back_check = 0.0
        self._commit_failures = 0

    def open(self) -> None:
        if self._consumer is not None:
            return
        settings = self._settings
        probe(settings, "source", [(self._key, topic) for topic in settings.topics])
        try:
            self._consumer, self._network = make_client(
                KafkaConsumer,
                **client_config(settings, "source"),
                group_id=settings.group,
                enable_auto_commit=False,
                # Any other word would make the client choose; "none" makes it ask (see `_poll`).
                auto_offset_reset="none",
                isolation_level="read_committed",
                max_poll_records=settings.max_poll_records,
                max_poll_interval_ms=int(1000 * settings.max_poll_interval),
                session_timeout_ms=int(1000 * settings.session_timeout),
                heartbeat_interval_ms=int(1000 * min(REBALANCE_SECONDS, settings.session_timeout / 3)),
                fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
                metrics_enabled=False,
            )
        except errors.KafkaError as error:
            raise TransportError(f"cannot connect to {settings.bootstrap_servers}: {error}") from error
        self._positions = Positions(self._consumer, self._network.cluster, settings.topics, settings.start)
        self._consumer.subscribe(settings.topics, listener=self._rebalances)

    def poll(self, timeout: float) -> RawBatch:
        """As `Source.poll`.

        Raises `ConfigurationError` for rights that we lack and `TransportError` for data that cannot be read.
        """
        start = time.monotonic()
        try:
            self._positions.watch_topics()
            if self._most_behind is not None:
                self._positions.skip_backlog(self._most_behind)
            batch = self._poll(timeout)
            while not batch and (left := start + self._patience(timeout) - time.monotonic()) > 0:
                batch = self._poll(left)
        except _TRANSIENT as error:
            log.warning("reading from %s: %s; trying again", self._settings.bootstrap_servers, error)
            return RawBatch.empty()
        except errors.AuthorizationError as error:
            raise ConfigurationError(
                f"source: not authorised to read {', '.join(self._settings.topics)} as group "
                f"{self._settings.group!r}: {error}. Grant Read on the topics and the group."
            ) from error
        except errors.KafkaError as error:
            raise TransportError(f"cannot read from {self._settings.bootstrap_servers}: {error}") from error
        batch = batch or RawBatch.empty()
        self._watch_for_records_held_back(len(batch) > 0)
        return batch

    def commit(self) -> None:
        """Commit the positions after the last poll, where they moved; cheap where not.

        The position, and not the last record's offset + 1: transaction markers take offsets too. A commit
        that the group refuses, after a rebalance for instance, is counted and left: whoever owns the
        partition now reads those records again. Raises `ConfigurationError` when not authorised.
        """
        committed = self._positions.committed
        moved = {tp: at for tp, at in self._positions.current().items() if committed.get(tp) != at.offset}
        if not moved:
            return
        try:
            self._consumer.commit(moved, timeout_ms=COMMIT_MS)
        except errors.AuthorizationError as error:
            raise ConfigurationError(
                f"source.group: not authorised to commit as group {self._settings.group!r}: {error}"
            ) from error
        except errors.KafkaError as error:
            self._commit_failures += 1
            log.warning("offsets were not committed, their records may be read again: %s", error)
        else:
            committed.update({tp: at.offset for tp, at in moved.items()})

    def statistics(self) -> SourceStatistics:
        """Counters and lag, without asking the brokers; a partition has none before its first fetch."""
        return SourceStatistics(
            lag=self._lag(),
            lost_records=self._positions.lost_records,
            resets=self._positions.resets,
            commit_failures=self._commit_failures,
            rebalances=self._rebalances.count,
            missing_topics=sorted(self._positions.missing_topics),
            revoked=self._revoked(),
        )

    def close(self) -> None:
        """Leave the group, within a few seconds; what is not committed is read again."""
        if self._consumer is None:
            return
        consumer, self._consumer = self._consumer, None
        try:
            consumer.close(autocommit=False, timeout_ms=CLOSE_MS)
        except errors.KafkaError as error:
            log.warning("the group was not left cleanly, others wait for session_timeout: %s", error)
        finally:
            self._network.close()

    def _rebalancing(self) -> bool:
        return bool(self._consumer.group_metadata().state == MemberState.REBALANCING)

    def _patience(self, timeout: float) -> float:
        """Seconds for a poll that has nothing yet: a rebalance is awaited for longer.

        kafka-python throws away a join that is completed between two polls, and starts another rebalance.
        """
        return max(timeout, REBALANCE_SECONDS) if self._rebalancing() else timeout

    def _poll(self, timeout: float) -> RawBatch | None:
        """Poll; None where instead the position of a partition had to be set."""
        if self._rebalancing():
            # A join that new metadata had asked for and that outlasts a poll is forgotten by kafka-python, which
            # then reads nothing any more. Asked once more, it takes up that join.
            self._consumer._coordinator.request_rejoin()
        try:
            polled = self._consumer.poll(timeout_ms=int(1000 * timeout), max_records=self._poll_size.records)
        except errors.NoOffsetForPartitionError as error:
            self._positions.choose_start(error.args[0])
        except errors.OffsetOutOfRangeError as error:
            self._positions.return_into_range(error.args[0])
        except errors.LogTruncationError as error:
            self._positions.return_before_truncation(error.divergent_offsets)
        else:
            batch = _columns(polled)
            self._poll_size.observe(batch.values)
            return batch
        return None

    def _revoked(self) -> set[tuple[str, int]]:
        # At a rebalance all are taken, and most may come back.
        gone = set() if self._rebalancing() else self._rebalances.taken - self._consumer.assignment()
        return {(tp.topic, tp.partition) for tp in gone}

    def _lag(self) -> list[PartitionLag]:
        lag = []
        for tp, position in self._positions.current().items():
            # The high watermark, not the last stable offset: records held back by an open transaction count.
            end = self._consumer.highwater(tp)
            if end is not None:
                lag.append(PartitionLag(tp.topic, tp.partition, max(0, end - position.offset)))
        return lag

    def _watch_for_records_held_back(self, got_records: bool) -> None:
        now = time.monotonic()
        if not got_records and now < self._held_back_check:
            return
        waiting = 0 if got_records else sum(partition.records for partition in self._lag())
        if waiting and self._held_back_check:
            log.warning(
                "%d records wait in %s but none come: most likely a producer has left a transaction open",
                waiting,
                ", ".join(self._settings.topics),
            )
        self._held_back_check = now + (HELD_BACK_REMINDER_SECONDS if waiting else HELD_BACK_SECONDS)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Counts how often partitions were taken away, and which.

    There is nothing to commit then: it happens inside poll, and what earlier polls gave is committed before
    the next one. The client drops the state of the partitions by itself.
    """

    def __init__(self) -> None:
        self.count = 0
        self.taken: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.count += bool(revoked)
        self.taken |= revoked

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None: ...


def _columns(polled: dict[TopicPartition, list[Any]]) -> RawBatch:
    batch = RawBatch.empty()
    partitions, offsets, timestamps = [], [], []
    for tp, records in polled.items():
        batch.values += [record.value for record in records]
        batch.keys += [record.key for record in records]
        batch.headers += [record.headers for record in records]
        batch.topics += [tp.topic] * len(records)
        partitions += [tp.partition] * len(records)
        offsets += [record.offset for record in records]
        timestamps += [record.timestamp for record in records]
    batch.partitions = np.array(partitions, np.int32)
    batch.offsets = np.array(offsets, np.int64)
    batch.timestamps = np.array(timestamps, np.int64)
    batch.timestamps[batch.timestamps < 0] = NO_TIMESTAMP
    return batch
