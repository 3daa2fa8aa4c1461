"""The worker's loop on records in memory, and the window that it learns from."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from stream_ad.config import Config
from stream_ad.learning import Outcome
from stream_ad.learning.follower import ModelFollower
from stream_ad.registry import ModelRegistry
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports import DeliveryError
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.running import SHORT, plant_json, publish_model, wait_until


def settings(registry: Path, **changes: Any) -> Config:
    data: dict[str, Any] = {
        "source": {"type": "memory"},
        "sink": {"type": "memory"},
        "schema": {"features": list(SENSORS), "id": "id"},
        "training": {"every_rows": None, "every_seconds": None, "cold_start": "none"},
        "alerts": {"false_alarm_rate": 0.005},
        "registry": {"path": str(registry)},
        "monitoring": {"host": "127.0.0.1", "port": 0},
        "detector": {"threads": 1},
    }
    for path, value in changes.items():
        section, key = path.split("__")
        data[section][key] = value
    return Config.model_validate(data)


def score_all(worker: Worker, source: MemorySource, values: list[bytes | None]) -> int:
    source.append(values)
    source.close_input()
    return worker.run()


@pytest.fixture
def live(tmp_path: Path) -> Path:
    publish_model(tmp_path / "models")
    return tmp_path / "models"


def test_every_row_gets_an_output_and_the_offset_is_committed(live: Path) -> None:
    source, sink = MemorySource(), MemorySink()
    assert (
        score_all(Worker(settings(live), source=source, sink=sink), source, plant_json(Plant(0).rows(300).values)) == 0
    )
    assert [json.loads(value)["id"] for value in sink.values] == [f"row-{i}" for i in range(300)]
    assert source.committed == 300


def test_what_is_not_delivered_is_not_committed(live: Path) -> None:
    class Failing(MemorySink):
        def flush(self) -> None:
            raise DeliveryError("the topic is gone")

    source = MemorySource()
    worker = Worker(settings(live), source=source, sink=Failing())
    assert score_all(worker, source, plant_json(Plant(0).rows(10).values)) == 1
    assert source.committed == 0
    assert worker.status()["failure"] == "the topic is gone"


def learned(worker: Worker) -> int:
    return len(worker._learner.window)


def test_what_enters_the_window(live: Path) -> None:
    rows = Plant(0).rows(6).values.tolist()
    complete, faulty, half, mostly_missing, nothing, infinite = (dict(zip(SENSORS, row, strict=True)) for row in rows)
    faulty["pump_current"] += 8.0
    half = {name: half[name] for name in SENSORS[:7]}
    mostly_missing = {name: mostly_missing[name] for name in SENSORS[:3]}
    nothing = {"feed_flow": None}
    values: list[bytes | None] = [orjson.dumps(row) for row in (complete, faulty, half, mostly_missing, nothing)]
    values.append(json.dumps(infinite | {"feed_flow": float("inf")}).encode())
    source, sink = MemorySource(), MemorySink()
    worker = Worker(settings(live), source=source, sink=sink)
    assert score_all(worker, source, values) == 0
    found = [json.loads(value) for value in sink.values]
    assert [one["status"] for one in found] == ["scored"] * 4 + ["unscored", "scored"]
    assert [one["is_anomaly"] for one in found] == [False, True, False, False, False, True]
    assert found[4]["score"] is None
    assert learned(worker) == 2, "the complete row and the one that is more than half there"
    assert len(worker._learner.window.quarantine) == 1, "an infinity does not even get into quarantine"


def test_a_missing_feature_is_named_and_does_not_raise_an_alarm(live: Path) -> None:
    rows = Plant(0, drift=False).rows(400).values
    rows[:, 4] = np.nan
    source, sink = MemorySource(), MemorySink()
    assert score_all(Worker(settings(live), source=source, sink=sink), source, plant_json(rows)) == 0
    flagged = [json.loads(value) for value in sink.anomalies]
    assert len(flagged) <= 10
    rows[7, 6] += 8.0
    source, sink = MemorySource(), MemorySink()
    assert score_all(Worker(settings(live), source=source, sink=sink), source, plant_json(rows[7:8])) == 0
    assert json.loads(sink.anomalies[0])["imputed"] == ["coolant_flow"]


def test_time_stamps_drive_nothing(live: Path) -> None:
    stamps = ["2099-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2031-03-04T09:00:00Z"]
    row = dict(zip(SENSORS, Plant(0).rows(1).values[0].tolist(), strict=True))
    source, sink = MemorySource(), MemorySink()
    worker = Worker(settings(live, schema__timestamp="ts", training__every_seconds=3600.0), source=source, sink=sink)
    assert score_all(worker, source, [orjson.dumps(row | {"ts": stamp}) for stamp in stamps]) == 0
    found = [json.loads(value) for value in sink.values]
    assert [one["timestamp"][:4] for one in found] == ["2099", "0001", "9999", "2031"]
    assert len({one["score"] for one in found}) == 1
    assert worker.status()["trainings"] == 0


class Running:
    """A worker in a thread."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.exit_code = self.worker.run()

    def wait(self) -> int | None:
        self._thread.join(60)
        return self.exit_code


