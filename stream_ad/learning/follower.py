"""Follows the registry's live pointer and has the next model ready before it is asked for."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import numpy as np

from stream_ad.detector import Detector
from stream_ad.registry import Arrays, ModelRegistry, RegistryError, Snapshot, require_schema

log = logging.getLogger("stream_ad.models")

WARM_UP_ROWS = (1, 64, 1000, 4096)
"""TorchScript optimises on its first calls: better here than between two batches."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is compiled and warm."""

    version: str
    created_at: float
    detector: Detector


class ModelFollower:
    """Looks at the live pointer now and then; loads a new model in a thread.

    By content, not by file events: a swapped symlink or a network file system sends none. A pointer that is
    missing or torn for a moment changes nothing.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        features: list[str],
        fingerprint: str,
        false_alarm_rate: float,
        device: str,
        every_seconds: float = 1.0,
    ) -> None:
        self._registry = registry
        self._features = features
        self._fingerprint = fingerprint
        self._false_alarm_rate = false_alarm_rate
        self._device = device
        self._every = every_seconds
        self._next_look = 0.0
        self._known: str | None = None
        self._thread: threading.Thread | None = None
        self._loaded: LoadedModel | None = None

    def first(self) -> tuple[LoadedModel | None, Arrays | None]:
        """The live model and the window it was learned from, loaded now, if there is one.

        Raises `SchemaMismatch` for a model of another schema.
        """
        snapshot = self._registry.load_live()
        if snapshot is None:
            return None, None
        self._known = self._registry.live()
        return self._prepare(snapshot), snapshot.window

    def look_now(self) -> None:
        """Look at the next call of `next_model`, whenever the last look was."""
        self._next_look = 0.0

    def next_model(self, now: float) -> LoadedModel | None:
        """The model to swap in, once it is ready; returns at once in any case."""
        if self._thread is not None:
            if self._thread.is_alive():
                return None
            self._thread.join()
            self._thread = None
            loaded, self._loaded = self._loaded, None
            return loaded
        if now >= self._next_look:
            self._next_look = now + self._every
            live = self._registry.live()
            if live is not None and live != self._known:
                self._known = live
                self._thread = threading.Thread(target=self._load, args=(live,), name="model-loader", daemon=True)
                self._thread.start()
        return None

    def _load(self, version: str) -> None:
        try:
            self._loaded = self._prepare(self._registry.load(version))
        except RegistryError as error:
            log.error("model %s is not used, the present one stays: %s", version, error)

    def _prepare(self, snapshot: Snapshot) -> LoadedModel:
        require_schema(snapshot, self._fingerprint, self._features)
        detector = Detector.restore(snapshot.description, snapshot.weights, self._device)  # type: ignore[arg-type]  # checked by the config
        # The budget may have been changed since it learned.
        detector.set_false_alarm_rate(self._false_alarm_rate)
        row = detector.centre
        for n in WARM_UP_ROWS:
            for _ in range(2):
                detector.judge(np.tile(row, (n, 1)))
                detector.explain(np.tile(row, (min(n, 64), 1)))
        return LoadedModel(snapshot.version, snapshot.created_at, detector)
