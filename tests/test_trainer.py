"""Trainings in a process of their own: how they end, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from stream_ad.detector import Detector, Recipe
from stream_ad.learning.trainer import Outcome, Trainer, remove_leftovers
from stream_ad.learning.training_job import Job
from stream_ad.learning.window import InlierWindow
from stream_ad.records import NO_CONTEXT
from stream_ad.registry import ModelRegistry
from tests.running import wait_until

FEATURES = ["a", "b", "c"]
TINY = Recipe(autoencoder_steps=60, rarity_steps=30, vae_steps=30, classifier_steps=60, synthetic_outliers=1000)
ENDLESS = Recipe(autoencoder_steps=10_000_000)
ODD = np.array([5.0, -4.0, 3.0])
"""What sets a machine apart from the others."""


def a_window(n: int = 400) -> InlierWindow:
    window = InlierWindow(n, 3, 0.01)
    window.add(np.random.default_rng(0).normal(size=(n, 3)), np.full(n, np.nan))
    return window


def a_job(registry: Path, recipe: Recipe = TINY, **changes: object) -> Job:
    settings: dict[str, object] = {
        "registry": str(registry),
        "keep": 5,
        "features": FEATURES,
        "fingerprint": "f",
        "context": NO_CONTEXT,
        "false_alarm_rate": 0.01,
        "device": "cpu",
        "seed": 0,
        "threads": 1,
        "trigger": "rows",
        "window_rows": 20_000,
        "recipe": asdict(recipe),
        "reference": "first",
        "live": ModelRegistry(str(registry), 5).live(),
        "parent": os.getpid(),
    }
    return Job(**(settings | changes))  # type: ignore[arg-type]  # a table of keyword arguments


def outcome_of(trainer: Trainer) -> Outcome:
    outcome = wait_until(trainer.poll, 250)
    assert isinstance(outcome, Outcome)
    return outcome


def started_process(trainer: Trainer) -> int:
    """Process id of the training, once it has stepped back."""
    wait_until(lambda: trainer._process is not None)
    assert trainer._process is not None
    pid = trainer._process.pid
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0))
    return pid


def leftovers(registry: Path) -> list[str]:
    return [path.name for path in registry.iterdir() if path.name.startswith((".tmp-", ".training-"))]


def test_a_training_makes_a_model_live_and_cleans_up(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path), a_window().state())
    assert trainer.running
    outcome = outcome_of(trainer)
    assert outcome.result == "accepted", outcome.message
    assert ModelRegistry(str(tmp_path), 5).live() == outcome.version
    assert not trainer.running
    assert leftovers(tmp_path) == []


def test_a_training_names_features_that_only_count_up_or_are_hardly_known(tmp_path: Path) -> None:
    window = InlierWindow(400, 3, 0.01)
    rows = np.random.default_rng(0).normal(size=(400, 3))
    rows[:, 1] = np.abs(rows[:, 1]).cumsum()
    rows[:380, 2] = np.nan
    window.add(rows, np.full(400, np.nan))
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path), window.state())
    counting, unknown = outcome_of(trainer).notes
    assert counting.startswith("b: never falls")
    assert unknown.startswith("c: 20 values in 400 rows are too few")
    snapshot = ModelRegistry(str(tmp_path), keep=5).load_live()
    assert snapshot is not None
    assert snapshot.report["counters"] == [counting]
    assert snapshot.report["hardly_known"] == [unknown]


def test_a_machine_unlike_the_others_is_known_to_the_model_that_goes_live(tmp_path: Path) -> None:
    """Twenty machines, one of which runs far from the others."""
    rows, key = np.random.default_rng(0).normal(size=(2000, 3)), 1000 + np.arange(2000) % 20
    rows[key == 1007] += ODD
    window = InlierWindow(2000, 3, 0.01)
    window.add(rows, np.full(2000, np.nan), key)
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, window_rows=2000), window.state())
    assert outcome_of(trainer).result == "accepted"
    snapshot = ModelRegistry(str(tmp_path), keep=5).load_live()
    assert snapshot is not None
    assert 1007 in snapshot.weights["mondrian.sequence"].tolist()
    assert snapshot.report["strange_keys"] == len(snapshot.weights["mondrian.sequence"])
    assert snapshot.report["spared_rows"] == 0
    detector = Detector.restore(snapshot.description, snapshot.weights, "cpu")
    assert snapshot.report["rare_share"] == detector.rare_share
    fresh = np.random.default_rng(1).normal(size=(2000, 3)) + ODD
    flagged = detector.score(fresh) >= 1.0
    assert flagged.mean() > 2.0 * (detector.score(fresh, np.full(2000, 1007)) >= 1.0).mean()


def test_a_burst_that_the_first_training_leaves_out_is_told_of_and_not_stored(tmp_path: Path) -> None:
    """Later windows hold the same rows, and by then most of the others were judged by a model."""
    rows = np.random.default_rng(0).normal(size=(1500, 3))
    rows[700:740] = 4.0 + 0.1 * rows[700:740]
    window = InlierWindow(2000, 3, 0.01)
    window.add(rows, np.full(1500, np.nan))
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, window_rows=2000), window.state())
    outcome = outcome_of(trainer)
    assert len(outcome.left_out) == 1
    first, last, sequence = outcome.left_out[0]
    assert 690 <= first <= 705 and 734 <= last < 750 and sequence == 0
    assert outcome.version is not None
    stored = ModelRegistry(str(tmp_path), 5).load(outcome.version).window
    assert stored is not None
    assert len(stored["inliers.position"]) == 1500 - (last - first + 1)
    window.drop(outcome.left_out)
    assert window.training_rows().rows.max() < 5.0 and len(window) == len(stored["inliers.position"])


def test_a_killed_training_is_seen_at_once_and_says_which_signal(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, ENDLESS), a_window().state())
    os.kill(started_process(trainer), signal.SIGKILL)
    killed = time.monotonic()
    outcome = outcome_of(trainer)
    assert time.monotonic() - killed < 5.0
    assert outcome.result == "killed"
    assert "signal 9" in outcome.message
    assert "memory" in outcome.message
    assert leftovers(tmp_path) == []


def test_a_stopped_training_meets_its_deadline(tmp_path: Path) -> None:
    trainer = Trainer(15.0, tmp_path)
    trainer.start(a_job(tmp_path, ENDLESS), a_window().state())
    os.kill(started_process(trainer), signal.SIGSTOP)
    outcome = outcome_of(trainer)
    assert outcome.result == "timeout"
    assert "training.timeout_seconds" in outcome.message


def test_an_error_in_the_training_brings_its_traceback(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path), a_window(5).state())
    outcome = outcome_of(trainer)
    assert outcome.result == "error"
    assert "Traceback" in outcome.message
    assert "5 rows are too few" in outcome.message
    assert ModelRegistry(str(tmp_path), 5).live() is None


def test_stopping_the_worker_ends_the_training(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, ENDLESS), a_window().state())
    pid = started_process(trainer)
    trainer.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert leftovers(tmp_path) == []


def test_a_training_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, ENDLESS, parent=1), a_window().state())
    outcome = outcome_of(trainer)
    assert outcome.result == "error"
    assert "the worker is gone" in outcome.message


def a_training_of(registry: Path, host: str, name: str, parent: int) -> Path:
    """The folder of a training, as the worker of a host has made it."""
    folder = registry / f".training-{host}-{name}"
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"parent": parent}))
    return folder


def test_leftovers_of_a_killed_worker_are_removed(tmp_path: Path) -> None:
    here = socket.gethostname()
    a_training_of(tmp_path, here, "dead", 2**22 + 1)
    a_training_of(tmp_path, here, "mine", os.getpid())
    alive = a_training_of(tmp_path, here, "alive", os.getppid())
    remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == [alive.name]


def test_the_training_of_another_container_is_left_alone_until_it_is_old(tmp_path: Path) -> None:
    """In each container the worker has the same process id."""
    running, old = (a_training_of(tmp_path, "4f1d-2", name, os.getpid()) for name in ("running", "old"))
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == [running.name]


def test_a_training_says_on_which_machine_it_runs(tmp_path: Path) -> None:
    trainer = Trainer(60.0, tmp_path)
    trainer.start(a_job(tmp_path, ENDLESS), a_window().state())
    started_process(trainer)
    (folder,) = leftovers(tmp_path)
    trainer.stop()
    assert folder.rpartition("-")[0] == f".training-{socket.gethostname()}"
