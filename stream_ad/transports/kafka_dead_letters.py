"""Dead letters to Kafka, as they came: null headers stay null; those too large go without their value."""

from __future__ import annotations

import logging
from typing import Any

from kafka import errors
from kafka.serializer import Serializer

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, DeadLetter
from stream_ad.transports.base import DeliveryError, TransportError
from stream_ad.transports.kafka_probe import max_message_bytes
from stream_ad.transports.kafka_producer import close_producer, make_producer, settle

log = logging.getLogger(__name__)

VALUE_OMITTED = "stream_ad.errors.value_omitted"
"""Header of a dead letter whose value was too large to send; it holds the value's size in bytes."""

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


class DeadLetterWriter:
    """Sends dead letters through a producer of its own, connected when the first one comes.

    It is not idempotent: kafka-python's idempotent producer can send nothing more once the broker has refused
    a record as too large, and that is to be expected here.
    """

    def __init__(self, settings: config.KafkaSink) -> None:
        self._settings = settings
        self._producer: Any = None
        self._sent: list[tuple[DeadLetter, Any]] = []

    def write(self, letters: list[DeadLetter]) -> None:
        """Raises `DeliveryError` for a letter that cannot be sent."""
        if self._producer is None:
            try:
                # One request at a time keeps the order without idempotence.
                self._producer = make_producer(
                    self._settings,
                    enable_idempotence=False,
                    max_in_flight_requests_per_connection=1,
                    value_serializer=_RestoreNulls(),
                )
            except TransportError as error:
                raise DeliveryError(f"dead letters cannot be written: {error}") from error
        for letter in letters:
            self._sent.append((letter, self._send(letter)))

    def flush(self) -> None:
        """Return when every letter is acknowledged, if need be without its value; else `DeliveryError`."""
        sent, self._sent = self._sent, []
        if not sent:
            return
        settle(self._producer, [future for _, future in sent], self._settings.delivery_timeout)
        too_large = [letter for letter, future in sent if isinstance(future.exception, _TOO_LARGE)]
        futures = [future for _, future in sent if not isinstance(future.exception, _TOO_LARGE)]
        if too_large:
            shortened = [self._send_without_value(letter) for letter in too_large]
            settle(self._producer, shortened, self._settings.delivery_timeout)
            futures += shortened
        failed = [future.exception for future in futures if future.exception is not None]
        if failed:
            raise DeliveryError(
                f"{len(failed)} of {len(sent)} dead letters for topic {self._settings.dead_letter_topic} "
                f"were not taken by {self._settings.bootstrap_servers}: {failed[0]}"
            ) from failed[0]

    def close(self) -> None:
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        self._sent = []
        close_producer(producer)

    def _send(self, letter: DeadLetter) -> Any:
        try:
            return self._send_as_is(letter.key, letter.value, letter.headers, letter.timestamp)
        except _TOO_LARGE:
            return self._send_without_value(letter)

    def _send_without_value(self, letter: DeadLetter) -> Any:
        size, topic = len(letter.value or b""), self._settings.dead_letter_topic
        log.warning(
            "the dead letter of %s [%d] offset %d is sent without its value of %d bytes: topic %s takes %s",
            *(letter.topic, letter.partition, letter.offset, size, topic),
            max_message_bytes(self._settings, "sink", topic),
        )
        headers = [*letter.headers, (VALUE_OMITTED, str(size).encode())]
        return self._send_as_is(letter.key, b"", headers, letter.timestamp)

    def _send_as_is(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: int
    ) -> Any:
        topic = self._settings.dead_letter_topic
        try:
            return self._producer.send(
                topic,
                key=key,
                value=_NULL if value is None else value,
                headers=_Headers((name, _NULL if value is None else value) for name, value in headers),
                timestamp_ms=None if timestamp == NO_TIMESTAMP else timestamp,
            )
        except _TOO_LARGE:
            raise
        except (errors.KafkaError, ValueError) as error:
            raise DeliveryError(
                f"cannot write to topic {topic} on {self._settings.bootstrap_servers}: {error}. Does it still exist?"
            ) from error


# kafka-python's `send` wants header values to be bytes, although its record format knows null, and key and
# value not to be null both. A stand-in passes these checks; the serialiser, to which kafka-python shows the
# headers after them, puts null in its place.
_NULL = bytes(bytearray(b"null"))


class _RestoreNulls(Serializer):  # type: ignore[misc]  # kafka-python ships no types
    def serialize(self, topic: str, headers: list[tuple[str, bytes | None]], data: bytes) -> bytes | None:
        headers[:] = [(name, None if value is _NULL else value) for name, value in headers]
        return None if data is _NULL else data


class _Headers(list[tuple[str, bytes | None]]):
    """Headers that count as none at all when kafka-python asks whether there are any.

    It only does so to note their size in the send's result, and falls over null there.
    """

    def __bool__(self) -> bool:
        return False
