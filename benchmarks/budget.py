"""Whether the budget holds from retrain to retrain, on streams that stay as they are.

    python benchmarks/budget.py --retrains 40 --json budget.json --jobs 4

Ten simulated plants without drift, with 0, 1 and 3 % of their rows in faults, go through the loop of the product:
score a batch, move the threshold with it, offer it to the window, train again on the window after every `--every`
rows. The first window is sound: with faults in a window that no model has filtered the first threshold stands above the
budget's.

`--data DIR` takes npz files instead (`X, y` or `train, test, test_labels`): one half of their inliers is the stream,
each row once and in random order, the other half is judged; anomalies take the place of as many rows as the share asks
for. The window is half of the stream, and trainings are evenly spaced in the rest, if `--window` and `--every` ask for
no less.

After each training 100,000 fresh rows of the plant (of a file: the inliers that are not in the stream) tell how the
model does until the next one. `alert_ratio` is its false-alarm rate over the budget, at the thresholds that stood while
it was live. `missed` is the share of anomalies that it does not flag, of those that it would flag with a threshold that
cuts the share alpha off the fresh rows: what a perfect calibration would find.

Where all rows are exchangeable, a threshold set by n of them raises a beta-binomial number of alerts on m others (Vovk,
ACML 2012): what lies in the middle 99 % of that is within the sampling error. Rows of a plant depend on those before
them, so for plants it is too narrow.

A training of full length takes 13 seconds. `--recipe brisk`, the default, trains all parts of the detector for a
fifth of the steps; what is measured here is calibration, and a blunter detector has to be calibrated as well. With
`--json` outcomes are written as soon as a stream is through, plant by plant, so that a run that is broken off was not
for nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.stats import betabinom

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.protocols import inliers_and_anomalies
from benchmarks.results import markdown, write_json
from benchmarks.running import start
from stream_ad.detector import Detector, Recipe
from stream_ad.learning import AdaptiveLevel, gate
from stream_ad.learning.window import InlierWindow
from stream_ad.simulation import Plant

Float64 = NDArray[np.float64]

RECIPES = {
    "full": Recipe(),
    "brisk": Recipe(
        autoencoder_steps=160, rarity_steps=120, vae_steps=80, classifier_steps=120, synthetic_outliers=2000
    ),
}
BATCH = 500
JUDGED_ROWS = 100_000
FAULTS_A_SHARE = 30.0
"""So many faults in a thousand rows of the plant put all its rows in faults."""
LOWEST, HIGHEST = 0.67, 1.5
MOST_MISSED = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one model did, until the next one."""

    stream: str
    alpha: float
    anomaly_share: float
    after_retrains: int
    alert_ratio: float
    missed: float
    window_rows: int
    judged_rows: int

    @property
    def within_sampling_error(self) -> bool:
        """Whether rows that are exchangeable with the window's could have given this ratio."""
        alerts = betabinom(
            self.judged_rows, self.alpha * (self.window_rows + 1), (1 - self.alpha) * (self.window_rows + 1)
        )
        return bool(alerts.ppf(0.005) <= round(self.alert_ratio * self.alpha * self.judged_rows) <= alerts.ppf(0.995))


class Stream(Protocol):
    """Rows in order of arrival."""

    window_rows: int
    """So many, all sound, train the first model."""
    every: int
    """So many come between two trainings."""
    inliers: Float64
    """[n, d] rows that are not in the stream, to judge by."""
    anomalies: Float64
    """[m, d]"""

    def rows(self, n: int) -> Float64:
        """The next n."""


class PlantStream:
    """A plant that does not drift."""

    def __init__(self, seed: int, anomaly_share: float, window_rows: int, every: int) -> None:
        self.window_rows, self.every = window_rows, every
        self._plant = Plant(seed, FAULTS_A_SHARE * anomaly_share, window_rows, drift=False)
        later = Plant(seed, drift=False)
        later.rows(1_000_000)
        self.inliers = later.rows(JUDGED_ROWS).values
        faulty = Plant(seed, fault_rate=4.0, drift=False).rows(30_000)
        self.anomalies = faulty.values[faulty.fault > 0]

    def rows(self, n: int) -> Float64:
        return self._plant.rows(n).values


