"""How well the detector tells anomalies from inliers on tables, beside other methods on the same rows.

    python benchmarks/tabular.py --data DIR --seeds 0 1 2 3 4 --peers --out results.csv

DIR holds npz files of either kind, one data set each:

- `X` [n, features] and `y` [n] (1 = anomaly): `--split array-order` (the default) resamples small and large
  sets and trains on the first half of the normal rows; `--split random-half` trains on a random half of them;
- `train`, `test` and `test_labels`: judged by that split.

Each figure is written to the CSV as soon as it is measured. A run that was broken off goes on where it stood, and
a later one adds what is new (other peers, seeds, levels). Tables of all that the file holds go to standard output
as Markdown. What fails is shown, the run goes on, and the exit code is 1.

    --contamination 0.02:burst 0.05:scattered     that share of the training rows is true anomalies
    --missing 0.1 0.3                             that share of the test values is missing
    --calibration                                 instead of all this: alert rate on fresh inliers
    --ablate                                      instead of peers: the detector with one part out in turn

The peers need more packages: pip install -c constraints.txt -e '.[benchmarks]'
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import ablation
from benchmarks.metrics import auroc, average_precision
from benchmarks.peers import PEERS, Float64, Method, Scorer
from benchmarks.protocols import (
    Contamination,
    How,
    Kind,
    Protocol,
    TooFewAnomalies,
    fresh_inliers,
    size_before_resampling,
    with_missing,
)
from benchmarks.results import OtherResults, Result, Results
from benchmarks.running import Troubles, Work, run
from benchmarks.tables import OURS, Group, calibration, levels, summary
from stream_ad.detector import Detector, Recipe

FIGURES = ("auroc", "average_precision", "fit_seconds", "score_seconds")
RATES = (0.01, 0.001)
"""False-alarm rates that --calibration checks."""
LARGE = 1000
"""Sets with so many rows are not resampled upwards, so no test row is a copy of a training row."""

CALIBRATION_NOTE = """\
Share of runs where the alarms on fresh inliers lie in the binomial 99 % interval of the false-alarm rate. A random
half of all normal rows of a file trains, in random order, and the other half is judged, whatever split the file
brings: only rows that are exchangeable with the window can show the rate. The interval knows the chance of the judged
rows but not that of the calibrating ones: with as many of both, a threshold without any fault lies inside in 93 % of
large sets."""


def stream_ad(train: Float64, seed: int, recipe: Recipe | None = None) -> Scorer:
    """The detector, which standardises the rows and imputes what is missing by itself."""
    return Detector(device="cpu", seed=seed, recipe=recipe).fit(train).score


def measure(
    file: Path,
    seed: int,
    name: str,
    method: Method,
    protocol: Protocol,
    contamination: Contamination | None,
    missing: Sequence[float],
) -> list[Result]:
    """Fit once, and judge the test part with each share of missing values (0 is the test part as it is).

    Raises TooFewAnomalies if the set does not have enough for the contamination.
    """
    split = protocol.split(file, seed)
    if contamination:
        split = contamination.apply(split, seed)
    results = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        scorer = method(split.train, seed)
        fit_seconds = time.perf_counter() - start
        for share in missing:
            test = with_missing(split.test, share, seed) if share else split.test
            start = time.perf_counter()
            scores = scorer(test)
            score_seconds = time.perf_counter() - start
            values = (auroc(split.labels, scores), average_precision(split.labels, scores), fit_seconds, score_seconds)
            figures = dict(zip(FIGURES, values, strict=True))
            results.append(Result(file.stem, at_level(name, contamination, share), seed, figures))
    return results


def at_level(method: str, contamination: Contamination | None, missing: float) -> str:
    """The method's name in the results: with the level in brackets if the rows are not the data set's own."""
    if contamination:
        return f"{method} [{contamination}]"
    return f"{method} [{100 * missing:g} % missing]" if missing else method


def alert_rates(file: Path, seed: int, protocol: Protocol) -> list[Result]:
    """Alarms on fresh inliers at each false-alarm rate, from one fit."""
    train, fresh = fresh_inliers(file, protocol, seed)
    detector = Detector(RATES[0], device="cpu", seed=seed).fit(train)
    figures = {"rows": float(len(fresh))}
    for rate in RATES:
        detector.set_false_alarm_rate(rate)
        figures[f"alarms_at_{rate:g}"] = float(np.count_nonzero(detector.score(fresh) >= 1.0))
    return [Result(file.stem, OURS, seed, figures)]


def to_measure(
    files: Sequence[Path],
    methods: Mapping[str, Method],
    options: argparse.Namespace,
    protocol: Protocol,
    results: Results,
) -> Iterator[Work]:
    """What the results lack: one fit each."""
    for file in files:
        for seed in options.seeds:
            for contamination in (None, *options.contamination):
                for name, method in methods.items():
                    missing = [
                        share
                        for share in ((0.0,) if contamination else (0.0, *options.missing))
                        if (file.stem, at_level(name, contamination, share), seed) not in results
                    ]
                    if missing:
                        call = partial(measure, file, seed, name, method, protocol, contamination, missing)
                        yield Work(at_level(name, contamination, 0.0), f"{file.stem}, seed {seed}", call)


def groups(files: Sequence[Path]) -> list[Group]:
    """All sets; and, where some were resampled upwards, those that were not."""
    sizes = {file.stem: size_before_resampling(file) for file in files}
    everything = [Group("in all", frozenset(sizes))]
    if all(size is None for size in sizes.values()):
        return everything
    large = frozenset(name for name, size in sizes.items() if size is None or size >= LARGE)
    return [*everything, Group(f"with {LARGE} rows or more before resampling", large)]


def compare(
    files: Sequence[Path], methods: Mapping[str, Method], options: argparse.Namespace, console: Console
) -> Troubles:
    """Measure what is not there yet, and print the tables."""
    protocol = Protocol(options.split, options.max_train, options.max_test)
    results = Results(options.out, FIGURES, asdict(protocol))
    work = list(to_measure(files, methods, options, protocol, results))
    troubles = run(work, results, console, options.jobs, options.threads, skip=TooFewAnomalies)
    columns = groups(files)
    print(summary(results.rows, columns))
    if changed := levels(results.rows, columns):
        print(f"\nAUROC with anomalies among the training rows, or test values missing (change):\n\n{changed}")
    return troubles


def calibrate(files: Sequence[Path], options: argparse.Namespace, console: Console) -> Troubles:
    """Check the alert rate on each set where that is not done yet, and print the table."""
    protocol = Protocol("random-half", options.max_train, options.max_test)
    figures = ("rows", *(f"alarms_at_{rate:g}" for rate in RATES))
    results = Results(options.out, figures, asdict(protocol))
    work = [
        Work(OURS, f"{file.stem}, seed {seed}", partial(alert_rates, file, seed, protocol))
        for file in files
        for seed in options.seeds
        if (file.stem, OURS, seed) not in results
    ]
    troubles = run(work, results, console, options.jobs, options.threads)
    print(f"{CALIBRATION_NOTE}\n\n{calibration(results.rows, RATES)}")
    return troubles


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of npz files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--split", choices=get_args(How), default="array-order", help="for files with X and y")
    parser.add_argument(
        "--peers", type=peers, nargs="?", const="all", default={}, metavar="NAME,NAME", help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--max-train", type=int, metavar="N", help="rows that train at most, drawn by the seed")
    parser.add_argument("--max-test", type=int, metavar="N", help="rows that are judged at most, drawn by the seed")
    parser.add_argument(
        "--contamination", type=contamination, nargs="+", action="extend", default=[], metavar="SHARE:KIND"
    )
    parser.add_argument("--missing", type=share, nargs="+", action="extend", default=[], metavar="SHARE")
    parser.add_argument("--calibration", action="store_true", help="check the alert rate on fresh inliers instead")
    parser.add_argument("--ablate", action="store_true", help="the detector with one part taken out in turn")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where results are kept, and taken up again")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each of them (default: 1)")
    options = parser.parse_args(argv)
    options.files = sorted(options.data.glob("*.npz"))
    if not options.files:
        parser.error(f"there is no npz file in {options.data}")
    if options.calibration and (options.peers or options.contamination or options.missing):
        parser.error("--calibration stands alone: leave out --peers, --contamination and --missing")
    if options.ablate and options.peers:
        parser.error("--ablate compares the detector with itself: leave out --peers")
    return options


def peers(text: str) -> dict[str, Method]:
    names = list(PEERS) if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return {name: PEERS[name] for name in names}


def contamination(text: str) -> Contamination:
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    part, _, kind = text.partition(":")
    if kind not in kinds:
        raise argparse.ArgumentTypeError(f"{text} is no level: say 0.02:burst or 0.02:scattered")
    return Contamination(share(part), kinds[kind])


def share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must lie between 0 and 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console = Console(stderr=True)
    try:
        if options.calibration:
            troubles = calibrate(options.files, options, console)
        else:
            others = ablation.VARIANTS if options.ablate else options.peers
            ours = ablation.without if options.ablate else stream_ad
            troubles = compare(options.files, {OURS: ours, **others}, options, console)
    except OtherResults as error:
        raise SystemExit(f"error: {error}") from None
    for line in troubles.lines():
        console.print(line, markup=False, highlight=False)
    return 1 if troubles.failed else 0


if __name__ == "__main__":
    sys.exit(main())
