"""How often the explanation of a flagged row names the right feature, and how near the expected value comes.

    python benchmarks/explanations.py --data DIR --plants 3 --out results.csv

Three kinds of rows whose cause is known:

- the simulated plant's own faults, as bare rows and, as `plant-N-context`, with temporal context;
- inlier rows of each npz file of DIR (X and y, or train, test and test_labels) in which one feature is false:
  `replaced` by the value of another row far away in rank, `moved` by several spreads, or `frozen` at one value that
  is valid elsewhere;
- the labelled stretches of streams that have a file NAME.causes.txt beside NAME.npz, with temporal context. Such a
  file has a line `first-last:1,5,7` for each stretch of `test`: its rows from 0, its features from 1.

Of false rows only those count that the detector flags, since only flagged rows are explained, and that it would not
flag without the fault. Of labelled stretches all rows count. A figure is the mean over faults or stretches, each the
mean of its rows. A hit rate is the share of the G true causes among the first G (@100 %) or 1.5 G (@150 %)
features of the ranking (Su et al., KDD 2019); of a single cause @100 % is how often the first is right.

Beside `stream_ad`, the attribution, stands `residual alone`: features ranked by |value - reconstruction| / spread.
`error` is the mean distance of the expected value, or of the reconstruction, from the true one, in spreads.

Each figure is written to the CSV as soon as it is measured; a run that was broken off goes on where it stood.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.protocols import Protocol, fresh_inliers, read
from benchmarks.results import Result, Results, markdown
from benchmarks.running import Work, run
from stream_ad.detector import Detector
from stream_ad.detector.temporal import TemporalContext
from stream_ad.simulation.plant import KINDS, Plant

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

WINDOW = 16
"""Rows of temporal context, for all streams."""
FALSE_ALARM_RATE = 0.01
PLANT_TRAINING_ROWS, PLANT_ROWS, PLANT_FAULT_RATE = 6000, 12_000, 4.0
FAULTS = 1000
"""Rows made false in each of the three ways; fewer where a set has fewer inliers to judge."""
FAR_IN_RANK = (0.35, 0.65)
MOVED_SPREADS = (3.0, 8.0)
FIGURES = ("rows", "flagged", "faults", "hit_100", "hit_150", "error")
ATTRIBUTION, RESIDUAL = "stream_ad", "residual alone"


@dataclass(slots=True)
class Faults:
    """Rows of which is known what is wrong with them."""

    kind: str
    rows: Float64
    """[n, width] as the detector takes them: with temporal context, if there is one."""
    causes: Bool
    """[n, d] the features that are false."""
    stretch: Int64
    """[n] number of the fault or stretch that each row belongs to; each counts the same."""
    truth: Float64 | None = None
    """[n, width] the rows without the fault, where they are known."""


@dataclass(slots=True)
class Case:
    """What is learned, and the faults to explain."""

    train: Float64
    faults: list[Faults]
    context: TemporalContext | None = None


def measure(dataset: str, case: Case, seed: int) -> list[Result]:
    """Fit and explain; two results, by attribution and by residual alone, for each kind of fault."""
    detector = Detector(FALSE_ALARM_RATE, "cpu", seed).fit(case.train)
    return [
        Result(dataset, f"{method} [{faults.kind}]", seed, figures)
        for faults in case.faults
        for method, figures in judge(detector, faults, case.context).items()
    ]


def judge(detector: Detector, faults: Faults, context: TemporalContext | None) -> dict[str, dict[str, float]]:
    """The figures of both rankings for faults of one kind."""
    found = detector.judge(faults.rows)
    flagged = found.score >= 1.0
    kept = np.ones(len(flagged), dtype=bool)
    if faults.truth is not None:
        kept = flagged & (detector.score(faults.truth) < 1.0)
    d = faults.causes.shape[1]
    describes = np.arange(d) if context is None else context.describes
    expected, share = detector.explain(faults.rows[kept], describes)
    residual = np.nan_to_num(np.abs(faults.rows - found.reconstruction)[kept] / detector.spread)
    rankings = {
        ATTRIBUTION: (share, expected),
        RESIDUAL: (residual @ (describes[:, None] == np.arange(d)), found.reconstruction[kept, :d]),
    }
    common = {"rows": float(len(kept)), "flagged": float(flagged.mean())}
    return {
        method: common | figures(ranking, values / detector.spread[:d], faults, kept, detector.spread[:d])
        for method, (ranking, values) in rankings.items()
    }


def figures(ranking: Float64, values: Float64, faults: Faults, kept: Bool, spread: Float64) -> dict[str, float]:
    """What comes of a ranking [k, d] and of expected values [k, d], in spreads, of the k rows that are kept."""
    causes, stretch = faults.causes[kept], faults.stretch[kept]
    error = np.full(len(causes), np.nan)
    if faults.truth is not None:
        distance = np.abs(values - faults.truth[kept, : len(spread)] / spread)
        error = np.where(causes, distance, 0.0).sum(axis=1) / causes.sum(axis=1)
    by_row = {"hit_100": hit_rate(ranking, causes, 1.0), "hit_150": hit_rate(ranking, causes, 1.5), "error": error}
    means = {name: mean_of_stretches(value, stretch) for name, value in by_row.items()}
    return {"faults": float(len(np.unique(stretch))), **means}


def hit_rate(ranking: Float64, causes: Bool, reach: float) -> Float64:
    """[n] share of the true causes [n, d] among the first `reach` times as many features of a ranking [n, d], rounded
    down; equal features stand in the order of their columns."""
    order = np.argsort(-ranking, axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    count = causes.sum(axis=1, keepdims=True)
    hits = causes & (place < np.floor(reach * count))
    rate: Float64 = hits.sum(axis=1) / np.maximum(1, count[:, 0])
    return rate


def mean_of_stretches(values: Float64, stretch: Int64) -> float:
    """Mean over the stretches, each the mean of its rows; NaN without rows."""
    if len(values) == 0:
        return float("nan")
    return float(np.mean([values[stretch == number].mean() for number in np.unique(stretch)]))


def plant_case(seed: int, with_context: bool) -> Case:
    """A stationary plant: what it reads without faults, and the same with them."""
    n = PLANT_TRAINING_ROWS
    clean = Plant(seed, drift=False).rows(n + PLANT_ROWS)
    faulty = Plant(seed, PLANT_FAULT_RATE, fault_free_rows=n, drift=False).rows(n + PLANT_ROWS)
    d = clean.values.shape[1]
    context = TemporalContext(d, WINDOW) if with_context else None
    rows, truth = (
        plant.values if context is None else TemporalContext(d, WINDOW).extend(plant.values)
        for plant in (faulty, clean)
    )
    faults = []
    for number, kind in enumerate(KINDS):
        of_kind = np.flatnonzero(faulty.kind == number)
        causes = faulty.feature[of_kind, None] == np.arange(d)
        faults.append(Faults(kind, rows[of_kind], causes, faulty.fault[of_kind], truth[of_kind]))
    return Case(rows[:n], faults, context)


def table_case(file: Path, max_train: int, seed: int) -> Case:
    """Inlier rows of a file that did not train, with one feature of each made false."""
    train, inliers = fresh_inliers(file, Protocol(max_train=max_train, max_test=max_train), seed)
    rng = np.random.default_rng(seed)
    return Case(train, [false_rows(kind, train, inliers, rng) for kind in ("replaced", "moved", "frozen")])


def false_rows(kind: str, train: Float64, inliers: Float64, rng: np.random.Generator) -> Faults:
    """Some of the inliers, with a feature replaced, moved or frozen; where that changes nothing the row is left out."""
    chosen = rng.choice(len(inliers), min(FAULTS, len(inliers)), replace=False)
    varying = np.flatnonzero((train != train[0]).any(axis=0))
    feature = rng.choice(varying, len(chosen))
    truth = inliers[chosen]
    value = truth[np.arange(len(chosen)), feature]
    ordered = np.sort(train, axis=0)
    if kind == "replaced":
        rank = np.array([np.searchsorted(ordered[:, j], v) for j, v in zip(feature, value, strict=True)])
        far = rank + np.round(rng.uniform(*FAR_IN_RANK, len(chosen)) * len(train)).astype(np.int64)
        false = ordered[far % len(train), feature]
    elif kind == "moved":
        steps = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(*MOVED_SPREADS, len(chosen))
        false = value + steps * train.std(axis=0)[feature]
    else:
        stuck = train[rng.integers(0, len(train), train.shape[1]), np.arange(train.shape[1])]
        false = stuck[feature]
    rows = truth.copy()
    rows[np.arange(len(chosen)), feature] = false
    changed = false != value
    causes = feature[:, None] == np.arange(train.shape[1])
    return Faults(kind, rows[changed], causes[changed], np.flatnonzero(changed), truth[changed])


def stream_case(file: Path, max_train: int) -> Case:
    """The labelled stretches of a stream, with the causes that the file beside it names."""
    arrays = read(file)
    train, test = arrays["train"], arrays["test"]
    context = TemporalContext(train.shape[1], WINDOW)
    extended = context.extend(train[-max_train:])
    rows, causes, stretch = causes_of(causes_file(file).read_text(), train.shape[1])
    # The test part begins a past of its own, as in benchmarks/series.py.
    judged = TemporalContext(train.shape[1], WINDOW).extend(test)[rows]
    return Case(extended, [Faults("causes", judged, causes, stretch)], context)


def causes_file(file: Path) -> Path:
    return file.with_suffix(".causes.txt")


def causes_of(text: str, d: int) -> tuple[Int64, Bool, Int64]:
    """Lines `first-last:1,5,7` -> rows [n], their causes [n, d] and the number of their stretch [n]."""
    rows, causes, stretch = [], [], []
    for number, line in enumerate(text.split()):
        place, features = line.split(":")
        first, last = map(int, place.split("-"))
        true = np.isin(np.arange(1, d + 1), [int(feature) for feature in features.split(",")])
        rows.append(np.arange(first, last + 1))
        causes.append(np.tile(true, (last + 1 - first, 1)))
        stretch.append(np.full(last + 1 - first, number))
    return np.concatenate(rows), np.concatenate(causes), np.concatenate(stretch)


def measure_plant(dataset: str, number: int, with_context: bool, seed: int) -> list[Result]:
    return measure(dataset, plant_case(number, with_context), seed)


def measure_file(file: Path, max_train: int, seed: int) -> list[Result]:
    case = stream_case(file, max_train) if causes_file(file).exists() else table_case(file, max_train, seed)
    return measure(file.stem, case, seed)


def table(results: Sequence[Result]) -> str:
    """A line for each kind of fault: means over sets of both rankings, in percent and in spreads."""
    kinds = list(dict.fromkeys(kind_of(row) for row in results))
    header = ["fault", "sets", "rows", "flagged, %", "faults"]
    for figure in ("hit@100 %", "hit@150 %", "error"):
        header += [figure, RESIDUAL]
    return markdown(header, (line(kind, [row for row in results if kind_of(row) == kind]) for kind in kinds))


def kind_of(row: Result) -> str:
    """The plant's bare rows, its rows with context, the kinds of false rows, and the real causes."""
    kind = row.method[row.method.index("[") + 1 : -1]
    if not row.dataset.startswith("plant-"):
        return kind
    return f"plant, {kind}{', with context' if row.dataset.endswith('context') else ''}"


