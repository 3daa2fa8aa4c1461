"""Filling the input topic: with a file, or with the simulated plant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import orjson

from stream_ad.config import Config, FileSource, KafkaConnection, KafkaSink, KafkaSource
from stream_ad.records import RecordSchema
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports import ConfigurationError, DeliveryError, make_source

CHUNK = 2000
"""Most rows sent between two looks at the clock."""

Records = Iterator[list[bytes]]


def plant_records(config: Config, rows: int, seed: int, fault_rate: float, rate: float | None = None) -> Records:
    """Rows of the plant in the format of the schema, a chunk at a time: a second's worth at `rate` rows a second.

    As JSON they carry `id`, the row's number, and `ts`, the present time.
    """
    plant = Plant(seed=seed, fault_rate=fault_rate)
    chunk = CHUNK if rate is None else max(1, min(CHUNK, int(rate)))
    made = 0
    while made < rows:
        values = plant.rows(min(chunk, rows - made)).values
        yield encode_rows(config, values, made)
        made += len(values)


def encode_rows(config: Config, values: np.ndarray[tuple[int, int], np.dtype[np.float64]], first: int) -> list[bytes]:
    """Rows [n, sensors] as record values."""
    if config.schema_.format == "float32":
        return [row.tobytes() for row in values.astype("<f4")]
    now = int(time.time() * 1000)
    return [
        orjson.dumps({"id": str(first + i), "ts": now, **dict(zip(SENSORS, row, strict=True))})
        for i, row in enumerate(np.round(values, 4).tolist())
    ]


def file_records(config: Config, source: FileSource) -> Records:
    """The rows of a file as record values: JSON Lines as they are, CSV and Parquet as JSON objects."""
    schema = RecordSchema(**config.schema_.model_dump())
    reader = make_source(config.model_copy(update={"source": source}), schema)
    reader.open()
    try:
        while not reader.exhausted:
            yield [value for value in reader.poll(0.0).values if value is not None]
    finally:
        reader.close()


def produce_records(
    config: Config,
    records: Records,
    rate: float | None,
    progress: Callable[[str, int, int | None], None],
    total: int | None,
) -> int:
    """Send records to the first input topic, `rate` a second (None: as fast as it goes); return their number.

    Raises `TransportError` if the topic is not there or a record is not acknowledged.
    """
    if not isinstance(config.source, KafkaSource):
        raise ConfigurationError("source.type must be kafka to produce: it names the topic that is filled")
    from stream_ad.transports.kafka_probe import probe
    from stream_ad.transports.kafka_producer import close_producer, make_producer, settle

    topic = config.source.topics[0]
    connection = config.source.model_dump(include=set(KafkaConnection.model_fields))
    settings = KafkaSink(topic=topic, **connection)
    probe(settings, "source", [("source.topics", topic)], "Write")
    producer = make_producer(settings, enable_idempotence=True)
    sent, started = 0, time.monotonic()
    try:
        for chunk in records:
            futures = [producer.send(topic, value) for value in chunk]
            settle(producer, futures, settings.delivery_timeout)
            failed = [future.exception for future in futures if future.exception is not None]
            if failed:
                raise DeliveryError(f"{len(failed)} of {len(chunk)} records were not taken by {topic}: {failed[0]}")
            sent += len(chunk)
            progress(f"producing to {topic}", sent, total)
            if rate is not None:
                time.sleep(max(0.0, started + sent / rate - time.monotonic()))
    finally:
        close_producer(producer)
    return sent
