"""What the sink's Kafka producers share: how they are made, awaited and closed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer, errors

from stream_ad import config
from stream_ad.transports.base import DeliveryError, TransportError
from stream_ad.transports.kafka_connection import client_config, make_client

log = logging.getLogger(__name__)

# How long a send may wait to learn the partitions of a topic that has vanished.
BLOCK_MS = 5000
LINGER_MS = 5
BATCH_BYTES = 256 << 10
# More than brokers take by default: what is too large is for the topic's max.message.bytes to say.
REQUEST_BYTES = 32 << 20
REQUEST_MS = 30_000
CLOSE_SECONDS = 5.0
# kafka-python fails what is not delivered in time by itself, but not always (seen with most brokers dead).
GRACE_SECONDS = 5.0


def make_producer(settings: config.KafkaSink, **special: Any) -> Any:
    """Connect a producer; `special` are settings of its own. Raises `TransportError`."""
    delivery_ms = int(1000 * settings.delivery_timeout)
    try:
        producer, _ = make_client(
            KafkaProducer,
            **client_config(settings, "sink"),
            acks="all",
            compression_type=None if settings.compression == "none" else settings.compression,
            batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            max_block_ms=BLOCK_MS,
            linger_ms=LINGER_MS,
            # The client wants the time for delivery to cover a request and the lingering before it.
            request_timeout_ms=max(1, min(REQUEST_MS, delivery_ms - LINGER_MS)),
            delivery_timeout_ms=delivery_ms,
            metrics_enabled=False,
            **special,
        )
    except errors.KafkaError as error:
        raise TransportError(f"cannot connect to {settings.bootstrap_servers}: {error}") from error
    return producer


def make_careful_producer(settings: config.KafkaSink, **special: Any) -> Any:
    """A producer that goes on after a refused record. kafka-python's idempotent one can send nothing more then.

    One request at a time keeps the order without idempotence.
    """
    return make_producer(settings, enable_idempotence=False, max_in_flight_requests_per_connection=1, **special)


def settle(producer: Any, futures: Sequence[Any], timeout: float) -> None:
    """Return when each future has an outcome; `DeliveryError` if one has none in `timeout` seconds."""
    deadline = time.monotonic() + timeout + GRACE_SECONDS
    # An error of the flush is that of a record, which the caller sees, or it says that a batch was too large
    # and went on in two halves, which are still on their way.
    with suppress(errors.KafkaError):
        producer.flush(timeout + GRACE_SECONDS)
    for future in futures:
        if not future.is_done:
            with suppress(errors.KafkaError):
                future.get(max(0.0, deadline - time.monotonic()))
    waiting = sum(not future.is_done for future in futures)
    if waiting:
        raise DeliveryError(f"{waiting} of {len(futures)} records were not acknowledged within {timeout:g} s")


def close_producer(producer: Any) -> None:
    """Close within a few seconds, dropping what is not acknowledged by then."""
    try:
        producer.close(timeout=CLOSE_SECONDS)
    except errors.KafkaError as error:
        log.warning("records were dropped while closing, their input is not committed: %s", error)
        # `close` gave up before it stopped its thread, and there is no public way to do that.
        producer._sender.force_close()
        producer._sender.join(CLOSE_SECONDS)
        producer.close(timeout=0)
