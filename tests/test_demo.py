"""The demo: what it counts is right, it fits a small terminal, and the worker finds the plant's faults in it."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from rich.console import Console

from stream_ad.demo import running
from stream_ad.demo.scoreboard import Scoreboard
from stream_ad.demo.view import View, report
from stream_ad.simulation import KINDS, SENSORS, PlantRows
from tests.running import SHORT

N = 400
SPIKE, DRIFT = KINDS.index("spike"), KINDS.index("drift")
STATUS = {"model": "v1", "training": False, "window_rows": 380, "trainings": 3, "swaps": 2}


def plant_rows() -> PlantRows:
    """Three faults: rows 100 to 109, 200 to 201 and 300 to 309."""
    fault, feature, kind = np.zeros(N, np.int64), np.full(N, -1), np.full(N, -1)
    for number, (rows, sensor, name) in enumerate(
        [(slice(100, 110), 4, DRIFT), (slice(200, 202), 7, SPIKE), (slice(300, 310), 4, DRIFT)], start=1
    ):
        fault[rows], feature[rows], kind[rows] = number, sensor, name
    return PlantRows(np.zeros((N, len(SENSORS))), fault, feature, kind)


def output(row: int, score: float | None = 0.5, sensor: int = 0) -> bytes:
    """What the worker writes of a row; a score from 1.0 on blames the sensor."""
    record: dict[str, Any] = {"id": row, "status": "scored" if score is not None else "warming_up", "score": score}
    record["is_anomaly"] = score is not None and score >= 1.0
    if record["is_anomaly"]:
        record["attribution"] = {name: 0.78 if i == sensor else 0.02 for i, name in enumerate(SENSORS)}
        record["expected"] = dict.fromkeys(SENSORS, 1.5)
    return orjson.dumps(record)


def board_of(outputs: dict[int, bytes], rows: int = N) -> Scoreboard:
    """A board that has seen the first `rows` rows: these outputs, and nothing special of the others."""
    board = Scoreboard(plant_rows())
    board.receive([], [outputs.get(row, output(row)) for row in range(rows)])
    board.catch_up()
    return board


def test_a_fault_is_found_by_any_of_its_rows() -> None:
    board = board_of({109: output(109, 1.2, 4), 201: output(201, 3.0, 7)})
    assert board.faults() == {1: True, 2: True, 3: False}


def test_a_fault_counts_once_all_of_its_rows_are_scored() -> None:
    assert board_of({100: output(100, 5.0, 4)}, rows=109).faults() == {}
    assert board_of({100: output(100, 5.0, 4)}, rows=110).faults() == {1: True}
    warming_up = {row: output(row, None) for row in range(150)}
    assert board_of(warming_up).faults() == {2: False, 3: False}


def test_the_summary_counts_by_the_truth() -> None:
    outputs = {row: output(row, 2.0, 4) for row in range(100, 110)}
    outputs[105] = output(105, 9.0, 1)  # Where it stands out most, the wrong sensor is named.
    outputs |= {200: output(200, 4.0, 7)}
    outputs |= {row: output(row, 1.1, 2) for row in (20, 50, 60)}
    outputs |= {row: output(row, None) for row in range(10)}
    summary = board_of(outputs).summary(STATUS, seed=5, budget=0.005, seconds=2.0)
    assert (summary.rows, summary.faults, summary.faults_found) == (400, 3, 2)
    assert summary.faults_by_kind["drift"] == {"faults": 2, "found": 1}
    assert summary.faults_by_kind["spike"] == {"faults": 1, "found": 1}
    assert summary.faults_by_kind["stuck"] == {"faults": 0, "found": 0}
    assert summary.right_feature_share == 0.5
    assert summary.false_alarm_rate == pytest.approx(3 / (400 - 22 - 10))
    assert (summary.trainings, summary.swaps, summary.seed) == (3, 2, 5)


def test_latency_is_from_the_source_to_the_output() -> None:
    board = Scoreboard(plant_rows())
    board.receive([], [output(row) for row in range(N)])
    arrived = board._inbox[0][0]
    board.appended[:] = arrived - 0.25
    board.appended[-1] = arrived - 2.0
    board.catch_up()
    summary = board.summary(STATUS, seed=0, budget=0.005, seconds=2.0)
    assert summary.latency_p50_seconds == pytest.approx(0.25)
    assert 0.25 <= summary.latency_p99_seconds < 2.0
    assert board.latency.max() == pytest.approx(2.0)


def test_flagged_rows_close_to_each_other_are_one_alert() -> None:
    outputs = {100: output(100, 1.5, 4), 108: output(108, 6.0, 4), 115: output(115, 2.0, 3), 300: output(300, 2.0, 4)}
    alerts = list(board_of(outputs).alerts)
    assert [(alert.row, alert.score, alert.sensor) for alert in alerts] == [(108, 6.0, 4), (300, 2.0, 4)]
    assert alerts[0].last_row == 115


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_live_view_fits_the_terminal(width: int, height: int) -> None:
    board = board_of({105: output(105, 5.0, 4), 200: output(200, 4.0, 3), 350: output(350, 1.2, 9)})
    events = [f"event {i} " + 40 * "long " for i in range(5)]
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(View(board, events, lambda: STATUS, seed=3))
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(name in text for name in SENSORS)
    assert "event 4" in text
    assert "drift" in text
    assert "spike, pump_speed" in text  # The truth, where another sensor was blamed.
    assert "false alarm" in text


def test_the_view_stands_before_there_is_anything_to_show() -> None:
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(View(Scoreboard(plant_rows()), [], lambda: STATUS | {"model": None}, seed=3))


@pytest.mark.parametrize(("found", "verdict"), [(True, "Good"), (False, "Not good enough")])
def test_the_report_says_whether_it_was_good(found: bool, verdict: str) -> None:
    rows = (100, 200, 300) if found else (100,)
    board = board_of({row: output(row, 4.0, 4) for row in rows})
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(report(board.summary(STATUS, seed=0, budget=0.005, seconds=2.0)))
    assert console.export_text().rstrip().split("\n")[-1].startswith(verdict)


def test_a_demo_that_is_cut_short_gets_no_verdict() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(report(board_of({}, rows=50).summary(STATUS, seed=0, budget=0.005, seconds=2.0)))
    assert console.export_text().rstrip().split("\n")[-1].startswith("Too early to say")


@pytest.mark.parametrize("place", [".", "missing/summary.json"])
def test_a_summary_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path, place: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    summary = tmp_path / place
    assert running.run_demo(seed=0, fast=True, summary_path=summary, console=console) == 2
    assert str(summary) in console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO from above


def test_the_workers_log_goes_into_the_view_and_back_to_its_place() -> None:
    lines: list[str] = []
    log = logging.getLogger("stream_ad")
    before = (log.level, log.propagate, list(log.handlers))
    with running.log_lines(lines.append):
        logging.getLogger("stream_ad.worker").info("a model is live", extra={"version": "v7"})
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert len(lines) == 1
    assert lines[0].endswith("a model is live version=v7")


def test_the_real_worker_finds_the_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROWS", 24_000)
    monkeypatch.setattr("stream_ad.learning.learner.Recipe", lambda: SHORT)
    console = Console(file=io.StringIO(), width=100)
    path = tmp_path / "summary.json"
    assert running.run_demo(seed=0, fast=True, summary_path=path, console=console) == 0
    summary = json.loads(path.read_text())
    assert summary["rows"] == 24_000
    assert summary["faults"] >= 3
    assert summary["faults_found"] >= 0.9 * summary["faults"]
    assert summary["right_feature_share"] >= 0.9
    assert summary["false_alarm_rate"] <= 2.0 * summary["false_alarm_budget"]
    assert summary["trainings"] == summary["swaps"] == 2
    assert 0.0 < summary["latency_p50_seconds"] <= summary["latency_p99_seconds"] < 10.0
