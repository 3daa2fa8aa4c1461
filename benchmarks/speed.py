"""How fast the detector learns and scores, and in how much memory, without Kafka around it.

    python benchmarks/speed.py                           # one core, 30 features
    python benchmarks/speed.py --device cuda --features 8 30 120

For each number of features a window is learned with the full recipe, and as many fresh rows are scored in batches of
each size. `rows/s` is the median of several passes, in processor time on a CPU and in wall time on a GPU;
`explained/s` counts rows that get expected values and attribution, as flagged ones do. `resident` is how much the
process has grown at its peak since PyTorch was imported. Speeds of two machines say little of each other: compare two
versions side by side on one.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import markdown
from benchmarks.sensors import sensor_rows
from stream_ad.detector import Detector
from stream_ad.detector.detector import Device

PASSES = 5
EXPLAINED = 512


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Median time of a call that has been made twice before: TorchScript compiles at its first calls."""
    taken = []
    for _ in range(2 + PASSES):
        start = clock()
        call()
        taken.append(clock() - start)
    return median(taken[2:])


def score_all(detector: Detector, batches: Sequence[NDArray[np.float64]]) -> None:
    for batch in batches:
        detector.score(batch)


def resident() -> float:
    """Most memory that the process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(features: int, window: int, batches: Sequence[int], device: Device, console: Console) -> list[str]:
    """One line of the table."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    before = resident()
    rows, fresh = (sensor_rows(window, features, np.random.default_rng(seed)) for seed in (1, 2))
    with console.status(f"learning {window:,} rows of {features} features"):
        start = clock()
        detector = Detector(0.01, device).fit(rows)
        fit_seconds = clock() - start
    line = [str(features), f"{fit_seconds:.1f}"]
    for batch in batches:
        parts = [fresh[first : first + batch] for first in range(0, window, batch)]
        with console.status(f"scoring in batches of {batch:,}"):
            taken = seconds(partial(score_all, detector, parts), clock)
        line.append(f"{window / taken:,.0f}")
    explained = fresh[:EXPLAINED]
    with console.status(f"explaining {len(explained)} rows"):
        taken = seconds(lambda: detector.explain(explained), clock)
    return [*line, f"{len(explained) / taken:,.0f}", f"{resident() - before:,.0f} MB"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[30], metavar="N")
    parser.add_argument("--window", type=int, default=25_000, metavar="ROWS", help="rows that are learned (25,000)")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 2048, 25_000], metavar="ROWS")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the processor (1)")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    torch.set_num_threads(options.threads)
    console = Console(stderr=True)
    lines = [measure(n, options.window, options.batches, options.device, console) for n in options.features]
    of_batches = [f"rows/s, batches of {batch:,}" for batch in options.batches]
    print(markdown(["features", "fit, s", *of_batches, "explained/s", "resident"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
