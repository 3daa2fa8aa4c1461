"""Connecting: what waiting may mend is waited for, nothing is opened twice, and a stop is heard."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from stream_ad.transports import ConfigurationError, Source, StoppedEarly, TransportError, connect, connecting


class End:
    """Opens after so many failures."""

    def __init__(self, *failures: TransportError) -> None:
        self.failures = list(failures)
        self.opened = 0

    def open(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.opened += 1


def connected(*ends: End, patience: float = 5.0, stopping: threading.Event | None = None) -> None:
    connect([cast(Source, end) for end in ends], patience, stopping or threading.Event())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "FIRST_RETRY_SECONDS", 0.01)


def test_what_is_open_is_not_opened_again_while_the_next_is_waited_for() -> None:
    source, sink = End(), End(TransportError("no broker"), TransportError("no broker"))
    connected(source, sink)
    assert (source.opened, sink.opened) == (1, 1)


def test_what_waiting_cannot_mend_is_raised_at_once() -> None:
    source = End(ConfigurationError("no such topic"), ConfigurationError("asked twice"))
    with pytest.raises(ConfigurationError, match="no such topic"):
        connected(source)


def test_patience_ends_with_the_last_error() -> None:
    with pytest.raises(TransportError, match="second"):
        connected(End(TransportError("first"), TransportError("second"), TransportError("third")), patience=0.015)


def test_a_stop_while_waiting_is_heard() -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(StoppedEarly):
        connected(End(TransportError("no broker")), stopping=stopping)