class TableStream:
    """Inliers of a labelled table in random order, each once, and anomalies in place of some."""

    def __init__(self, file: Path, anomaly_share: float, window_rows: int, every: int, models: int) -> None:
        normal, self.anomalies = inliers_and_anomalies(file)
        rng = np.random.default_rng(0)
        normal = rng.permutation(normal)
        half = len(normal) // 2
        self.inliers = normal[half:][:JUDGED_ROWS]
        self.window_rows = min(window_rows, half // 2)
        self.every = min(every, (half - self.window_rows) // models)
        stream = normal[: self.window_rows + models * self.every]
        odd = rng.random(len(stream)) < anomaly_share
        odd[: self.window_rows] = False
        stream[odd] = rng.choice(self.anomalies, int(odd.sum()))
        self._coming = stream

    def rows(self, n: int) -> Float64:
        rows, self._coming = self._coming[:n], self._coming[n:]
        return rows


def run(
    name: str,
    file: Path | None,
    alpha: float,
    anomaly_share: float,
    retrains: int,
    window_rows: int,
    every: int,
    recipe: Recipe,
) -> list[Outcome]:
    """One stream through the loop."""
    stream: Stream
    if file is None:
        stream = PlantStream(int(name.split("-")[1]), anomaly_share, window_rows, every)
    else:
        stream = TableStream(file, anomaly_share, window_rows, every, retrains + 1)
    window = InlierWindow(stream.window_rows, stream.inliers.shape[1], alpha)
    window.add(stream.rows(stream.window_rows), np.full(stream.window_rows, np.nan))
    level = AdaptiveLevel(alpha)
    found = []
    for k in range(retrains + 1):
        detector = train(window, alpha, k, recipe)
        level.swapped()
        levels = []
        for first in range(0, stream.every, BATCH):
            rows = stream.rows(min(BATCH, stream.every - first))
            p_value = detector.judge(rows).p_value
            levels.append(level.rate)
            window.add(rows, np.log(p_value) / np.log(level.rate))
            level.observe(p_value)
        ratio, missed = judge(detector, stream, np.array(levels), alpha)
        sizes = stream.window_rows, len(stream.inliers)
        found.append(Outcome(name, alpha, anomaly_share, k, ratio, missed, *sizes))
    return found


def train(window: InlierWindow, alpha: float, seed: int, recipe: Recipe) -> Detector:
    """A model as the training job fits it."""
    learned, _ = gate.hold_out(window.training_rows(seed))
    return learned.teach(Detector(alpha, "cpu", seed, recipe))


def judge(detector: Detector, stream: Stream, levels: Float64, alpha: float) -> tuple[float, float]:
    """Alert ratio and share of missed anomalies over the levels [k] that stood."""
    normal = np.sort(detector.judge(stream.inliers).p_value)
    ratio = float(np.searchsorted(normal, levels, side="right").mean()) / len(normal) / alpha
    anomalous = detector.judge(stream.anomalies).p_value
    findable = np.sort(anomalous[anomalous <= normal[int(alpha * len(normal))]])
    flagged = np.searchsorted(findable, levels, side="right").mean()
    return ratio, 1.0 - float(flagged) / len(findable) if len(findable) else math.nan


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each budget and share of anomalies: the middle and the ends over streams and retrains."""
    lines = []
    for alpha, share in sorted({(one.alpha, one.anomaly_share) for one in outcomes}):
        some = [one for one in outcomes if (one.alpha, one.anomaly_share) == (alpha, share)]
        ratio = np.array([one.alert_ratio for one in some])
        missed = np.array([one.missed for one in some])
        lines.append(
            [
                f"{alpha:g}",
                f"{share:.0%}",
                f"{len(some)}",
                *(f"{value:.2f}" for value in (np.median(ratio), ratio.min(), ratio.max())),
                f"{((ratio >= LOWEST) & (ratio <= HIGHEST)).mean():.1%}",
                f"{np.mean([one.within_sampling_error for one in some]):.1%}",
                *(f"{value:.1%}" for value in (np.nanmean(missed), np.nanmax(missed))),
                f"{np.nanmean(missed <= MOST_MISSED):.1%}",
            ]
        )
    header = ("budget", "anomalies", "models", "alert ratio", "least", "most", f"{LOWEST} to {HIGHEST}")
    return markdown((*header, "within sampling error", "missed", "most", f"at most {MOST_MISSED:.0%}"), lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrains", type=int, default=40, metavar="N", help="trainings after the first (default: 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where outcomes go, as a list of objects")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.01, 0.001], metavar="ALPHA", help="budgets")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.01, 0.03], metavar="SHARE")
    parser.add_argument("--plants", type=int, default=10, metavar="N", help="simulated plants (default: 10)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="npz files instead of the plants")
    parser.add_argument("--window", type=int, default=20_000, metavar="ROWS", help="rows to learn from")
    parser.add_argument("--every", type=int, default=50_000, metavar="ROWS", help="rows from one training to the next")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="brisk")
    parser.add_argument("--quick", action="store_true", help="two plants, or two files, and at most five retrains")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side (default: 1)")
    options = parser.parse_args(argv)
    options.files = sorted(options.data.glob("*.npz")) if options.data else [None] * options.plants
    if not options.files:
        parser.error(f"there is no npz file in {options.data}")
    if options.quick:
        options.files, options.retrains = options.files[:2], min(5, options.retrains)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    executor = start(options.jobs, 1)
    work = [
        (f"plant-{i}" if file is None else file.stem, file, alpha, share)
        for i, file in enumerate(options.files)
        for alpha in options.alphas
        for share in options.shares
    ]
    rest = (options.retrains, options.window, options.every, RECIPES[options.recipe])
    outcomes: list[Outcome] = []
    failed = 0
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("measuring", total=len(work))
        futures = {executor.submit(partial(run, *one, *rest)): one for one in work}
        try:
            for future in as_completed(futures):
                name, _, alpha, share = futures[future]
                progress.update(bar, advance=1, description=f"{name}, budget {alpha:g}, {share:.0%} anomalies")
                if (error := future.exception()) is not None:
                    failed += 1
                    console.print(f"{name}: {type(error).__name__}: {error}", style="red", markup=False)
                    continue
                outcomes += future.result()
                outcomes.sort(key=lambda one: (one.stream, one.alpha, one.anomaly_share, one.after_retrains))
                if options.json is not None:
                    write_json(options.json, [asdict(one) for one in outcomes])
        finally:
            executor.shutdown(cancel_futures=True)
    if outcomes:
        print(table(outcomes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
