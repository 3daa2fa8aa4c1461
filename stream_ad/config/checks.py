"""What no single field can tell: combinations that cannot work, and those that should be thought over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stream_ad.config.models import Config, FileSource, KafkaConnection, KafkaSink, KafkaSource, LabelsTopic

CALIBRATION_SHARE = 0.5
LEAST_EXPECTED_ALARMS = 5.0
LEAST_WINDOWS = 25
"""So many windows of rows in time, side by side, say what their means usually are."""


def check(config: Config) -> list[tuple[str, str]]:
    """Path and message of each combination that cannot work."""
    return [
        *_role(config),
        *_schema(config),
        *_training(config),
        *_labels(config),
        *_alerts(config),
        *_topics(config),
        *_connections(config),
        *_file(config),
    ]


def warnings(config: Config) -> list[str]:
    """What works, but hardly as wanted."""
    found = []
    alarms = config.alerts.false_alarm_rate * CALIBRATION_SHARE * config.training.window_rows
    # What share of the rows so many a day are shows only on the stream.
    if config.alerts.per_day is None and alarms < LEAST_EXPECTED_ALARMS:
        rows = round(LEAST_EXPECTED_ALARMS / CALIBRATION_SHARE / config.alerts.false_alarm_rate, -2)
        found.append(
            f"training.window_rows: {config.training.window_rows} rows hardly show what one false alarm in "
            f"{1 / config.alerts.false_alarm_rate:.0f} is; {rows:.0f} rows would"
        )
    schema = config.schema_
    if schema.window * LEAST_WINDOWS > config.training.min_rows:
        found.append(
            f"schema.window: the first model learns from {config.training.min_rows} rows (training.min_rows), which "
            f"are few windows of {schema.window}; {schema.window * LEAST_WINDOWS} rows, or a shorter window, raise "
            "fewer false alarms"
        )
    if schema.calendar and schema.timestamp is None and isinstance(config.source, FileSource):
        found.append("schema.calendar: rows of a file have no time unless schema.timestamp names the field of it")
    return found


Problems = Iterator[tuple[str, str]]


def _role(config: Config) -> Problems:
    if config.role == "trainer" and isinstance(config.source, FileSource):
        yield "role", "a trainer reads topics; to learn from a file use stream-ad train, or role all"


def _schema(config: Config) -> Problems:
    schema = config.schema_
    twice = sorted({name for name in schema.features if schema.features.count(name) > 1})
    if twice:
        yield "schema.features", f"{', '.join(twice)} stands there twice"
    if schema.format == "float32":
        for key in ("array_field", "key", "id", "timestamp"):
            if getattr(schema, key) is not None:
                yield (
                    f"schema.{key}",
                    "raw float32 vectors have no fields: leave it out, or set schema.format to json",
                )
    if schema.window == 1:
        yield "schema.window", "nothing can be seen in a window of the row alone: use 0 for none, or 64"
    try:
        ZoneInfo(schema.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        yield "schema.timezone", f"no time zone {schema.timezone!r} is known; write it as in Europe/Vienna"


def _training(config: Config) -> Problems:
    training = config.training
    if training.min_rows > training.window_rows:
        yield (
            "training.min_rows",
            f"the window of {training.window_rows} rows never holds {training.min_rows}",
        )
    if not re.fullmatch(r"first|none|\d{8}T\d{9}-[0-9a-f]{4}", training.reference):
        yield "training.reference", f"{training.reference!r} is neither first nor none nor a version of `models list`"


def _labels(config: Config) -> Problems:
    labels = config.training.labels
    if isinstance(labels, LabelsTopic):
        if not isinstance(config.source, KafkaSource):
            yield "training.labels", "a topic is one of the source's cluster, and source.type is not kafka: use a file"
        elif labels.topic in config.source.topics:
            yield "training.labels.topic", f"{labels.topic} is one of source.topics: its labels would be scored as rows"


def _alerts(config: Config) -> Problems:
    if config.alerts.per_day is None:
        return
    if "false_alarm_rate" in config.alerts.model_fields_set:
        yield (
            "alerts.per_day",
            "stands beside alerts.false_alarm_rate, which says the same in another unit: take one out",
        )
    if isinstance(config.source, FileSource):
        yield "alerts.per_day", "a file has no rows a day: set alerts.false_alarm_rate, a share of the rows"


def _topics(config: Config) -> Problems:
    if not isinstance(config.sink, KafkaSink):
        return
    sink = config.sink
    outputs = {
        "topic": sink.topic,
        "anomalies_topic": sink.anomalies_topic,
        "dead_letter_topic": sink.dead_letter_topic,
    }
    inputs = config.source.topics if isinstance(config.source, KafkaSource) else []
    for key, topic in outputs.items():
        if topic in inputs:
            yield f"sink.{key}", f"{topic} is also read: the worker would score its own outputs for ever"
    if sink.dead_letter_topic in (sink.topic, sink.anomalies_topic):
        yield "sink.dead_letter_topic", "must not be the topic of scores or anomalies"
    if sink.topic == sink.anomalies_topic:
        yield "sink.anomalies_topic", "is the topic of all scores: set another, or null"


def _connections(config: Config) -> Problems:
    if isinstance(config.source, KafkaSource):
        yield from _connection("source", config.source)
        if config.source.max_poll_interval < config.source.session_timeout:
            yield "source.max_poll_interval", "must not be below source.session_timeout"
    if isinstance(config.sink, KafkaSink):
        yield from _connection("sink", config.sink)


def _connection(section: str, kafka: KafkaConnection) -> Problems:
    sasl = kafka.security_protocol.startswith("SASL")
    if sasl and kafka.sasl_mechanism is None:
        yield f"{section}.sasl_mechanism", f"is needed with security_protocol {kafka.security_protocol}"
    if not sasl and kafka.sasl_mechanism is not None:
        yield (
            f"{section}.security_protocol",
            "must be SASL_SSL or SASL_PLAINTEXT for sasl_mechanism to mean anything",
        )
    if kafka.sasl_mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        for key in ("sasl_username", "sasl_password"):
            if getattr(kafka, key) is None:
                yield f"{section}.{key}", f"is needed with sasl_mechanism {kafka.sasl_mechanism}"
    if (kafka.ssl_certfile is None) != (kafka.ssl_keyfile is None):
        yield f"{section}.ssl_keyfile", "ssl_certfile and ssl_keyfile go together"


def _file(config: Config) -> Problems:
    source = config.source
    if isinstance(source, FileSource) and source.follow and source.path.endswith((".gz", ".parquet")):
        yield "source.follow", "only plain .csv and .jsonl files can be followed"
