"""The reference: one early model that stays, to see how far operation has moved away from it.

A model that follows the stream follows a slow drift too, and so does whoever drifts slowly on purpose: to the live
model each day looks like the day before. To a model that has not moved it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stream_ad.detector import Detector
from stream_ad.detector.detector import Device
from stream_ad.registry import ModelRegistry, RegistryError

LATEST = 0.25
"""Share of the window's rows; the others are of long ago, when operation had not moved so far."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How far operation has moved away from the reference."""

    reference: str | None = None
    """Its version; None where there is none yet, or none is wanted."""
    reference_distance: float | None = None
    """Share of recent inliers that the reference flags, over the budget. About 1, or less: they are to it as its
    own time was. 10: what is normal to the live model gives ten times as many alarms by the reference.
    At 1 / budget it flags every row. What it has not seen, such as a season, counts as moved too."""
    reference_note: str = ""
    """Why there is no distance, where one was asked for."""


def compare(
    registry: ModelRegistry,
    wanted: str,
    fingerprint: str,
    recent: NDArray[np.float64],
    false_alarm_rate: float,
    device: Device | torch.device,
) -> Moved:
    """Let the reference judge recent inliers [n, d], the latest last."""
    version = registry.reference(wanted, fingerprint)
    if version is None:
        return Moved()
    try:
        snapshot = registry.load(version, with_window=False)
    except RegistryError as error:
        return Moved(version, None, f"there is no distance from training.reference {wanted}: {error}")
    if snapshot.schema_fingerprint != fingerprint:
        return Moved(version, None, f"training.reference {wanted} was learned on another schema and says nothing here")
    detector = Detector.restore(snapshot.description, snapshot.weights, device)
    detector.set_false_alarm_rate(false_alarm_rate)
    flagged = detector.score(recent[-max(1, round(LATEST * len(recent))) :]) >= 1.0
    return Moved(version, float(flagged.mean()) / false_alarm_rate)
