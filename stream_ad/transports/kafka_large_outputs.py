"""Outputs of which a topic has refused some as too large: these are reduced, or become dead letters at last."""

from __future__ import annotations

import logging
from typing import NamedTuple

from stream_ad import config
from stream_ad.records import DeadLetter, undeliverable, with_top_features, without_key
from stream_ad.transports.kafka_producer import close_producer, make_careful_producer, settle
from stream_ad.transports.kafka_refusals import TOO_LARGE, RefusalLog, not_taken, send

log = logging.getLogger(__name__)


class Output(NamedTuple):
    """A record for a topic that stands at `config_key` in config.yaml."""

    config_key: str
    topic: str
    key: bytes | None
    value: bytes


class LargeOutputs:
    """Sends what an idempotent producer had in hand when one of its records was refused.

    It blames all of them, so each goes once more as it is. What is refused again keeps the top features, then goes
    without the key in its JSON.
    """

    def __init__(self, settings: config.KafkaSink) -> None:
        self._settings = settings
        self._refusals = RefusalLog(log, settings)

    def deliver(self, outputs: list[Output]) -> list[DeadLetter]:
        """Return when all are acknowledged but those that are too large in any form: these as dead letters."""
        producer = make_careful_producer(self._settings)
        try:
            refused = self._refused(producer, outputs)
            for reduce in (with_top_features, without_key):
                if refused:
                    self._tell(refused)
                    reduced = [output._replace(value=reduce(output.value)) for output in refused]
                    refused = self._refused(producer, reduced)
        finally:
            close_producer(producer)
        return [undeliverable(output.key, output.value, output.topic) for output in refused]

    def _refused(self, producer: object, outputs: list[Output]) -> list[Output]:
        """Send outputs; return those that are too large."""
        futures = [send(producer, output.topic, key=output.key, value=output.value) for output in outputs]
        settle(producer, futures, self._settings.delivery_timeout)
        failed = [(output, future.exception) for output, future in zip(outputs, futures, strict=True)]
        failed = [(output, error) for output, error in failed if error is not None]
        for output, error in failed:
            if not isinstance(error, TOO_LARGE):
                what = f"{len(failed)} of {len(outputs)} records"
                raise not_taken(output.config_key, output.topic, error, what, self._settings) from error
        return [output for output, _ in failed]

    def _tell(self, refused: list[Output]) -> None:
        largest = max(refused, key=lambda output: len(output.value))
        message = (
            f"{len(refused)} outputs are too large and are reduced, the largest has {len(largest.value)} bytes and a "
            f"key of {len(largest.key or b'')}"
        )
        self._refusals.tell(logging.WARNING, largest.topic, largest.topic, message)
