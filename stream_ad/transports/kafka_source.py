"""Reading Kafka topics as a member of a consumer group."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

import numpy as np
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition, errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import MemberState

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, RawBatch
from stream_ad.transports.base import ConfigurationError, PartitionLag, SourceStatistics, TransportError
from stream_ad.transports.kafka_connection import client_config, make_client, probe

log = logging.getLogger(__name__)

# A question to the brokers that takes longer is asked again with the next poll or commit.
REQUEST_MS = 5000
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

    Where to begin is decided here and not by the client, so that nothing is passed over in silence: `start`
    applies to a new group alone; a partition that appears later, one whose committed offset retention has
    taken, and a topic that was made again are read from their beginning. Not for use by several threads.
    """

    exhausted = False

    def __init__(self, settings: config.KafkaSource) -> None:
        self._settings = settings
        self._consumer: Any = None
        self._network: Any = None
        self._committed: dict[TopicPartition, int] = {}
        self._topic_ids: dict[str, Any] = {}
        self._missing: set[str] = set()
        self._started: set[str] = set()
        self._rebalances = _Rebalances()
        self._held_back_check = 0.0
        self._lost_records = 0
        self._resets = 0
        self._commit_failures = 0

    def open(self) -> None:
        if self._consumer is not None:
            return
        settings = self._settings
        probe(settings, "source", [("source.topics", topic) for topic in settings.topics])
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
        self._consumer.subscribe(settings.topics, listener=self._rebalances)

    def poll(self, timeout: float) -> RawBatch:
        """As `Source.poll`.

        Raises `ConfigurationError` for rights that we lack and `TransportError` for data that cannot be read.
        """
        start = time.monotonic()
        try:
            self._watch_topics()
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
        positions = self._positions()
        moved = {tp: position for tp, position in positions.items() if self._committed.get(tp) != position.offset}
        if not moved:
            return
        try:
            self._consumer.commit(moved, timeout_ms=REQUEST_MS)
        except errors.AuthorizationError as error:
            raise ConfigurationError(
                f"source.group: not authorised to commit as group {self._settings.group!r}: {error}"
            ) from error
        except errors.KafkaError as error:
            self._commit_failures += 1
            log.warning("offsets were not committed, their records may be read again: %s", error)
        else:
            self._committed.update({tp: position.offset for tp, position in moved.items()})

    def statistics(self) -> SourceStatistics:
        """Counters and lag, without asking the brokers; a partition has none before its first fetch."""
        return SourceStatistics(
            lag=self._lag(),
            lost_records=self._lost_records,
            resets=self._resets,
            commit_failures=self._commit_failures,
            rebalances=self._rebalances.count,
            missing_topics=sorted(self._missing),
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
            return _columns(self._consumer.poll(timeout_ms=int(1000 * timeout)))
        except errors.NoOffsetForPartitionError as error:
            self._choose_start(error.args[0])
        except errors.OffsetOutOfRangeError as error:
            self._return_into_range(error.args[0])
        except errors.LogTruncationError as error:
            for tp, divergent in error.divergent_offsets.items():
                log.warning("%s [%d] lost its newest records on the brokers", tp.topic, tp.partition)
                if divergent is not None:
                    self._consumer.seek(tp, divergent.offset)
        return None

    def _choose_start(self, partitions: set[TopicPartition]) -> None:
        """Set the position of partitions for which the group has committed none."""
        self._watch_topics()
        by_topic = defaultdict(list)
        for tp in partitions - self._positions().keys():
            by_topic[tp.topic].append(tp)
        for topic, ours in by_topic.items():
            starts = {}
            if self._settings.start == "latest" and topic not in self._started:
                starts = self._start_at_latest(topic)
            if missing := [tp for tp in ours if tp not in starts]:
                starts |= self._consumer.beginning_offsets(missing, timeout_ms=REQUEST_MS)
            for tp in ours:
                self._consumer.seek(tp, starts[tp])
            self._started.add(topic)

    def _start_at_latest(self, topic: str) -> dict[TopicPartition, int]:
        """Return the start of each partition of the topic; those that a group in use has not read have none.

        A new group commits the start of all partitions at once, other members' too: a partition without
        offset is from then on one that appeared later, and a crash before the first commit skips nothing.
        """
        consumer = self._consumer
        partitions = [TopicPartition(topic, p) for p in self._network.cluster.partitions_for_topic(topic) or ()]
        committed = {tp: consumer.committed(tp, timeout_ms=REQUEST_MS) for tp in partitions}
        if any(offset is not None for offset in committed.values()):
            return {tp: offset for tp, offset in committed.items() if offset is not None}
        ends: dict[TopicPartition, int] = consumer.end_offsets(partitions, timeout_ms=REQUEST_MS)
        consumer.commit({tp: OffsetAndMetadata(end, "", -1) for tp, end in ends.items()}, timeout_ms=REQUEST_MS)
        return ends

    def _return_into_range(self, positions: dict[TopicPartition, int]) -> None:
        """Go on from the oldest record where retention, or a topic made again, has left a position behind."""
        oldest = self._consumer.beginning_offsets(list(positions), timeout_ms=REQUEST_MS)
        for tp, position in positions.items():
            if position < oldest[tp]:
                lost = oldest[tp] - position
                self._lost_records += lost
                log.warning(
                    "%s [%d]: retention took unread records: committed offset %d, oldest %d, %d lost",
                    *(tp.topic, tp.partition, position, oldest[tp], lost),
                )
                self._consumer.seek(tp, oldest[tp])
        ends = self._consumer.end_offsets(list(positions), timeout_ms=REQUEST_MS)
        beyond = {tp.topic for tp, position in positions.items() if position > ends[tp]}
        if beyond:
            # Fetches the topics' new ids: by the old ones each would be found re-created once more.
            self._consumer.topics()
        for topic in beyond:
            self._start_over(topic, positions)

    def _watch_topics(self) -> None:
        """See whether a topic is gone, or another one under the same name."""
        for topic in self._settings.topics:
            known, now = self._topic_ids.get(topic), self._network.cluster.topic_id(topic)
            if now is None:
                if known is not None and topic not in self._missing:
                    self._missing.add(topic)
                    log.warning("topic %s is gone; waiting for it to come back", topic)
                continue
            if known is None:
                self._topic_ids[topic] = now
            elif known != now:
                self._start_over(topic, {})
            self._missing.discard(topic)

    def _start_over(self, topic: str, positions: dict[TopicPartition, int]) -> None:
        """Read a topic that was deleted and made again from its beginning; `positions` are from before."""
        before = self._committed | positions
        ours = [tp for tp in self._consumer.assignment() if tp.topic == topic]
        exist = self._network.cluster.partitions_for_topic(topic) or set()
        known = [tp for tp in {*ours, *before} if tp.topic == topic and tp.partition in exist]
        oldest = self._consumer.beginning_offsets(known, timeout_ms=REQUEST_MS)
        ends = self._consumer.end_offsets(known, timeout_ms=REQUEST_MS)
        for tp in ours:
            self._consumer.seek(tp, oldest[tp])
        log.warning(
            "topic %s was re-created; reading the new one from its beginning (%s)",
            topic,
            ", ".join(
                f"partition {tp.partition}: committed offset {before.get(tp)}, now {oldest[tp]} to {ends[tp]}"
                for tp in sorted(known)
            ),
        )
        self._topic_ids[topic] = self._network.cluster.topic_id(topic)
        self._started.add(topic)
        self._resets += 1

    def _positions(self) -> dict[TopicPartition, Any]:
        if self._consumer is None:
            return {}
        # The public `position` asks the brokers where there is none yet.
        positions: dict[TopicPartition, Any] = self._consumer._subscription.all_consumed_offsets()
        return positions

    def _lag(self) -> list[PartitionLag]:
        lag = []
        for tp, position in self._positions().items():
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
    """Counts how often partitions were taken away.

    There is nothing to commit then: it happens inside poll, and what earlier polls gave is committed before
    the next one. The client drops the state of the partitions by itself.
    """

    count = 0

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.count += bool(revoked)

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
