"""Fixtures that several test files use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from tests.kafka_broker import NoKafka, broker
from tests.watched_plant import watched_plant  # noqa: F401  # a fixture

COORDINATOR_NOT_READY = (
    confluent_kafka.KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    confluent_kafka.KafkaError.COORDINATOR_NOT_AVAILABLE,
    confluent_kafka.KafkaError.NOT_COORDINATOR,
)

LONGEST = [
    "test_worker_kafka.py",
    "test_init_kafka.py",
    "test_kafka_transport.py",
    "test_roles.py",
    "test_worker.py",
    "test_budget.py",
    "watched plant",
    "test_detector.py",
]


@dataclass(frozen=True)
class Record:
    """A record as it lies in a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int


class Kafka:
    """The test broker and what tests do with it, by a client that is not the one under test."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._connection = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._admin = AdminClient(self._connection)

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] = {}) -> None:
        """Make a topic; returns when every partition has a leader."""
        self._admin.create_topics([NewTopic(name, partitions, 1, config=dict(config))])[name].result()
        self._await_topic(name, lambda found: found == partitions)

    def delete_topic(self, name: str) -> None:
        self._admin.delete_topics([name])[name].result()
        self._await_topic(name, lambda found: found == 0)

    def add_partitions(self, name: str, total: int) -> None:
        self._admin.create_partitions([NewPartitions(name, total)])[name].result()
        self._await_topic(name, lambda found: found == total)

    def produce(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[list[tuple[str, bytes | None]]] | None = None,
        partition: int | None = None,
        timestamps: Sequence[int] | None = None,
        **config: Any,
    ) -> None:
        """Send records and wait until all are acknowledged. `config`: librdkafka's, with _ for the dot."""
        producer = self.producer(**config)
        for i, value in enumerate(values):
            producer.produce(
                topic,
                value=value,
                key=keys[i] if keys else None,
                headers=headers[i] if headers else None,
                partition=-1 if partition is None else partition,
                timestamp=timestamps[i] if timestamps else 0,
                on_delivery=_raise_on_failure,
            )
            producer.poll(0)
        assert producer.flush(30) == 0

    def producer(self, **config: Any) -> confluent_kafka.Producer:
        """A librdkafka producer, for transactions and the like."""
        names = {name.replace("_", "."): value for name, value in config.items()}
        limits = {"queue.buffering.max.messages": 1_000_000, "linger.ms": 5}
        return confluent_kafka.Producer(self._connection | limits | names)

    def consume(self, topic: str, n: int, timeout: float = 20.0) -> list[Record]:
        """Read committed records from the beginning: the first `n`, or as many as come in `timeout` s."""
        consumer = confluent_kafka.Consumer(
            self._connection | {"group.id": "unused", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        partitions = self._admin.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, confluent_kafka.OFFSET_BEGINNING) for p in partitions])
        records: list[Record] = []
        deadline = time.monotonic() + timeout
        try:
            while len(records) < n and (left := deadline - time.monotonic()) > 0:
                for message in consumer.consume(n - len(records), min(left, 0.5)):
                    assert message.error() is None, message.error()
                    records.append(
                        Record(
                            message.partition(),
                            message.offset(),
                            message.key(),
                            message.value(),
                            message.headers() or [],
                            message.timestamp()[1],
                        )
                    )
        finally:
            consumer.close()
        return records

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Offsets that the group has committed, by partition."""
        deadline = time.monotonic() + 30
        while True:
            [future] = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
            try:
                return {tp.partition: tp.offset for tp in future.result().topic_partitions if tp.topic == topic}
            except confluent_kafka.KafkaException as error:
                # A broker that has just started is not ready to tell of groups.
                if error.args[0].code() not in COORDINATOR_NOT_READY or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def delete_records(self, topic: str, offset: int, partition: int = 0) -> None:
        """Do what retention does: drop the records before `offset`."""
        for future in self._admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            future.result()

    def allow(self, user: str, topic: str, right: str) -> None:
        """Give a right on a topic, on a broker that has an authoriser."""
        self._rule(user, topic, right, AclPermissionType.ALLOW)

    def deny(self, user: str, topic: str, right: str) -> None:
        self._rule(user, topic, right, AclPermissionType.DENY)

    def _rule(self, user: str, topic: str, right: str, kind: Any) -> None:
        pattern = ResourcePatternType.LITERAL
        rule = AclBinding(ResourceType.TOPIC, topic, pattern, f"User:{user}", "*", AclOperation[right], kind)
        for future in self._admin.create_acls([rule]).values():
            future.result()
        asked = AclBindingFilter(ResourceType.TOPIC, topic, pattern, f"User:{user}", "*", AclOperation[right], kind)
        deadline = time.monotonic() + 20
        while not self._admin.describe_acls(asked).result():
            assert time.monotonic() < deadline, f"the rule for {topic} does not come into force"
            time.sleep(0.02)

    def _await_topic(self, name: str, ready: Any) -> None:
        deadline = time.monotonic() + 20
        while True:
            found = self._admin.list_topics(timeout=10).topics.get(name)
            leaders = sum(p.leader >= 0 for p in found.partitions.values()) if found else 0
            if ready(leaders):
                return
            assert time.monotonic() < deadline, f"{name}: {leaders} partitions have a leader"
            time.sleep(0.05)


def _raise_on_failure(error: Any, _: Any) -> None:
    if error is not None:
        raise confluent_kafka.KafkaException(error)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares a fixture in one process, and begin with the files that take longest."""
    groups = {}
    for item in items:
        watched = "watched_plant" in getattr(item, "fixturenames", ())
        groups[item] = "watched plant" if watched else item.path.name
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real broker: the one of STREAM_AD_TEST_KAFKA, else one that lives as long as the tests."""
    if address := os.environ.get("STREAM_AD_TEST_KAFKA"):
        yield Kafka(address)
        return
    try:
        with broker() as bootstrap:
            yield Kafka(bootstrap)
    except NoKafka as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))
