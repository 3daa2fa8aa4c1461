"""The plant with one planted fault, a worker that scores it, and a Prometheus that watches the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from stream_ad.simulation import SENSORS, Plant
from tests.prometheus_server import Prometheus, need_prometheus, prometheus
from tests.running import RunningWorker, Topics, kafka_config, plant_json, publish_model, wait_until

BROKEN_SENSOR = "pump_current"
ROWS_A_SECOND = 500


@dataclass(frozen=True)
class WatchedPlant:
    """What Prometheus has seen, and what there was to be seen. Times in seconds since the epoch."""

    prometheus: Prometheus
    started: float
    fault_began: float
    fault_ended: float
    ended: float

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query at the end of the story."""
        return self.prometheus.query(expression, time=self.ended)

    def query_range(self, expression: str) -> list[tuple[dict[str, str], dict[float, float]]]:
        """The whole story, a value a second."""
        return self.prometheus.query_range(expression, self.started, self.ended)


@pytest.fixture(scope="session")
def watched_plant(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlant]:
    """A sound plant, four seconds of a fault, some bad records, a training that runs out of time, a model swap.

    The model that takes over comes from elsewhere: to wait for a training would take most of a minute.
    """
    need_prometheus()
    folder = tmp_path_factory.mktemp("watched")
    topics = Topics()
    topics.create(kafka)
    publish_model(folder / "models")
    training = {"training__every_rows": 3500, "training__timeout_seconds": 0.5}
    settings = kafka_config(kafka.bootstrap, topics, folder / "models", **training)
    with RunningWorker(folder, settings) as worker:
        worker.wait_for_log("connected")
        with prometheus(folder, [f"127.0.0.1:{worker.port}"]) as server:
            produce = partial(kafka.produce, topics.input)
            yield _tell_the_story(server, produce, lambda: publish_model(folder / "models"))


def _tell_the_story(server: Prometheus, produce: Any, publish: Any) -> WatchedPlant:
    plant = Plant(seed=0, drift=False)
    plant.rows(6000)  # The model has seen these.
    wait_until(lambda: server.query("stream_ad_ready == 1"))
    started = time.time()
    _run_plant(plant, produce, seconds=4)
    fault_began = time.time()
    _run_plant(plant, produce, seconds=4, off=12.0)
    fault_ended = time.time()
    produce([b"not JSON", b"[]", b'{"vibration": "loud"}', None])
    _run_plant(plant, produce, seconds=4)
    wait_until(lambda: server.query('stream_ad_trainings_total{result="timeout"} > 0'), 120)
    publish()
    wait_until(lambda: server.query("stream_ad_model_swaps_total > 1"), 120)
    _run_plant(plant, produce, seconds=3)
    time.sleep(2)
    return WatchedPlant(server, started, fault_began, fault_ended, time.time())


def _run_plant(plant: Plant, produce: Any, seconds: int, off: float = 0.0) -> None:
    """Send rows for so long; `off`: by how many standard deviations the broken sensor lies in a tenth of them."""
    for _ in range(seconds):
        until = time.monotonic() + 1.0
        values = plant.rows(ROWS_A_SECOND).values
        column = values[:, SENSORS.index(BROKEN_SENSOR)]
        column[::10] += off * np.std(column)
        produce(plant_json(values))
        time.sleep(max(0.0, until - time.monotonic()))
