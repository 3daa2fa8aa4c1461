"""What brokers refuse: how it shows, and what is told of it."""

from __future__ import annotations

import logging
import time
from typing import Any

from kafka import errors
from kafka.future import Future

from stream_ad import config
from stream_ad.transports.base import ConfigurationError, DeliveryError, TransportError
from stream_ad.transports.kafka_probe import max_message_bytes, user_of

TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
LOG_SECONDS = 60.0


def send(producer: Any, topic: str, **record: Any) -> Any:
    """Send a record. The client refuses one that is much too large by itself: that shows in the future as well."""
    try:
        return producer.send(topic, **record)
    except TOO_LARGE as error:
        return Future().failure(error)


def not_taken(key: str, topic: str, cause: Exception, what: str, settings: config.KafkaSink) -> TransportError:
    """The error to raise for records that the brokers do not take; the topic stands at `key` in config.yaml."""
    if isinstance(cause, errors.AuthorizationError):
        return ConfigurationError(
            f"{key}: {user_of(settings)} is not authorised to write to topic {topic!r} on the "
            f"brokers at {settings.bootstrap_servers}: {cause}. Grant Write on it."
        )
    return DeliveryError(f"{what} for topic {topic} were not taken by {settings.bootstrap_servers}: {cause}")


class RefusalLog:
    """Says once a minute what had to be left out, and what the topic takes: there may be thousands of a kind."""

    def __init__(self, log: logging.Logger, settings: config.KafkaSink) -> None:
        self._log = log
        self._settings = settings
        self._silent_until: dict[str, float] = {}

    def tell(self, level: int, kind: str, topic: str, message: str) -> None:
        now = time.monotonic()
        if now < self._silent_until.get(kind, 0.0):
            return
        self._silent_until[kind] = now + LOG_SECONDS
        limit = max_message_bytes(self._settings, "sink", topic)
        self._log.log(level, "%s; max.message.bytes of topic %s: %s", message, topic, limit)