def line(kind: str, results: Sequence[Result]) -> list[str]:
    by_method = {
        method: [row for row in results if row.method.startswith(method)] for method in (ATTRIBUTION, RESIDUAL)
    }
    ours = by_method[ATTRIBUTION]
    cells = [kind, str(len({row.dataset for row in ours})), f"{sum(row.figures['rows'] for row in ours):.0f}"]
    flagged = sum(row.figures["flagged"] * row.figures["rows"] for row in ours) / sum(
        row.figures["rows"] for row in ours
    )
    cells += [f"{100 * flagged:.1f}", f"{sum(row.figures['faults'] for row in ours):.0f}"]
    for figure, unit in (("hit_100", 100.0), ("hit_150", 100.0), ("error", 1.0)):
        cells += [shown(rows, figure, unit) for rows in by_method.values()]
    return cells


def shown(results: Sequence[Result], figure: str, unit: float) -> str:
    """Mean over the faults of all results in which there is such a figure."""
    known = [row.figures for row in results if not np.isnan(row.figures[figure])]
    if not known:
        return "-"
    mean = np.average([row[figure] for row in known], weights=[row["faults"] for row in known])
    return f"{unit * mean:.{1 if unit > 1.0 else 2}f}"


def planned(options: argparse.Namespace) -> Iterator[Work]:
    """What is to be measured and not in the results yet."""
    calls = []
    for number in range(options.plants):
        for dataset, with_context in ((f"plant-{number}", False), (f"plant-{number}-context", True)):
            calls.append((dataset, partial(measure_plant, dataset, number, with_context)))
    files = sorted(options.data.glob("*.npz"))[: options.max_sets] if options.data else []
    calls += [(file.stem, partial(measure_file, file, options.max_train)) for file in files]
    done = {(row.dataset, row.seed) for row in options.results.rows}
    for seed in options.seeds:
        for dataset, call in calls:
            if (dataset, seed) not in done:
                yield Work(ATTRIBUTION, f"{dataset}, seed {seed}", partial(call, seed))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of npz files")
    parser.add_argument("--max-sets", type=int, metavar="N", help="the first N files of it")
    parser.add_argument("--plants", type=int, default=3, metavar="N", help="simulated plants; 0 for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--max-train", type=int, default=5000, metavar="N", help="training rows of a set at most")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where results are kept, and taken up again")
    options = parser.parse_args(argv)
    try:
        options.results = Results(options.out, FIGURES, {"window": WINDOW, "max_train": options.max_train})
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console = Console(stderr=True)
    troubles = run(list(planned(options)), options.results, console)
    if options.results.rows:
        print(table(options.results.rows))
    for text in troubles.lines():
        console.print(text, markup=False, highlight=False)
    return 1 if troubles.failed else 0


if __name__ == "__main__":
    sys.exit(main())
