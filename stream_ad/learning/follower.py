"""Follows the registry's live pointer and has the next model ready before it is asked for."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import numpy as np

from stream_ad.detector import Detector
from stream_ad.learning.settings import LearningSettings
from stream_ad.registry import Arrays, ModelRegistry, RegistryError, RegistryUnavailable, Snapshot, require_schema

log = logging.getLogger("stream_ad.models")

WARM_UP_ROWS = (1, 64, 1000, 4096)
"""TorchScript optimises on its first calls: better here than between two batches."""

LONGEST_WAIT = 10.0
"""Seconds; a model is warm within two, a registry that does not answer may take for ever."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is compiled and warm."""

    version: str
    created_at: float
    detector: Detector


class ModelFollower:
    """Looks at the live pointer now and then and loads a new model, both in a thread.

    By content, not by file events: a swapped symlink or a network file system sends none. A pointer that is
    missing or torn for a moment, or a registry that does not answer, changes nothing.
    """

    def __init__(self, registry: ModelRegistry, settings: LearningSettings) -> None:
        self._registry = registry
        self._settings = settings
        self._next_look = 0.0
        self._known: tuple[str | None, float] = (None, settings.false_alarm_rate)
        self._thread: threading.Thread | None = None
        self._loaded: LoadedModel | None = None
        self._away = False

    def first(self, with_window: bool) -> tuple[LoadedModel | None, Arrays | None]:
        """The live model and, if asked for, the window it was learned from, loaded now, if there is one.

        Raises `SchemaMismatch` for a model of another schema.
        """
        snapshot = self._registry.load_live(with_window)
        if snapshot is None:
            return None, None
        self._known = (self._registry.live(), self._settings.false_alarm_rate)
        return self._prepare(snapshot, self._settings.false_alarm_rate), snapshot.window

    def before(self, version: str) -> LoadedModel | None:
        """The accepted model before this one, loaded now; None if there is none that can be used."""
        try:
            earlier = self._registry.accepted_before(version)
            if earlier is None:
                return None
            return self._prepare(self._registry.load(earlier, with_window=False), self._settings.false_alarm_rate)
        except RegistryError as error:
            log.warning("the model before %s cannot be used, so that it is not watched beside it: %s", version, error)
            return None

    @property
    def seen(self) -> str | None:
        """The version that was live at the last look, whether it could be used or not."""
        return self._known[0]

    @property
    def loading(self) -> bool:
        """Whether a look, which may load a model, is under way."""
        return self._thread is not None

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
            self._next_look = now + self._registry.look_seconds
            self._thread = threading.Thread(target=self._look, name="model-loader", daemon=True)
            self._thread.start()
        return None

    def apply(self, settings: LearningSettings) -> None:
        """Go on with other settings; with another budget the live model is loaded once more."""
        self._settings = settings
        self.look_now()

    def wait(self) -> None:
        """Until a look under way has ended, for a moment: the end of the process must not cut it off inside PyTorch,
        which would abort instead."""
        if self._thread is not None:
            self._thread.join(timeout=LONGEST_WAIT)

    def _look(self) -> None:
        rate = self._settings.false_alarm_rate
        try:
            live = self._registry.live()
        except (RegistryError, OSError) as error:
            if not self._away:
                log.warning("the present model stays while the registry cannot be read: %s", error)
            self._away = True
            return
        if self._away:
            log.info("the registry can be read again")
            self._away = False
        if live is None or (live, rate) == self._known:
            return
        try:
            self._loaded = self._prepare(self._registry.load(live, with_window=False), rate)
            self._known = (live, rate)
        except (RegistryUnavailable, OSError) as error:
            log.warning("model %s could not be read, once more in a moment: %s", live, error)
        except RegistryError as error:
            self._known = (live, rate)
            log.error("model %s is not used, the present one stays: %s", live, error)

    def _prepare(self, snapshot: Snapshot, false_alarm_rate: float) -> LoadedModel:
        settings = self._settings
        require_schema(snapshot, settings.schema)
        detector = Detector.restore(snapshot.description, snapshot.weights, settings.device)
        # The budget may have been changed since it learned.
        detector.set_false_alarm_rate(false_alarm_rate)
        row = detector.centre
        for n in WARM_UP_ROWS:
            for _ in range(2):
                detector.judge(np.tile(row, (n, 1)))
                detector.explain(np.tile(row, (min(n, 64), 1)))
        return LoadedModel(snapshot.version, snapshot.created_at, detector)
