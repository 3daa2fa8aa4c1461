"""The configuration: its sections, how it is read, how it is checked. Knows nothing else of stream_ad."""

from stream_ad.config.checks import warnings
from stream_ad.config.loading import ConfigError, Problem, load
from stream_ad.config.models import (
    Alerts,
    Config,
    DetectorSettings,
    FileSink,
    FileSource,
    KafkaConnection,
    KafkaSink,
    KafkaSource,
    LabelsFile,
    LabelsTopic,
    MemorySink,
    MemorySource,
    Monitoring,
    Registry,
    Schema,
    Training,
)
from stream_ad.config.watching import ConfigWatcher

__all__ = [
    "Alerts",
    "Config",
    "ConfigError",
    "ConfigWatcher",
    "DetectorSettings",
    "FileSink",
    "FileSource",
    "KafkaConnection",
    "KafkaSink",
    "KafkaSource",
    "LabelsFile",
    "LabelsTopic",
    "MemorySink",
    "MemorySource",
    "Monitoring",
    "Problem",
    "Registry",
    "Schema",
    "Training",
    "load",
    "warnings",
]
