"""Where records come from and go to: Kafka, files, memory."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad import config
from stream_ad.transports.base import (
    ConfigurationError,
    DeliveryError,
    PartitionLag,
    Sink,
    Source,
    SourceStatistics,
    TransportError,
)
from stream_ad.transports.connecting import StoppedEarly, connect

if TYPE_CHECKING:
    from stream_ad.records import RecordSchema

__all__ = [
    "ConfigurationError",
    "DeliveryError",
    "PartitionLag",
    "Sink",
    "Source",
    "SourceStatistics",
    "StoppedEarly",
    "TransportError",
    "connect",
    "make_label_source",
    "make_sink",
    "make_source",
]


def make_source(settings: config.Config, schema: RecordSchema) -> Source:
    """The source that the configuration names, not opened yet."""
    if isinstance(settings.source, config.KafkaSource):
        from stream_ad.transports.kafka_source import KafkaSource

        if settings.role == "trainer":
            # A window's worth: what is older would leave the window before the next training.
            wanted = int(settings.training.window_rows / settings.training.sample)
            own_group = settings.source.model_copy(update={"group": f"{settings.source.group}-trainer"})
            return KafkaSource(own_group, most_behind=wanted)
        return KafkaSource(settings.source)
    if isinstance(settings.source, config.FileSource):
        from stream_ad.transports.file import ROWS_PER_POLL, FileSource

        # Not more at once than the first training waits for: in a small file it would be all.
        return FileSource(settings.source, schema, min(ROWS_PER_POLL, settings.training.min_rows))
    raise ConfigurationError("source.type memory is for programs: give the source to Worker(config, source=...)")


def make_label_source(settings: config.Config, schema: RecordSchema) -> Source | None:
    """Where labels come from, not opened yet; None if from nowhere.

    They are read from the beginning at each start, by each worker for itself: whose rows they are about nobody
    else knows.
    """
    labels = settings.training.labels
    if labels is None or settings.role == "scorer":
        return None
    if isinstance(labels, config.LabelsFile):
        from stream_ad.transports.file import FileSource

        return FileSource(config.FileSource(type="file", path=labels.path, follow=True), schema)
    if not isinstance(settings.source, config.KafkaSource):
        raise ConfigurationError("training.labels: a topic is one of the source's cluster; source.type is not kafka")
    from stream_ad.transports.kafka_source import KafkaSource

    alone = {"topics": [labels.topic], "group": f"{settings.source.group}-labels-{uuid.uuid4()}", "start": "earliest"}
    return KafkaSource(settings.source.model_copy(update=alone), key="training.labels.topic")


def make_sink(settings: config.Config) -> Sink:
    """The sink that the configuration names, not opened yet."""
    if isinstance(settings.sink, config.KafkaSink):
        from stream_ad.transports.kafka_sink import KafkaSink

        topics = settings.source.topics if isinstance(settings.source, config.KafkaSource) else []
        return KafkaSink(settings.sink, topics)
    if isinstance(settings.sink, config.FileSink):
        from stream_ad.transports.file import FileSink

        resumes = isinstance(settings.source, config.KafkaSource)
        sink = FileSink(settings.sink, append=resumes, episodes=settings.alerts.emit == "episodes")
        for read in (settings.source, settings.training.labels):
            if isinstance(read, config.FileSource | config.LabelsFile):
                _check_apart(read.path, sink.paths)
        return sink
    raise ConfigurationError("sink.type memory is for programs: give the sink to Worker(config, sink=...)")


def _check_apart(source: str, outputs: list[Path]) -> None:
    for output in outputs:
        if _same_file(Path(source), output):
            raise ConfigurationError(
                f"the outputs would go to {output}, which is the file that is read: it would be emptied. "
                "Name another sink.path (score: -o)"
            )


def _same_file(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)  # A hard link has a path of its own.
    except OSError:
        return False
