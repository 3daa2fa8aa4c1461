"""Writing scores, anomalies and dead letters to Kafka topics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kafka import errors
from kafka.future import Future
from kafka.partitioner import murmur2

from stream_ad import config
from stream_ad.records import LONGEST_CACHED, DeadLetter
from stream_ad.transports.base import ConfigurationError, DeliveryError, TransportError
from stream_ad.transports.kafka_dead_letters import DeadLetterWriter
from stream_ad.transports.kafka_large_outputs import LargeOutputs, Output
from stream_ad.transports.kafka_probe import probe
from stream_ad.transports.kafka_producer import close_producer, make_producer, settle
from stream_ad.transports.kafka_refusals import TOO_LARGE, not_taken

# In Python it takes as long as the rest of a send.
_short_key_hash = lru_cache(maxsize=1 << 16)(murmur2)

_Sent = tuple[str, str, Sequence[bytes | None], Sequence[bytes], list[Any]]
"""A write: key of the topic in config.yaml, topic, keys, values, and the futures of the records sent."""


def key_hash(key: bytes) -> int:
    """The hash by which all Kafka clients choose a key's partition."""
    found: int = _short_key_hash(key) if len(key) <= LONGEST_CACHED else murmur2(key)
    return found


class KafkaSink:
    """Writes outputs through an idempotent producer and dead letters through a plain one.

    After a `DeliveryError` the sink is of no more use but to be closed; `open` starts afresh.
    """

    def __init__(self, settings: config.KafkaSink, input_topics: list[str]) -> None:
        self._settings = settings
        self._input_topics = input_topics
        self._producer: Any = None
        self._sent: list[_Sent] = []
        self._writes = 0
        self._dead_letters = DeadLetterWriter(settings)
        self._large_outputs = LargeOutputs(settings)

    def open(self) -> None:
        if self._producer is not None:
            return
        topics = [
            ("sink.topic", self._settings.topic),
            ("sink.dead_letter_topic", self._settings.dead_letter_topic),
        ]
        if self._settings.anomalies_topic is not None:
            topics.append(("sink.anomalies_topic", self._settings.anomalies_topic))
        for key, topic in topics:
            if topic in self._input_topics:
                raise ConfigurationError(
                    f"{key}: {topic!r} is one of source.topics: the worker would read what it writes. "
                    "Name another topic."
                )
        probe(self._settings, "sink", topics, "Write")
        self._producer = make_producer(self._settings, enable_idempotence=True)
        try:
            for _, topic in topics:
                self._producer.partitions_for(topic)
        except errors.KafkaError as error:
            self.close()
            raise TransportError(f"no answer from {self._settings.bootstrap_servers}: {error}") from error

    def write(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """As `Sink.write`. Raises `DeliveryError` for a record that cannot even be sent."""
        self._send("sink.topic", self._settings.topic, keys, values)

    def write_alerts(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """As `Sink.write_alerts`, and as `write`."""
        if values and self._settings.anomalies_topic is not None:
            self._send("sink.anomalies_topic", self._settings.anomalies_topic, keys, values)

    def write_dead_letters(self, letters: list[DeadLetter]) -> None:
        """As `Sink.write_dead_letters`; a letter that is too large goes without its value."""
        self._dead_letters.write(letters)

    def flush(self) -> None:
        """As `Sink.flush`; takes `delivery_timeout` and a few seconds at most, longer where outputs are too large."""
        sent, self._sent = self._sent, []
        futures = [future for *_, of_write in sent for future in of_write]
        if futures:
            settle(self._producer, futures, self._settings.delivery_timeout)
            if any(future.exception is not None for future in futures):
                self._deal_with_refused(sent)
        self._dead_letters.flush()

    def close(self) -> None:
        """Close within a few seconds; what was not flushed may be lost."""
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        self._sent = []
        close_producer(producer)
        self._dead_letters.close()

    def _send(self, config_key: str, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes]) -> None:
        send = self._producer.send
        futures: list[Any] = []
        self._sent.append((config_key, topic, keys, values, futures))
        keep = futures.append
        try:
            partitions = sorted(self._producer.partitions_for(topic))
            n = len(partitions)
            self._writes += 1
            keyless = partitions[self._writes % n]
            for key, value in zip(keys, values, strict=True):
                partition = keyless if key is None else partitions[(key_hash(key) & 0x7FFFFFFF) % n]
                try:
                    keep(send(topic, value, key, None, partition))
                except TOO_LARGE as error:
                    keep(Future().failure(error))
        except errors.AuthorizationError as error:
            raise not_taken(config_key, topic, error, "records", self._settings) from error
        except (errors.KafkaError, ValueError) as error:
            # ValueError: the client learned between two sends that the topic or the partition is gone.
            raise DeliveryError(
                f"cannot write to topic {topic} on {self._settings.bootstrap_servers}: {error}. Does it still exist?"
            ) from error

    def _deal_with_refused(self, sent: list[_Sent]) -> None:
        """Get outputs through that are too large; raise for any other refusal."""
        refused = []
        for config_key, topic, keys, values, futures in sent:
            failed = [i for i, future in enumerate(futures) if future.exception is not None]
            for i in failed:
                cause = futures[i].exception
                if not isinstance(cause, TOO_LARGE):
                    what = f"{len(failed)} of {len(futures)} records"
                    raise not_taken(config_key, topic, cause, what, self._settings) from cause
            refused += [Output(config_key, topic, keys[i], values[i]) for i in failed]
        spent, self._producer = self._producer, make_producer(self._settings, enable_idempotence=True)
        close_producer(spent)
        self._dead_letters.write(self._large_outputs.deliver(refused))
