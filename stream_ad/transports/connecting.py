"""Connecting: opening sources and sinks whose far side may not be there yet."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from stream_ad.transports.base import ConfigurationError, Sink, Source, TransportError

log = logging.getLogger("stream_ad.transports")

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 10.0


class StoppedEarly(TransportError):
    """The worker was told to stop while it was still connecting."""


def connect(ends: Sequence[Source | Sink], patience: float, stopping: threading.Event) -> None:
    """Open one after the other, with growing pauses until `patience` seconds are over.

    Raises `ConfigurationError` for what waiting cannot mend, `TransportError` when patience is over, and `StoppedEarly`
    if `stopping` is set meanwhile.
    """
    deadline = time.monotonic() + patience
    pause = FIRST_RETRY_SECONDS
    for end in ends:
        while (error := trouble_opening(end)) is not None:
            if time.monotonic() + pause > deadline:
                raise error
            log.warning("%s; trying again in %.1f s", error, pause)
            if stopping.wait(pause):
                raise StoppedEarly("stopped before the brokers answered")
            pause = min(2.0 * pause, LONGEST_RETRY_SECONDS)


def trouble_opening(end: Source | Sink) -> TransportError | None:
    """Open a source or sink; what waiting may mend is returned, all else raised."""
    try:
        end.open()
    except ConfigurationError:
        raise
    except TransportError as error:
        return error
    return None
