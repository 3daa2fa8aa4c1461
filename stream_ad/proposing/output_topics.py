"""The topics that the worker writes to: whether they are there, and making them."""

from __future__ import annotations

from contextlib import closing

from kafka import KafkaAdminClient, errors

from stream_ad.config import KafkaSource
from stream_ad.transports import ConfigurationError
from stream_ad.transports.kafka_connection import client_config, make_client

UNKNOWN_TOPIC = 3


def missing_topics(settings: KafkaSource, topics: list[str]) -> list[str]:
    """Those of `topics` that are not there."""
    admin, _ = make_client(KafkaAdminClient, **client_config(settings, "source"))
    with closing(admin):
        found = {topic["name"]: topic["error_code"] for topic in admin.describe_topics(topics)}
    return [topic for topic in topics if found.get(topic, UNKNOWN_TOPIC) == UNKNOWN_TOPIC]


def create_topics(settings: KafkaSource, topics: list[str]) -> None:
    """Make topics with as many partitions as the input has, replicated as the brokers' default says.

    Raises `ConfigurationError` if the brokers refuse.
    """
    admin, _ = make_client(KafkaAdminClient, **client_config(settings, "source"))
    with closing(admin):
        try:
            [description] = admin.describe_topics(settings.topics[:1])
            partitions = len(description["partitions"])
            wanted = {topic: {"num_partitions": partitions} for topic in topics}
            admin.create_topics(wanted, wait_for_metadata=True)
        except errors.TopicAlreadyExistsError:
            return  # somebody else has just made it
        except errors.KafkaError as error:
            raise ConfigurationError(
                f"--create-topics: the brokers do not create {', '.join(topics)}: {error}. "
                "Let somebody who may create them do it."
            ) from error
