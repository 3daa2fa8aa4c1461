"""What a scorer has in place of a learner: it takes up the models that a trainer publishes."""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.changes import Changes
from stream_ad.learning.feedback import Label
from stream_ad.learning.follower import LoadedModel, ModelFollower
from stream_ad.learning.settings import LearningSettings
from stream_ad.learning.trainer import Outcome
from stream_ad.records import Batch
from stream_ad.registry import ModelRegistry

log = logging.getLogger("stream_ad.learning")

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class FollowOnly:
    """As `Learner` to the worker, with no window and no training; the registry is only read."""

    window_rows = 0
    quarantine_rows = 0
    regime_change = False
    rollbacks = 0
    training = False
    model_coming = False

    def __init__(self, settings: LearningSettings, registry: ModelRegistry) -> None:
        self._follower = ModelFollower(registry, settings)

    def restore(self) -> LoadedModel | None:
        """The live model, if there is one yet. Raises `SchemaMismatch` if it has another schema."""
        return self._follower.first(with_window=False)[0]

    def observe(
        self, values: Float64, score: Float64, residual: Float64, sequence: Int64, stretch: float = 1.0
    ) -> Changes:
        """The trainer reads the stream for itself."""
        return Changes()

    def remember(self, batch: Batch, rows: NDArray[np.int64], values: Float64, score: Float64) -> None:
        """As `observe`."""

    def take_labels(self, labels: list[Label]) -> list[bool]:
        """Not one is of use here: the trainer reads them too."""
        return [False] * len(labels)

    def request(self, trigger: str) -> None:
        log.warning("a worker of role scorer does not train: ask the trainer")

    def step(self) -> tuple[Outcome | None, LoadedModel | None]:
        return None, self._follower.next_model(time.monotonic())

    def apply(self, settings: LearningSettings) -> None:
        """Go on with other settings of the same schema."""
        self._follower.apply(settings)

    def close(self) -> None:
        """There is nothing to keep."""

    def wait(self) -> None:
        """For a model that is being loaded, before the process ends."""
        self._follower.wait()