@pytest.fixture
def run() -> Iterator[Callable[[Worker], Running]]:
    started: list[Running] = []

    def start(worker: Worker) -> Running:
        started.append(Running(worker))
        return started[-1]

    yield start
    for running in started:
        running.worker.stop()
        running.wait()


def test_a_rollback_is_taken_up_by_a_running_worker(live: Path, run: Callable[[Worker], Running]) -> None:
    first = publish_model(live)
    second = publish_model(live)
    source, sink = MemorySource(), MemorySink()
    worker = Worker(settings(live), source=source, sink=sink)
    run(worker)
    wait_until(lambda: worker.status()["model"] == second)
    (live / "live").unlink()
    assert worker.status()["model"] == second, "a pointer that is gone for a moment changes nothing"
    worker.registry.set_live(first)
    wait_until(lambda: worker.status()["model"] == first)
    source.append(plant_json(Plant(0).rows(1).values))
    wait_until(lambda: sink.values)
    assert json.loads(sink.values[0])["model"] == first


@pytest.mark.parametrize("role", ["all", "scorer"])
def test_a_worker_does_not_end_in_the_middle_of_loading_a_model(
    live: Path, run: Callable[[Worker], Running], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """The end of the process would cut it off inside PyTorch, which aborts: exit code 134 for a worker that was asked
    to stop."""
    begun, ended = threading.Event(), threading.Event()

    def look(follower: ModelFollower) -> None:
        begun.set()
        time.sleep(0.5)
        ended.set()

    monkeypatch.setattr(ModelFollower, "_look", look)
    config = settings(live).model_copy(update={"role": role})
    running = run(Worker(config, source=MemorySource(), sink=MemorySink()))
    wait_until(begun.is_set)
    running.worker.stop()
    running.wait()
    assert ended.is_set()


def test_a_worker_does_not_end_in_the_middle_of_judging_a_roll_back(
    live: Path, run: Callable[[Worker], Running]
) -> None:
    running = run(Worker(settings(live), source=MemorySource(), sink=MemorySink()))
    wait_until(lambda: running.worker.status()["model"])
    ended = threading.Event()
    judging = threading.Timer(0.5, ended.set)
    running.worker._learner.roll_back._thread = judging
    judging.start()
    running.worker.stop()
    running.wait()
    assert ended.is_set()


def test_a_training_by_hand_swaps_the_model_without_a_gap(
    live: Path, run: Callable[[Worker], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_ad.learning.learner.Recipe", lambda: SHORT)
    source, sink = MemorySource(), MemorySink()
    worker = Worker(settings(live), source=source, sink=sink)
    running = run(worker)
    wait_until(lambda: worker.status()["ready"])
    before = worker.status()["model"]
    plant = Plant(0, drift=False)
    source.append(plant_json(plant.rows(600).values))
    wait_until(lambda: source.committed == 600)
    worker.request_training()
    wait_until(lambda: worker.status()["training"])
    source.append(plant_json(plant.rows(50).values, 600))
    wait_until(lambda: source.committed == 650)
    assert worker.status()["training"], "scoring goes on beside it"
    wait_until(lambda: worker.status()["model"] != before, 250)
    worker.stop()
    assert running.wait() == 0
    assert len(sink.values) == 650


def test_the_window_survives_an_orderly_end_and_is_not_mixed_up_with_another_schema(live: Path) -> None:
    source = MemorySource()
    worker = Worker(settings(live), source=source, sink=MemorySink())
    assert score_all(worker, source, plant_json(Plant(0, drift=False).rows(300).values)) == 0
    again = Worker(settings(live), source=MemorySource(), sink=MemorySink())
    again._learner.restore()
    for name, array in worker._learner.window.state().items():
        np.testing.assert_array_equal(array, again._learner.window.state()[name])
    (live / "live").unlink()
    other = Worker(settings(live, schema__features=list(reversed(SENSORS))), source=MemorySource(), sink=MemorySink())
    other._learner.restore()
    assert learned(other) == 0


def test_a_changed_budget_holds_for_the_model_that_is_there(live: Path) -> None:
    values = plant_json(Plant(0, drift=False).rows(3000).values)
    flagged = []
    for rate in (0.05, 0.001):
        source, sink = MemorySource(), MemorySink()
        assert (
            score_all(Worker(settings(live, alerts__false_alarm_rate=rate), source=source, sink=sink), source, values)
            == 0
        )
        flagged.append(len(sink.anomalies))
    assert flagged[0] > 75
    assert flagged[1] < 15


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_reference_any_more_the_distance_is_nought(tmp_path: Path) -> None:
    worker = Worker(settings(tmp_path / "models"))

    def distance_after(result: str, distance: float | None) -> float | None:
        worker._report(Outcome("rows", result, reference_distance=distance))
        return worker.metrics.registry.get_sample_value("stream_ad_reference_distance")

    assert distance_after("accepted", 36.0) == 36.0
    assert distance_after("timeout", None) == 36.0, "it knows nothing of the reference"
    assert distance_after("accepted", None) == 0.0
    assert distance_after("rejected", 12.0) == 12.0
    assert distance_after("rejected", None) == 0.0


def test_a_device_that_is_not_there_stops_the_start(live: Path) -> None:
    worker = Worker(settings(live, detector__device="cuda"), source=MemorySource(), sink=MemorySink())
    assert worker.run() == 2
    assert "detector.device" in worker.status()["failure"]


def test_two_workers_in_one_process(live: Path, run: Callable[[Worker], Running]) -> None:
    workers = [Worker(settings(live), source=MemorySource(), sink=MemorySink()) for _ in range(2)]
    for worker in workers:
        run(worker)
    for worker in workers:
        wait_until(lambda worker=worker: worker.status()["ready"])
    assert workers[0].server.port != workers[1].server.port


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    worker = Worker(settings(tmp_path / "file" / "models"), source=MemorySource(), sink=MemorySink())
    assert worker.run() == 2
    assert "registry.path" in worker.status()["failure"]


def test_import_stays_light() -> None:
    code = "import stream_ad, sys; assert not {'torch', 'kafka', 'pydantic', 'river'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_embedding_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "embed.py"
    script.write_text(
        "import threading, time\n"
        "from tests.test_worker import settings\n"
        "from tests.running import SHORT, plant_json, wait_until\n"
        "from stream_ad import Worker\n"
        "from stream_ad.learning import learner\n"
        "learner.Recipe = lambda: SHORT\n"
        "from stream_ad.simulation import Plant\n"
        "from stream_ad.transports.memory import MemorySink, MemorySource\n"
        f"config = settings({str(tmp_path / 'models')!r}, training__min_rows=300)\n"
        "source = MemorySource()\n"
        "worker = Worker(config, source=source, sink=MemorySink())\n"
        "thread = threading.Thread(target=worker.run)\n"
        "thread.start()\n"
        "source.append(plant_json(Plant(0).rows(300).values))\n"
        "wait_until(lambda: worker.status()['model'] and worker.status()['trainings'], 250)\n"
        "worker.stop()\n"
        "thread.join()\n"
        "print('learned once', worker.status()['trainings'])\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "learned once 1" in done.stdout, done.stderr


def test_a_new_model_that_alarms_at_everything_is_taken_back(live: Path) -> None:
    models = ModelRegistry(str(live), 10)
    good = models.live()
    source, sink = MemorySource(), MemorySink()
    worker = Worker(settings(live, training__rollback_after=1000), source=source, sink=sink)
    rows = plant_json(Plant(0, drift=False).rows(3000).values)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        source.append(rows[:1000])
        wait_until(lambda: worker.status()["rows"] == 1000)
        snapshot = models.load(good or "")
        snapshot.weights["calibration.table"].sub_(1000.0)
        snapshot.weights["calibration.tail"][0] -= 1000.0
        bad = models.save(snapshot)
        models.set_live(bad)
        wait_until(lambda: worker.status()["model"] == bad)
        source.append(rows[1000:2000])
        wait_until(lambda: worker.status()["model"] == good)
        source.append(rows[2000:])
    finally:
        source.close_input()
        running.join()
    assert models.live() == good
    assert worker.status()["rollbacks"] == 1
    assert worker.metrics.registry.get_sample_value("stream_ad_rollbacks_total") == 1.0
    last = [json.loads(value) for value in sink.values[2000:]]
    assert {row["model"] for row in last} == {good}
    assert next(model for model in models.list() if model.version == bad).rolled_back
