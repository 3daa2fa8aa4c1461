"""Dead letters to Kafka, as they came: null headers stay null. What the topic refuses of them is left out."""

from __future__ import annotations

import logging
from typing import Any

from kafka import errors
from kafka.serializer import Serializer

from stream_ad import config
from stream_ad.records import NO_TIMESTAMP, DeadLetter, shortened, without_timestamp
from stream_ad.transports.base import DeliveryError, TransportError
from stream_ad.transports.kafka_producer import close_producer, make_careful_producer, settle
from stream_ad.transports.kafka_refusals import TOO_LARGE, RefusalLog, not_taken, send

log = logging.getLogger(__name__)

# With several refused records in a batch kafka-python calls each of them invalid.
_WRONG_TIME = (errors.InvalidTimestampError, errors.InvalidRecordError)


class DeadLetterWriter:
    """Sends dead letters through a producer of its own, connected when the first one comes."""

    def __init__(self, settings: config.KafkaSink) -> None:
        self._settings = settings
        self._producer: Any = None
        self._sent: list[tuple[DeadLetter, Any]] = []
        self._refusals = RefusalLog(log, settings)
        self.lost = 0
        """Letters of which the topic did not take even our headers."""

    def write(self, letters: list[DeadLetter]) -> None:
        """Raises `DeliveryError` for a letter that cannot be sent."""
        if self._producer is None:
            try:
                self._producer = make_careful_producer(self._settings, value_serializer=_RestoreNulls())
            except TransportError as error:
                raise DeliveryError(f"dead letters cannot be written: {error}") from error
        self._sent += [(letter, self._send(letter)) for letter in letters]

    def flush(self) -> None:
        """Return when the topic has taken every letter, if need be without some of its parts; else `DeliveryError`."""
        sent, self._sent = self._sent, []
        while sent:
            settle(self._producer, [future for _, future in sent], self._settings.delivery_timeout)
            refused = [(letter, future.exception) for letter, future in sent if future.exception is not None]
            acceptable = self._acceptable(refused, len(sent))
            sent = [(letter, self._send(letter)) for letter in acceptable]

    def close(self) -> None:
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        self._sent = []
        close_producer(producer)

    def _acceptable(self, refused: list[tuple[DeadLetter, Exception]], n_sent: int) -> list[DeadLetter]:
        """The refused letters as the topic may take them, less those of which nothing more can be left out."""
        acceptable, failed, blameless = [], [], []
        for letter, error in refused:
            if isinstance(error, TOO_LARGE):
                acceptable += self._shortened(letter)
            elif isinstance(error, _WRONG_TIME) and letter.timestamp != NO_TIMESTAMP:
                acceptable.append(without_timestamp(letter))
            elif type(error) is errors.KafkaError:
                # Refused along with a record of its batch whose time is wrong.
                blameless.append((letter, error))
            else:
                failed.append(error)
        if not any(isinstance(error, _WRONG_TIME) for _, error in refused):
            failed += [error for _, error in blameless]
        if failed:
            topic, what = self._settings.dead_letter_topic, f"{len(failed)} of {n_sent} dead letters"
            raise not_taken("sink.dead_letter_topic", topic, failed[0], what, self._settings) from failed[0]
        return acceptable + [letter for letter, _ in blameless]

    def _shortened(self, letter: DeadLetter) -> list[DeadLetter]:
        """The letter with one part less; none if there is none left, and the topic refuses the rest."""
        found, topic = shortened(letter), self._settings.dead_letter_topic
        place = f"the dead letter of {letter.topic} [{letter.partition}] offset {letter.offset}"
        if found is None:
            self.lost += 1
            what = f"is lost, the topic takes not even the headers that tell of it ({self.lost} so far)"
            self._refusals.tell(logging.ERROR, "lost", topic, f"{place} {what}")
            return []
        part, size, rest = found
        self._refusals.tell(logging.WARNING, part, topic, f"{place} is sent without its {part} of {size} bytes")
        return [rest]

    def _send(self, letter: DeadLetter) -> Any:
        topic = self._settings.dead_letter_topic
        try:
            return send(
                self._producer,
                topic,
                key=letter.key,
                value=_NULL if letter.value is None else letter.value,
                headers=_Headers((name, _NULL if value is None else value) for name, value in letter.headers),
                timestamp_ms=None if letter.timestamp == NO_TIMESTAMP else letter.timestamp,
            )
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
