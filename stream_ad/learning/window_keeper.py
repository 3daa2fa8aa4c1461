"""Window keeper: writes the learner's window to the registry, beside the scoring."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from stream_ad.learning.follower import LONGEST_WAIT
from stream_ad.registry import Arrays, ModelRegistry, RegistryError

log = logging.getLogger("stream_ad.learning")

SECONDS = 5.0
"""Between two writes at least: labels come one by one, and each time all of the window is written."""


class WindowKeeper:
    """Keeps a window for the next run. A registry that is slow, or does not answer, holds nobody up."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._wanted = False
        self._next = 0.0
        self._thread: threading.Thread | None = None

    @property
    def writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def ask(self) -> None:
        """Have the window written soon."""
        self._wanted = True

    def step(self, now: float, window: Callable[[], Arrays]) -> None:
        """Begin to write what `window` gives, copies, if that is asked for and due; returns at once."""
        if not self._wanted or now < self._next or self.writing:
            return
        self._wanted, self._next = False, now + SECONDS
        self._begin(window())

    def finish(self, window: Arrays) -> None:
        """Write the last one, and wait for it as long as a process that ends can."""
        if self._thread is not None:
            self._thread.join(timeout=LONGEST_WAIT)
        self._begin(window)
        assert self._thread is not None
        self._thread.join(timeout=LONGEST_WAIT)

    def _begin(self, window: Arrays) -> None:
        self._thread = threading.Thread(target=self._write, args=(window,), name="window-keeper", daemon=True)
        self._thread.start()

    def _write(self, window: Arrays) -> None:
        try:
            self._registry.save_window(window)
        except (RegistryError, OSError) as error:
            log.error("the window could not be kept, the next run fills a new one: %s", error)
