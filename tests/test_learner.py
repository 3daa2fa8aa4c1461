"""The learner: what outlasts a restart, and what a registry that is slow or has moved on changes."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stream_ad.learning import training_job
from stream_ad.learning.learner import Learner
from stream_ad.learning.rest_watch import RestWatch
from stream_ad.learning.window_keeper import SECONDS, WindowKeeper
from stream_ad.records import RecordSchema
from stream_ad.registry import Arrays, ModelRegistry
from stream_ad.simulation import SENSORS, Plant
from tests.running import learning_settings, publish_model, wait_until
from tests.test_registry import a_snapshot
from tests.test_trainer import a_job, a_window


def learner(folder: Path) -> Learner:
    return Learner(learning_settings(schema=RecordSchema(SENSORS)), ModelRegistry(str(folder), 10))


def offer(of: Learner, rows: np.ndarray) -> None:
    of.observe(rows, np.full(len(rows), np.nan), np.zeros_like(rows), np.zeros(len(rows), np.int64))


def test_after_a_roll_back_while_it_was_down_what_the_earlier_model_flags_leaves_the_window(tmp_path: Path) -> None:
    earlier, later = publish_model(tmp_path), publish_model(tmp_path)
    first = learner(tmp_path)
    assert first.restore() is not None
    rows = Plant(0, fault_rate=0.0).rows(1000).values
    offer(first, rows)
    offer(first, 10.0 * rows[:200])
    first.close()
    same = learner(tmp_path)
    same.restore()
    assert same.window_rows == 1200
    ModelRegistry(str(tmp_path), 10).set_live(earlier)
    again = learner(tmp_path)
    model = again.restore()
    assert model is not None
    assert model.version == earlier < later
    assert 900 <= again.window_rows <= 1000
    assert again.quarantine_rows >= 200


def test_a_training_does_not_undo_a_roll_back_that_its_worker_had_not_seen(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path / "models"), 10)
    registry.check_writable()
    good, bad = registry.save(a_snapshot()), registry.save(a_snapshot())
    registry.set_live(good)
    folder = tmp_path / "job"
    folder.mkdir()
    job = replace(a_job(folder), registry=registry.path, live=bad, parent=os.getppid())
    (folder / training_job.JOB_FILE).write_text(json.dumps(asdict(job)))
    window = {name: np.ascontiguousarray(array) for name, array in a_window().state().items()}
    save_file(window, folder / training_job.WINDOW_FILE)
    result = training_job.run(folder)
    assert not result.accepted
    assert "while this one trained" in result.reasons[0]
    assert registry.live() == good


@pytest.mark.parametrize(("rows", "watched"), [(1000, True), (3000, False)])
def test_a_young_model_is_watched_beside_the_one_before_it_after_a_restart(
    tmp_path: Path, rows: int, watched: bool
) -> None:
    publish_model(tmp_path)
    registry = ModelRegistry(str(tmp_path), 10)
    snapshot = registry.load(publish_model(tmp_path))
    snapshot.window = learner(tmp_path).window.state()
    registry.set_live(registry.save(snapshot))
    first = learner(tmp_path)
    first.restore()
    offer(first, Plant(0, fault_rate=0.0).rows(rows).values)
    first.close()
    again = learner(tmp_path)
    again.restore()
    assert again.roll_back.watching == watched


class SlowRegistry(ModelRegistry):
    """Keeps what it is given only when it is let."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), 5)
        self.let = threading.Event()
        self.kept: list[int] = []

    def save_window(self, window: Arrays) -> None:
        assert self.let.wait(30.0)
        self.kept.append(int(window["seen"][0]))


def test_a_registry_that_does_not_answer_does_not_hold_up_the_scoring(tmp_path: Path) -> None:
    registry = SlowRegistry(tmp_path)
    keeper = WindowKeeper(registry)
    seen = 0

    def window() -> Arrays:
        nonlocal seen
        seen += 1
        return {"seen": np.array([seen])}

    for now in np.arange(0.0, 3 * SECONDS, 1.0):
        keeper.ask()
        keeper.step(float(now), window)
    assert seen == 1, "the next one waits until this one is kept"
    registry.let.set()
    wait_until(lambda: registry.kept == [1], 10)
    wait_until(lambda: not keeper.writing, 10)
    keeper.step(3 * SECONDS, window)
    keeper.finish({"seen": np.array([9])})
    assert registry.kept == [1, 2, 9]


def test_nothing_is_written_that_nobody_asked_for_nor_twice_at_once(tmp_path: Path) -> None:
    registry = SlowRegistry(tmp_path)
    registry.let.set()
    keeper = WindowKeeper(registry)
    keeper.step(0.0, lambda: pytest.fail("nobody asked"))
    keeper.ask()
    keeper.step(0.0, lambda: {"seen": np.array([1])})
    wait_until(lambda: not keeper.writing, 10)
    keeper.ask()
    keeper.step(0.5 * SECONDS, lambda: pytest.fail("too early"))


def test_while_no_row_can_be_learned_nothing_gathers() -> None:
    watch = RestWatch(1000)
    tracemalloc.start()
    for _ in range(2000):
        watch.observe(np.empty((0, 3)), np.empty(0, np.int64), 0, None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000
