"""What the learning loop takes from the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """The settings of one worker's learning; `features` and `fingerprint` are the schema's."""

    features: list[str]
    fingerprint: str
    false_alarm_rate: float
    min_rows: int
    window_rows: int
    every_rows: int | None
    every_seconds: float | None
    min_interval_seconds: float
    timeout_seconds: float
    device: str
    seed: int
    threads: int
