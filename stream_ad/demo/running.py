"""The demo from its first row to its report."""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.live import Live

from stream_ad.config import Config
from stream_ad.demo.feeder import EVERY_ROWS, FAULT_FREE_ROWS, FIRST_TRAINING_ROWS, Feeder
from stream_ad.demo.scoreboard import Scoreboard
from stream_ad.demo.view import View, report
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker

ROWS = 45_000
FAULT_RATE = 0.5
"""Faults in a thousand rows."""
FALSE_ALARM_RATE = 0.005
WINDOW_ROWS = 20_000
MOST_PENDING = 1000
"""Records that wait for the worker at most: the latency where nothing else slows the feeder down."""
FRAME_SECONDS = 0.2
LINE_SECONDS = 3.0


def run_demo(*, seed: int, fast: bool, summary_path: Path | None, console: Console) -> int:
    """Run the demo and print its report; return the worker's exit code (2 for an unusable `summary_path`).

    `fast`: no pacing and no live view. Without a terminal there is no live view either.
    """
    if summary_path is not None and (summary_path.is_dir() or not summary_path.absolute().parent.is_dir()):
        console.print(f"--summary {summary_path}: name a file in a folder that is there", style="red", markup=False)
        return 2
    board = Scoreboard(Plant(seed, fault_rate=FAULT_RATE, fault_free_rows=FAULT_FREE_ROWS).rows(ROWS))
    events: list[str] = []
    started = time.monotonic()
    with temporary_folder() as folder, log_lines(events.append):
        source = MemorySource(maximum_pending=MOST_PENDING)
        worker = Worker(demo_config(folder), source=source, sink=MemorySink(on_write=board.receive))
        run = Run(worker, Feeder(source, worker, board, paced=not fast))
        view = View(board, events, worker.status, seed)
        try:
            watch(run, board, view, console, live=console.is_terminal and not fast)
        except KeyboardInterrupt:
            run.stop()
    board.catch_up()
    status = worker.status()
    failure = run.feeder.failure or status["failure"]
    if run.exit_code != 0 or failure:
        console.print(f"the demo broke off: {failure}", *events, sep="\n", style="red", markup=False)
        return run.exit_code or 1
    summary = board.summary(status, seed, FALSE_ALARM_RATE, time.monotonic() - started)
    console.print(report(summary))
    if summary_path is not None:
        summary_path.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return 0


def demo_config(folder: str) -> Config:
    """The worker's configuration; its models live in `folder`."""
    return Config.model_validate(
        {
            "source": {"type": "memory"},
            "sink": {"type": "memory"},
            "schema": {"features": list(SENSORS), "id": "id", "timestamp": "ts"},
            "alerts": {"false_alarm_rate": FALSE_ALARM_RATE},
            "training": {
                "min_rows": FIRST_TRAINING_ROWS,
                "window_rows": WINDOW_ROWS,
                "every_rows": EVERY_ROWS,
                "every_seconds": None,
                "min_interval_seconds": 0.0,
            },
            "registry": {"path": folder},
            "monitoring": {"host": "127.0.0.1", "port": 0},
        }
    )


class Run:
    """Worker and feeder, each in a thread of its own."""

    def __init__(self, worker: Worker, feeder: Feeder) -> None:
        self.exit_code = 1
        self.feeder = feeder
        self._worker = worker
        # Not the thread's own join: in Python 3.11, Ctrl-C during a join makes a running thread count as ended.
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="demo-worker", daemon=True).start()
        feeder.start()

    def wait(self, seconds: float) -> bool:
        """Whether the worker has ended, which it may for `seconds`."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """End before all rows are through."""
        self._worker.stop()
        self._ended.wait()

    def _work(self) -> None:
        try:
            self.exit_code = self._worker.run()
        finally:
            self.feeder.stopping.set()
            self._ended.set()


def watch(run: Run, board: Scoreboard, view: View, console: Console, live: bool) -> None:
    """Until the worker ends, show how it goes: drawn anew at each frame, or as a line every few seconds."""
    if live:
        with Live(view, console=console, screen=True, auto_refresh=False) as screen:
            while not run.wait(FRAME_SECONDS):
                board.catch_up()
                screen.refresh()
        return
    next_line = time.monotonic() + LINE_SECONDS
    while not run.wait(FRAME_SECONDS):
        board.catch_up()
        if time.monotonic() >= next_line:
            next_line += LINE_SECONDS
            console.print(view.line(), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def temporary_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="stream-ad-demo-", ignore_cleanup_errors=True) as folder:
        yield folder


@contextmanager
def log_lines(keep: Callable[[str], None]) -> Iterator[None]:
    """Hand what the worker logs to `keep` instead of printing it into the view."""
    log = logging.getLogger("stream_ad")
    handler = LogLines(keep)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class LogLines(logging.Handler):
    """Turns records into lines: clock, message and what came with it."""

    EXTRAS = ("version", "seconds", "rows", "trigger")

    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        extras = [f"{name}={getattr(record, name)}" for name in self.EXTRAS if hasattr(record, name)]
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        self._keep(" ".join([clock, record.getMessage(), *extras]))
