"""Runs many measurements, in this process or in several, shows how far it is, and goes on after errors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.results import Result, Results


@dataclass(frozen=True, slots=True)
class Work:
    """One measurement."""

    method: str
    where: str
    """On which data set, with which seed."""
    call: Callable[[], list[Result]]


@dataclass(slots=True)
class Troubles:
    """What went wrong: for each method and message, where."""

    failed: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Not an error: the data set does not allow it."""

    def lines(self) -> list[str]:
        return [
            f"{kind}: {what} ({len(places)} times: {', '.join(places[:3])}{', ...' if len(places) > 3 else ''})"
            for kind, group in (("skipped", self.skipped), ("failed", self.failed))
            for what, places in group.items()
        ]


def run(
    work: Sequence[Work],
    results: Results,
    console: Console,
    processes: int = 1,
    threads: int = 1,
    skip: type[Exception] | tuple[()] = (),
) -> Troubles:
    """Do all the work and add what comes out to the results as soon as it is there.

    Exceptions of the type `skip` are told apart from failures.
    """
    troubles = Troubles()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    executor = start(processes, threads)
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("measuring", total=len(work))
        futures = {executor.submit(one.call): one for one in work}
        try:
            for future in as_completed(futures):
                one, error = futures[future], future.exception()
                progress.update(bar, advance=1, description=escape(f"{one.method}, {one.where}"))
                if error is None:
                    for result in future.result():
                        results.add(result)
                    continue
                group = troubles.skipped if isinstance(error, skip) else troubles.failed
                what = f"{one.method}: {type(error).__name__}: {error}"
                if what not in group:
                    console.print(escape(f"{what} ({one.where})"), style="red")
                group.setdefault(what, []).append(one.where)
        finally:
            executor.shutdown(cancel_futures=True)
    return troubles


def start(processes: int, threads: int) -> Executor:
    """Workers that compute on the CPU with so many threads each."""
    limit_threads(threads)
    if processes == 1:
        return ThreadPoolExecutor(1, initializer=limit_threads, initargs=(threads,))
    spawned = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
    return ProcessPoolExecutor(processes, mp_context=spawned, initializer=limit_threads, initargs=(threads,))


def limit_threads(threads: int) -> None:
    """All methods get the same share of the machine. Libraries that are loaded later read the environment."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(threads)
    with suppress(ImportError):  # comes with scikit-learn, which only the peers need
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)
