"""Writing scores, anomalies and dead letters to Kafka topics."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.partitioner import murmur2

from stream_ad import config
from stream_ad.records import DeadLetter
from stream_ad.transports.base import ConfigurationError, DeliveryError, TransportError
from stream_ad.transports.kafka_connection import client_config, make_client, probe
from stream_ad.transports.kafka_dead_letters import DeadLetterWriter, close_producer, settle

log = logging.getLogger(__name__)

# How long a send may wait to learn the partitions of a topic that has vanished.
BLOCK_MS = 5000
LINGER_MS = 5
BATCH_BYTES = 256 << 10
# Larger than brokers take by default: what is too large is for the topic's max.message.bytes to say.
REQUEST_BYTES = 32 << 20

# The partition of a key as all Kafka clients choose it; in pure Python it takes as long as the sending.
_hash = lru_cache(maxsize=1 << 16)(murmur2)
