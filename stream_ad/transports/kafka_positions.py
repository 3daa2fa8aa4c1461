"""Where each partition is read from: what the client would decide in silence."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any, Literal

from kafka import OffsetAndMetadata, TopicPartition
from kafka.cluster import ClusterMetadata

log = logging.getLogger(__name__)

# A question to the brokers that takes longer is asked again with the next poll.
REQUEST_MS = 5000


class Positions:
    """Sets a consumer's positions where the group's committed offsets do not.

    `start` applies to a new group alone. A partition that appears later, one whose committed offset retention
    has taken, and a topic that was deleted and made again are read from their beginning. The methods raise
    kafka-python's errors; after a retriable one nothing has changed, and the next poll comes here again.
    """

    def __init__(
        self, consumer: Any, cluster: ClusterMetadata, topics: list[str], start: Literal["earliest", "latest"]
    ) -> None:
        self._consumer = consumer
        self._cluster = cluster
        self._topics = topics
        self._start = start
        self._topic_ids: dict[str, Any] = {}
        self._started: set[str] = set()
        self.committed: dict[TopicPartition, int] = {}
        """The last offsets that this process has committed."""
        self.missing_topics: set[str] = set()
        self.lost_records = 0
        self.resets = 0

    def current(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """Positions of the assigned partitions, as far as they have one."""
        # The public `position` asks the brokers where there is none yet.
        positions: dict[TopicPartition, OffsetAndMetadata] = self._consumer._subscription.all_consumed_offsets()
        return positions

    def choose_start(self, partitions: set[TopicPartition]) -> None:
        """Begin with partitions for which the group has committed no offset."""
        self.watch_topics()
        by_topic = defaultdict(list)
        for tp in partitions - self.current().keys():
            by_topic[tp.topic].append(tp)
        for topic, ours in by_topic.items():
            starts = {}
            if self._start == "latest" and topic not in self._started:
                starts = self._start_at_latest(topic)
            if missing := [tp for tp in ours if tp not in starts]:
                starts |= self._oldest(missing)
            for tp in ours:
                self._consumer.seek(tp, starts[tp])
            self._started.add(topic)

    def skip_backlog(self, most_behind: int) -> None:
        """Go on with the newest `most_behind` records of all partitions together, if there are many more."""
        positions = self.current()
        each = most_behind // max(1, len(positions)) + 1
        for tp, position in positions.items():
            end = self._consumer.highwater(tp)
            if end is not None and end - position.offset > 2 * each:
                self._consumer.seek(tp, end - each)

    def return_into_range(self, positions: dict[TopicPartition, int]) -> None:
        """Go on with partitions whose position is not in the log (any more)."""
        oldest, ends = self._oldest(list(positions)), self._ends(list(positions))
        beyond = set()
        for tp, position in positions.items():
            if position < oldest[tp]:
                lost = oldest[tp] - position
                self.lost_records += lost
                log.warning(
                    "%s [%d]: retention took unread records: committed offset %d, oldest %d, %d lost",
                    *(tp.topic, tp.partition, position, oldest[tp], lost),
                )
                self._consumer.seek(tp, oldest[tp])
            elif position > ends[tp]:
                beyond.add(tp.topic)
        if beyond:
            # Fetches the topics' new ids: by the old ones each would be found re-created once more.
            self._consumer.topics()
        for topic in beyond:
            self._start_over(topic, positions, "was re-created or lost records, a committed offset is beyond its end")

    def return_before_truncation(self, divergent: dict[TopicPartition, OffsetAndMetadata | None]) -> None:
        """Go on with partitions whose newest records the brokers lost when a leader failed."""
        for tp, end in divergent.items():
            log.warning("%s [%d] lost its newest records on the brokers, some of which were read", *tp)
            if end is not None:
                self._consumer.seek(tp, end.offset)

    def watch_topics(self) -> None:
        """See whether a topic is gone, or is another one under the same name."""
        for topic in self._topics:
            known, now = self._topic_ids.get(topic), self._cluster.topic_id(topic)
            if now is None:
                if known is not None and topic not in self.missing_topics:
                    self.missing_topics.add(topic)
                    log.warning("topic %s is gone; waiting for it to come back", topic)
                continue
            if known is None:
                self._topic_ids[topic] = now
            elif known != now:
                self._start_over(topic, {}, "was re-created")
            self.missing_topics.discard(topic)

    def _start_at_latest(self, topic: str) -> dict[TopicPartition, int]:
        """Return the start of each partition; those that a group in use has not read have none.

        A new group commits the start of all partitions at once, other members' too: a partition without
        offset is from then on one that appeared later, and a crash before the first commit skips nothing.
        """
        partitions = [TopicPartition(topic, p) for p in self._cluster.partitions_for_topic(topic) or ()]
        if self._committed_by_group(partitions):
            # Asked again: another member may have committed the start of all in the midst of the asking.
            return self._committed_by_group(partitions)
        ends = self._ends(partitions)
        self._consumer.commit({tp: OffsetAndMetadata(end, "", -1) for tp, end in ends.items()}, timeout_ms=REQUEST_MS)
        return ends

    def _start_over(self, topic: str, positions: dict[TopicPartition, int], why: str) -> None:
        """Read a topic that is another one now from its beginning; `positions` are those in the old one."""
        before = self.committed | positions
        ours = [tp for tp in self._consumer.assignment() if tp.topic == topic]
        exist = self._cluster.partitions_for_topic(topic) or set()
        known = [tp for tp in {*ours, *before} if tp.topic == topic and tp.partition in exist]
        oldest, ends = self._oldest(known), self._ends(known)
        for tp in ours:
            self._consumer.seek(tp, oldest[tp])
        log.warning(
            "topic %s %s; reading it from its beginning (%s)",
            topic,
            why,
            ", ".join(
                f"partition {tp.partition}: committed offset {before.get(tp)}, now {oldest[tp]} to {ends[tp]}"
                for tp in sorted(known)
            ),
        )
        self._topic_ids[topic] = self._cluster.topic_id(topic)
        self._started.add(topic)
        self.resets += 1

    def _committed_by_group(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        offsets = {tp: self._consumer.committed(tp, timeout_ms=REQUEST_MS) for tp in partitions}
        return {tp: offset for tp, offset in offsets.items() if offset is not None}

    def _oldest(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        offsets: dict[TopicPartition, int] = self._consumer.beginning_offsets(partitions, timeout_ms=REQUEST_MS)
        return offsets

    def _ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        offsets: dict[TopicPartition, int] = self._consumer.end_offsets(partitions, timeout_ms=REQUEST_MS)
        return offsets
