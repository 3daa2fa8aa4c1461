"""The worker as people run it: a process of its own with a configuration file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from stream_ad.detector import Detector, Recipe
from stream_ad.learning import LearningSettings
from stream_ad.records import RecordSchema
from stream_ad.registry import ModelRegistry, Snapshot
from stream_ad.simulation import SENSORS, Plant

SHORT = Recipe(
    autoencoder_steps=200,
    rarity_steps=100,
    vae_steps=100,
    classifier_steps=150,
    synthetic_outliers=3000,
    cross_fit_below=0,
)
BRIEF = Recipe(
    autoencoder_steps=30,
    rarity_steps=30,
    vae_steps=30,
    classifier_steps=30,
    synthetic_outliers=200,
    prototypes=64,
    cross_fit_below=100,
)
"""For what does not depend on how good the detector is."""


def wait_until(what: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true value of `what`, asked again and again; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s")


class Topics:
    """Names of a test's own topics and group."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex[:8]
        self.input, self.scores, self.anomalies, self.dead_letters, self.group = (
            f"{name}-{mark}" for name in ("input", "scores", "anomalies", "dead-letters", "group")
        )

    def create(self, kafka: Any, partitions: int = 1) -> None:
        kafka.create_topic(self.input, partitions)
        for name in (self.scores, self.anomalies, self.dead_letters):
            kafka.create_topic(name)


def kafka_config(bootstrap: str, topics: Topics, registry: Path, **changes: Any) -> dict[str, Any]:
    """A configuration for the plant's JSON records; `changes` by dotted path with __ for the dot."""
    settings: dict[str, Any] = {
        "source": {"bootstrap_servers": bootstrap, "topics": [topics.input], "group": topics.group},
        "schema": {"features": list(SENSORS), "id": "id"},
        "training": {"every_rows": None, "every_seconds": None, "min_interval_seconds": 0, "cold_start": "none"},
        "alerts": {"false_alarm_rate": 0.005},
        "sink": {
            "topic": topics.scores,
            "anomalies_topic": topics.anomalies,
            "dead_letter_topic": topics.dead_letters,
        },
        "registry": {"path": str(registry)},
        "monitoring": {"host": "127.0.0.1", "port": 0, "log_format": "json"},
    }
    for path, value in changes.items():
        section, key = path.split("__")
        settings[section][key] = value
    return settings


def plant_json(values: np.ndarray, first: int = 0) -> list[bytes | None]:
    """Rows of the plant as JSON records with ids from `first` on."""
    return [
        orjson.dumps({"id": f"row-{first + i}", **dict(zip(SENSORS, row, strict=True))})
        for i, row in enumerate(values.tolist())
    ]


@cache
def _plant_model() -> Detector:
    return Detector(0.005, "cpu", recipe=SHORT).fit(Plant(seed=0, drift=False).rows(6000).values)


def publish_model(registry: Path, detector: Detector | None = None, features: tuple[str, ...] = SENSORS) -> str:
    """Put a model of the plant (trained once for all tests) into a registry and make it live."""
    detector = detector or _plant_model()
    registry.mkdir(parents=True, exist_ok=True)
    models = ModelRegistry(str(registry), 10)
    version = models.save(
        Snapshot(
            version="",
            weights=detector.tensors(),
            description=detector.description(),
            schema_fingerprint=RecordSchema(features).fingerprint,
            features=list(features),
            report={"rows": 6000},
            verdict={"accepted": True, "reasons": []},
            created_at=time.time(),
        )
    )
    models.set_live(version)
    return version


class RunningWorker:
    """`stream-ad run`, with short trainings, as a process; its log is read as JSON."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], name: str = "worker", options: Sequence[str] = ()
    ) -> None:
        self.config = folder / f"{name}.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        self._log = folder / f"{name}.{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.short_trainings", "run", "-c", str(self.config), *options],
                stderr=log,
                stdout=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def logs(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def text(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, message: str, seconds: float = 60.0) -> dict[str, Any]:
        """The first log line that contains `message`."""

        def look() -> dict[str, Any] | None:
            found = next((line for line in self.logs() if message in line["message"]), None)
            assert found or self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            return found

        found: dict[str, Any] = wait_until(look, seconds)
        return found

    @property
    def port(self) -> int:
        return int(self.wait_for_log("monitoring")["monitoring_port"])

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """Value of one series of /metrics; 0.0 where it is not there (yet)."""
        line = next((line for line in self.get("/metrics")[1].splitlines() if line.startswith(name + " ")), "x 0.0")
        return float(line.rsplit(" ", 1)[1])

    def stop(self, with_signal: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=seconds)

    def __enter__(self) -> RunningWorker:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def learning_settings(**changes: Any) -> LearningSettings:
    """Those of a learner that trains when it is asked to; `schema` at least has to be given."""
    settings: dict[str, Any] = {
        "false_alarm_rate": 0.01,
        "min_rows": 500,
        "window_rows": 5000,
        "every_rows": None,
        "every_seconds": None,
        "min_interval_seconds": 0.0,
        "timeout_seconds": 60.0,
        "drift": "none",
        "on_regime_change": "adapt",
        "reference": "none",
        "rollback_after": 2000,
        "device": "cpu",
        "seed": 0,
        "threads": 1,
    }
    return LearningSettings(**(settings | changes))
