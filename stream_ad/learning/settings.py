"""What the learning loop takes from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from stream_ad.detector.detector import Device
from stream_ad.records import RecordSchema


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """The settings of one worker's learning."""

    schema: RecordSchema
    false_alarm_rate: float
    min_rows: int
    window_rows: int
    every_rows: int | None
    every_seconds: float | None
    min_interval_seconds: float
    timeout_seconds: float
    drift: str
    on_regime_change: str
    reference: str
    rollback_after: int
    device: Device
    seed: int
    threads: int
    labels: bool = False
    """Whether rows can be labelled, and must be remembered for that."""
