"""The trainer process as the worker sees it: started, waited for, never in the way."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_ad.learning.training_job import JOB_FILE, RESULT_FILE, WINDOW_FILE, Job, Result

log = logging.getLogger("stream_ad.trainer")

FOLDER_PREFIX = ".training-"
YOUNG_SECONDS = 600.0
"""A folder without a job may be about to get one."""
ABANDONED_SECONDS = 86_400.0
"""What another machine has left is deleted when it is that old: whether its worker lives cannot be seen from here."""
LOG_TAIL = 4000
NICENESS = 10
OOM_SCORE = "600"
"""If memory runs out, the trainer goes and the scorer stays."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a training."""

    trigger: str
    result: str
    """accepted, rejected, error, killed or timeout."""
    seconds: float = 0.0
    version: str | None = None
    message: str = ""
    refused_by: tuple[str, ...] = ()
    """The gate's checks that refused the model."""
    reference_distance: float | None = None
    """See `stream_ad.learning.reference`; None without a reference."""
    notes: tuple[str, ...] = ()
    """What a person should know, whatever the result."""
    left_out: tuple[tuple[int, int, int], ...] = ()
    """Stretches of the window that should not be learned from: see `InlierWindow.drop`."""

    @property
    def judged(self) -> bool:
        """Whether it came to its end: a training that did not knows nothing of its model, nor of the reference."""
        return self.result in ("accepted", "rejected")


class Trainer:
    """Runs one training at a time in a process of its own and tells how it ended.

    The window travels by file, in a folder below `scratch`: shared memory is 64 MB in many containers. A crashed,
    hung or killed training costs an `Outcome` and nothing else.
    """

    def __init__(self, timeout_seconds: float, scratch: Path) -> None:
        self.timeout_seconds = timeout_seconds
        self._scratch = scratch
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._outcome: Outcome | None = None
        self._stopping = threading.Event()

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self, job: Job, window: dict[str, NDArray[np.generic]]) -> None:
        """Begin; `window` is written and the process watched in a thread, so this returns at once."""
        if self.running:
            raise RuntimeError("a training is running already")
        self._thread = threading.Thread(target=self._run, args=(job, window), name="trainer", daemon=True)
        self._thread.start()

    def poll(self) -> Outcome | None:
        """The outcome of the training that ended since the last call, if one did."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread.join()
        self._thread = None
        return self._outcome

    def stop(self) -> None:
        """End a running training; waits a moment for its process to go."""
        self._stopping.set()
        if (process := self._process) is not None and process.poll() is None:
            process.kill()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _run(self, job: Job, window: dict[str, NDArray[np.generic]]) -> None:
        started = time.monotonic()
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{socket.gethostname()}-", dir=self._scratch))
        except OSError as error:
            self._outcome = Outcome(job.trigger, "error", message=f"no folder for the training: {error}")
            return
        try:
            outcome = self._train(folder, job, window)
        except Exception as error:  # whatever it is, scoring goes on and the outcome tells
            log.exception("training could not be run")
            outcome = Outcome(job.trigger, "error", message=repr(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._outcome = replace(outcome, seconds=time.monotonic() - started)

    def _train(self, folder: Path, job: Job, window: dict[str, NDArray[np.generic]]) -> Outcome:
        """Run the process to its end; its time is the caller's to add."""
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in window.items()}, folder / WINDOW_FILE)
        (folder / JOB_FILE).write_text(json.dumps(asdict(job)))
        threads = str(job.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with (folder / "log").open("wb") as output:
            # A session of its own: Ctrl-C in the worker's terminal must not hit it in the middle of a write.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream_ad.learning.training_job", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        step_back(self._process.pid)
        if self._stopping.is_set():
            self._process.kill()
        timeout = self.timeout_seconds
        try:
            code = self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            message = f"not done after training.timeout_seconds = {timeout:g}"
            return Outcome(job.trigger, "timeout", message=message)
        written = (folder / "log").read_text(errors="replace")[-LOG_TAIL:]
        if code == 0:
            result = Result(**json.loads((folder / RESULT_FILE).read_text()))
            return Outcome(
                job.trigger,
                "accepted" if result.accepted else "rejected",
                version=result.version,
                message="; ".join(result.reasons),
                refused_by=tuple(result.refused_by),
                reference_distance=result.reference_distance,
                notes=tuple(result.notes),
                left_out=tuple((first, last, sequence) for first, last, sequence in result.left_out),
            )
        if code < 0:
            hint = ": out of memory? Give it more, or lower training.window_rows" if -code == signal.SIGKILL else ""
            return Outcome(job.trigger, "killed", message=f"ended by signal {-code}{hint}")
        return Outcome(job.trigger, "error", message=f"exit code {code}\n{written}")


def step_back(pid: int) -> None:
    """Let a training give way to the scorer: for the processor, and when memory runs out.

    Done from here, since the training's own first seconds go into imports.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        Path(f"/proc/{pid}/oom_score_adj").write_text(OOM_SCORE)
    except OSError as error:
        log.debug("training at the priority of the worker: %s", error)


def remove_leftovers(scratch: Path) -> None:
    """Delete the folders of trainings whose worker was killed.

    Workers that share `scratch` may train meanwhile, also on other machines or in other containers, whose process ids
    mean nothing here: each worker may well have the same.
    """
    for folder in scratch.glob(FOLDER_PREFIX + "*"):
        host = folder.name.removeprefix(FOLDER_PREFIX).rpartition("-")[0]
        if not (_alive(folder) if host == socket.gethostname() else _younger(folder, ABANDONED_SECONDS)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(folder: Path) -> bool:
    """Whether the worker of this machine that started this training still lives."""
    try:
        parent = int(json.loads((folder / JOB_FILE).read_text())["parent"])
        os.kill(parent, 0)
    except (OSError, ValueError, KeyError):
        return not (folder / JOB_FILE).exists() and _younger(folder, YOUNG_SECONDS)
    return parent != os.getpid()


def _younger(folder: Path, seconds: float) -> bool:
    try:
        return time.time() - folder.stat().st_mtime < seconds
    except FileNotFoundError:  # its own worker was faster
        return False
