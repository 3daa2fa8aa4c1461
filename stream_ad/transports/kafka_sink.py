"""Writing scores, anomalies and dead letters to Kafka topics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kafka import errors
from kafka.partitioner import murmur2

from stream_ad import config
from stream_ad.records import DeadLetter
from stream_ad.transports.base import ConfigurationError, DeliveryError, TransportError
from stream_ad.transports.kafka_dead_letters import DeadLetterWriter
from stream_ad.transports.kafka_probe import max_message_bytes, probe
from stream_ad.transports.kafka_producer import close_producer, make_producer, settle

# The hash by which all Kafka clients choose a key's partition takes as long in Python as the rest of a send.
_key_hash = lru_cache(maxsize=1 << 16)(murmur2)


class KafkaSink:
    """Writes outputs through an idempotent producer and dead letters through a plain one.

    After a `DeliveryError` the sink is of no more use but to be closed; `open` starts afresh.
    """

    def __init__(self, settings: config.KafkaSink, input_topics: list[str]) -> None:
        self._settings = settings
        self._input_topics = input_topics
        self._producer: Any = None
        self._sent: list[tuple[str, list[Any]]] = []
        self._writes = 0
        self._dead_letters = DeadLetterWriter(settings)

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
        probe(self._settings, "sink", topics)
        self._producer = make_producer(self._settings, enable_idempotence=True)
        try:
            for _, topic in topics:
                self._producer.partitions_for(topic)
        except errors.KafkaError as error:
            self.close()
            raise TransportError(f"no answer from {self._settings.bootstrap_servers}: {error}") from error

    def write(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """As `Sink.write`. Raises `DeliveryError` for a record that cannot even be sent."""
        self._send(self._settings.topic, keys, values)

    def write_alerts(self, keys: list[bytes | None], values: list[bytes]) -> None:
        """As `Sink.write_alerts`, and as `write`."""
        if values and self._settings.anomalies_topic is not None:
            self._send(self._settings.anomalies_topic, keys, values)

    def write_dead_letters(self, letters: list[DeadLetter]) -> None:
        """As `Sink.write_dead_letters`; a letter that is too large goes without its value."""
        self._dead_letters.write(letters)

    def flush(self) -> None:
        """As `Sink.flush`; takes `delivery_timeout` and a few seconds at most."""
        sent, self._sent = self._sent, []
        futures = [future for _, of_write in sent for future in of_write]
        if futures:
            settle(self._producer, futures, self._settings.delivery_timeout)
            for topic, of_write in sent:
                self._check(topic, of_write)
        self._dead_letters.flush()

    def close(self) -> None:
        """Close within a few seconds; what was not flushed may be lost."""
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        self._sent = []
        close_producer(producer)
        self._dead_letters.close()

    def _send(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes]) -> None:
        send = self._producer.send
        futures: list[Any] = []
        self._sent.append((topic, futures))
        keep = futures.append
        try:
            partitions = sorted(self._producer.partitions_for(topic))
            n = len(partitions)
            self._writes += 1
            keyless = partitions[self._writes % n]
            for key, value in zip(keys, values, strict=True):
                partition = keyless if key is None else partitions[(_key_hash(key) & 0x7FFFFFFF) % n]
                keep(send(topic, value, key, None, partition))
        except errors.MessageSizeTooLargeError as error:
            raise DeliveryError(f"an output of {len(value)} bytes is too large for topic {topic}: {error}") from error
        except (errors.KafkaError, ValueError) as error:
            # ValueError: the client learned between two sends that the topic or the partition is gone.
            raise DeliveryError(
                f"cannot write to topic {topic} on {self._settings.bootstrap_servers}: {error}. Does it still exist?"
            ) from error

    def _check(self, topic: str, futures: list[Any]) -> None:
        failed = [future for future in futures if future.exception is not None]
        if not failed:
            return
        cause = failed[0].exception
        hint = ""
        if isinstance(cause, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
            size = max(future.args[4] for future in failed)
            limit = max_message_bytes(self._settings, "sink", topic)
            hint = f" Values of up to {size} bytes: raise max.message.bytes of the topic, now {limit}."
        raise DeliveryError(
            f"{len(failed)} of {len(futures)} records for topic {topic} were not taken by "
            f"{self._settings.bootstrap_servers}: {cause}.{hint}"
        ) from cause
