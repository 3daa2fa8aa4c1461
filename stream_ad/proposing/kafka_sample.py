"""Some records of topics, the newest above all, without joining a group: nothing is committed."""

from __future__ import annotations

import re
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition, errors

from stream_ad.config import KafkaSource
from stream_ad.proposing.sample import MOST_RECORDS, PROGRESS_SECONDS, Progress, Sample
from stream_ad.transports import ConfigurationError, TransportError
from stream_ad.transports.kafka_connection import client_config, make_client
from stream_ad.transports.kafka_probe import probe

OLDEST_SHARE = 0.2
LONGEST_SECONDS = 15.0
"""For the oldest and for the newest records each."""
MOST_BYTES = 64 << 20
RATE_SECONDS = 3600.0
"""How far the measured rate looks back from the newest record."""
FEWEST_SECONDS = 5.0
"""Records that came within less time were loaded in one go: they tell no rate."""

OPTIONS = {
    "bootstrap_servers": "--bootstrap",
    "topics": "--topic",
    "sasl_password": "--sasl-password-env",
    "ssl_password": "--ssl-password-env",
}

Records = dict[TopicPartition, list[Any]]


def sample_topics(settings: KafkaSource, progress: Progress) -> Sample:
    """Read up to `MOST_RECORDS` committed records over all partitions.

    Raises `ConfigurationError` for what the user can mend (no such topic, wrong password, an empty topic),
    `TransportError` for brokers that do not answer; both name the command's options.
    """
    try:
        probe(settings, "source", [("source.topics", topic) for topic in settings.topics])
        return _sample(settings, progress)
    except ConfigurationError as error:
        raise ConfigurationError(in_options(str(error))) from error
    except TransportError as error:
        raise TransportError(in_options(str(error))) from error


def option(key: str) -> str:
    """The command's option for a key of section `source`."""
    return OPTIONS.get(key, "--" + key.replace("_", "-"))


def in_options(message: str) -> str:
    """A message about keys of the configuration in terms of the command's options.

    >>> in_options("source.topics: there is no topic 'x'; check source.sasl_mechanism")
    "--topic: there is no topic 'x'; check --sasl-mechanism"
    """
    return re.sub(r"source\.(\w+)", lambda match: option(match[1]), message)


def _sample(settings: KafkaSource, progress: Progress) -> Sample:
    topics = ", ".join(settings.topics)
    name = f"topic {topics}" if len(settings.topics) == 1 else f"topics {topics}"
    try:
        consumer, network = make_client(
            KafkaConsumer,
            **client_config(settings, "source"),
            group_id=None,
            enable_auto_commit=False,
            # A partition whose oldest records retention takes while we look.
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            metrics_enabled=False,
        )
    except errors.KafkaError as error:
        raise TransportError(f"cannot connect to {settings.bootstrap_servers}: {error}") from error
    try:
        found, end, total = _read(consumer, settings.topics, name, progress)
        per_second = rate(consumer, found, end)
    except errors.AuthorizationError as error:
        raise ConfigurationError(f"source.topics: not authorised to read {topics}: {error}. Grant Read.") from error
    except errors.KafkaError as error:
        raise TransportError(f"cannot read from {settings.bootstrap_servers}: {error}") from error
    finally:
        consumer.close(autocommit=False, timeout_ms=2000)
        network.close()
    records = [(tp, record) for tp in sorted(found) for record in found[tp]]
    if not records:
        raise ConfigurationError(
            f"{name}: {total} offsets are there, but no committed record came within {LONGEST_SECONDS:g} s: "
            "a transaction may be open, or all were aborted. Try again once records are committed."
        )
    return Sample(
        name=name,
        values=[record.value for _, record in records],
        groups=[(tp.topic, tp.partition, record.key) for tp, record in records],
        total=total,
        per_second=per_second,
        keyed=sum(record.key is not None for _, record in records) / len(records),
    )


def _read(
    consumer: Any, topics: list[str], name: str, progress: Progress
) -> tuple[Records, dict[TopicPartition, int], int]:
    """Sampled records by partition, in order, the ends of the partitions, and how many records there are in all."""
    partitions = [TopicPartition(topic, p) for topic in topics for p in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    filled = [tp for tp in partitions if end[tp] > first[tp]]
    total = sum(end[tp] - first[tp] for tp in filled)
    if not filled:
        raise ConfigurationError(
            f"{name} is empty: there is no record to look at. Wait until something has been produced, or check --topic."
        )
    oldest, newest = (max(5, int(share * MOST_RECORDS / len(filled))) for share in (OLDEST_SHARE, 1.0 - OLDEST_SHARE))
    found: Records = {tp: [] for tp in filled}
    stop = {tp: min(end[tp], first[tp] + oldest) for tp in filled}
    _take(consumer, dict(first), stop, found, progress)
    begin = {tp: max(stop[tp], end[tp] - newest) for tp in filled}
    _take(consumer, begin, end, found, progress)
    return found, end, total


def _take(
    consumer: Any,
    begin: dict[TopicPartition, int],
    stop: dict[TopicPartition, int],
    found: Records,
    progress: Progress,
) -> None:
    """Add the records from `begin` up to `stop` to `found`, as far as time and memory allow."""
    left = {tp for tp in found if begin[tp] < stop[tp]}
    if not left:
        return
    consumer.assign(sorted(left))
    for tp in left:
        consumer.seek(tp, begin[tp])
    started = told = time.monotonic()
    size = 0
    while left and time.monotonic() < started + LONGEST_SECONDS and size < MOST_BYTES:
        for tp, records in consumer.poll(timeout_ms=500).items():
            wanted = [record for record in records if record.offset < stop[tp]]
            found[tp] += wanted
            size += sum(len(record.value or b"") for record in wanted)
        # By position: transactions take offsets that never come as records.
        # What is done goes on being read in vain: a partition that was paused is not always read again.
        left = {tp for tp in left if consumer.position(tp) < stop[tp]}
        if time.monotonic() > told + PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"{sum(map(len, found.values()))} records read, {len(left)} partitions to go")


def rate(consumer: Any, found: Records, end: dict[TopicPartition, int]) -> float | None:
    """Records a second over all partitions in the last hour that had any; None if their time stamps tell none."""
    stamps = [record.timestamp for records in found.values() for record in records if record.timestamp > 0]
    if not stamps:
        return None
    since = max(min(stamps), max(stamps) - int(1000 * RATE_SECONDS))
    seconds = (max(stamps) - since) / 1000.0
    if seconds < FEWEST_SECONDS:
        return None
    starts = consumer.offsets_for_times(dict.fromkeys(found, since))
    count = sum(end[tp] - start.offset for tp, start in starts.items() if start is not None)
    return count / seconds or None
