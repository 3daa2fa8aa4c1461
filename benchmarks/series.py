"""How well the detector tells anomalous rows of streams from ordinary ones, with temporal context and without.

    python benchmarks/series.py --data DIR --seeds 0 1 --out results.csv
    python benchmarks/series.py --data DIR --ablate --out ablation.csv

DIR holds streams in time order of either kind, one a file:

- npz files with `train` [n, features], `test` [m, features] and `test_labels` [m] (1 = anomaly): AUROC, average
  precision and VUS-PR (benchmarks/vus.py), never with point adjustment. Tables are by family, which is the file's
  name up to the first dash;
- csv files of the Skoltech Anomaly Benchmark (`;` between columns, with `anomaly`), by its leaderboard's protocol:
  for each file the first 400 rows train and the rest is judged; F1, false-alarm rate and missed-alarm rate over the
  rows of all files together. Files without `anomaly` are left out.

`stream_ad` is the detector on rows with temporal context, `stream_ad_rows` the same on bare rows. Beside them run
the distance to the nearest neighbours, the residual of principal components and an isolation forest, on bare rows.
With `--ablate` the detector stands beside itself instead, with one part taken out in turn (benchmarks/ablation.py; npz
files only).

Each figure is written to the CSV as soon as it is measured. A run that was broken off goes on where it stood. Tables
of all that the file holds go to standard output as Markdown. What fails is shown, the run goes on, and the exit code
is 1. Needs scikit-learn: pip install -c constraints.txt -e '.[benchmarks]'
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import ablation
from benchmarks.metrics import auroc, average_precision
from benchmarks.peers import Float64, Method, Scorer, dte_np, on_standardised_rows
from benchmarks.results import Result, Results, markdown
from benchmarks.running import Work, run
from benchmarks.vus import vus_pr
from stream_ad.config.checks import LEAST_WINDOWS
from stream_ad.detector import Detector
from stream_ad.detector.temporal import TemporalContext

WINDOW = 64
"""Rows of temporal context, where there are enough to learn from."""
SKAB_FALSE_ALARM_RATE = 0.05
"""Of 400 training rows only about 25 windows are independent: they cannot show a rarer alarm than one in twenty."""
STREAM_FIGURES = ("auroc", "average_precision", "vus_pr")
SKAB_FIGURES = ("f1", "far", "mar", "true_positives", "false_positives", "false_negatives", "true_negatives")
SKAB_TRAINING_ROWS = 400
FOLDS = 4
VARIANCE_KEPT = 0.9

SKAB_NOTE = f"""\
An alarm is a score of 1 or more at a false-alarm rate of {SKAB_FALSE_ALARM_RATE:g}, for the peers one above the
{1 - SKAB_FALSE_ALARM_RATE:.0%} quantile of training rows that were held out ({FOLDS} contiguous folds)."""


def context_rows(training_rows: int) -> int:
    """Rows of temporal context for so many training rows: no more than `stream-ad lint` lets pass."""
    rows = min(WINDOW, training_rows // LEAST_WINDOWS)
    return rows if rows > 1 else 0


def extended(rows: Float64, window: int) -> Float64:
    """Rows [n, features] with temporal context, which begins with the first of them."""
    return TemporalContext(rows.shape[1], window).extend(rows)


def on_context(method: Method, train: Float64, seed: int) -> Scorer:
    """A method on rows with temporal context; test rows begin a past of their own."""
    window = context_rows(len(train))
    scorer = method(extended(train, window), seed)
    return lambda rows: scorer(extended(rows, window))


def stream_ad(train: Float64, seed: int) -> Scorer:
    """The detector on rows with temporal context."""
    d, window = train.shape[1], context_rows(len(train))
    detector = Detector(SKAB_FALSE_ALARM_RATE, "cpu", seed).fit(extended(train, window), features=d, past=window)
    return lambda rows: detector.score(extended(rows, window))


def stream_ad_rows(train: Float64, seed: int) -> Scorer:
    return Detector(SKAB_FALSE_ALARM_RATE, "cpu", seed).fit(train).score


def pca_residual(train: Float64, seed: int) -> Scorer:
    """Squared distance to the plane of the components that hold 90 % of the variance."""
    from sklearn.decomposition import PCA

    components = PCA(VARIANCE_KEPT, random_state=seed).fit(train)
    return lambda rows: ((rows - components.inverse_transform(components.transform(rows))) ** 2).sum(axis=1)


def isolation_forest(train: Float64, seed: int) -> Scorer:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(train)
    return lambda rows: -forest.score_samples(rows)


OURS: dict[str, Method] = {"stream_ad": stream_ad, "stream_ad_rows": stream_ad_rows}
PEERS: dict[str, Method] = {
    name: partial(on_standardised_rows, method)
    for name, method in {"KNN": dte_np, "PCA": pca_residual, "IForest": isolation_forest}.items()
}
METHODS = OURS | PEERS
ABLATION: dict[str, Method] = {
    name: partial(on_context, variant) for name, variant in {"whole": ablation.without, **ablation.VARIANTS}.items()
}
Measure = Callable[[Path, str, int], list[Result]]


def measure_stream(file: Path, method: str, seed: int) -> list[Result]:
    """Fit on the training part and rank the rows of the test part."""
    with np.load(file, allow_pickle=False) as data:
        train, test = data["train"].astype(np.float64), data["test"].astype(np.float64)
        labels = data["test_labels"].astype(bool)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scores = (METHODS | ABLATION)[method](train, seed)(test)
    values = (auroc(labels, scores), average_precision(labels, scores), vus_pr(labels, scores))
    return [Result(file.stem, method, seed, dict(zip(STREAM_FIGURES, values, strict=True)))]


def measure_skab(file: Path, method: str, seed: int) -> list[Result]:
    """Fit on the first rows and count alarms on the rest."""
    rows, labels = read_skab(file)
    train = rows[:SKAB_TRAINING_ROWS]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        limit = 1.0 if method in OURS else held_out_quantile(METHODS[method], train, seed)
        # The whole file is scored, so that the rows that are judged have those before them as their past.
        alarms = METHODS[method](train, seed)(rows) >= limit
    return [Result(file.stem, method, seed, alarm_figures(labels[SKAB_TRAINING_ROWS:], alarms[SKAB_TRAINING_ROWS:]))]


def read_skab(file: Path) -> tuple[Float64, np.ndarray]:
    """Sensors [n, features] and labels [n] of a file of SKAB."""
    with file.open(newline="") as lines:
        records = list(csv.DictReader(lines, delimiter=";"))
    sensors = [name for name in records[0] if name not in ("datetime", "anomaly", "changepoint")]
    rows = np.array([[float(record[name]) for name in sensors] for record in records])
    return rows, np.array([float(record["anomaly"]) > 0 for record in records])


def held_out_quantile(method: Method, train: Float64, seed: int) -> float:
    """The score that held-out training rows exceed at the false-alarm rate; neighbours in time stay together."""
    fold = np.arange(len(train)) * FOLDS // len(train)
    scores = [method(train[fold != i], seed)(train[fold == i]) for i in range(FOLDS)]
    return float(np.quantile(np.concatenate(scores), 1.0 - SKAB_FALSE_ALARM_RATE))


def alarm_figures(labels: np.ndarray, alarms: np.ndarray) -> dict[str, float]:
    counts = (labels & alarms, ~labels & alarms, labels & ~alarms, ~labels & ~alarms)
    return from_counts(*(float(np.count_nonzero(count)) for count in counts))


def from_counts(hits: float, false_alarms: float, misses: float, quiet: float) -> dict[str, float]:
    """F1, share of normal rows with an alarm and share of anomalous rows without, and the counts themselves."""
    f1 = 2 * hits / max(1.0, 2 * hits + false_alarms + misses)
    values = (f1, false_alarms / max(1.0, false_alarms + quiet), misses / max(1.0, hits + misses))
    return dict(zip(SKAB_FIGURES, (*values, hits, false_alarms, misses, quiet), strict=True))


def stream_tables(results: Sequence[Result]) -> str:
    """One table a family and one over all: means of each method over sets and seeds, in percent."""
    families = sorted({family(row) for row in results})
    groups = [(name, [row for row in results if family(row) == name]) for name in families]
    return "\n\n".join(stream_table(title, rows) for title, rows in [*groups, ("all", results)])


def family(row: Result) -> str:
    return row.dataset.split("-")[0]


def stream_table(title: str, results: Sequence[Result]) -> str:
    sets = len({row.dataset for row in results})
    header = [f"{title} ({sets} set{'s' if sets > 1 else ''})", "AUROC", "average precision", "VUS-PR"]
    return markdown(header, ([name, *percents(rows, STREAM_FIGURES)] for name, rows in by_method(results)))


def by_method(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    found = [(name, [row for row in results if row.method == name]) for name in (*METHODS, *ABLATION)]
    return [(name, rows) for name, rows in found if rows]


def percents(results: Sequence[Result], figures: Iterable[str]) -> list[str]:
    """Means over sets, each the mean of its seeds."""
    sets = sorted({row.dataset for row in results})
    return [
        f"{100 * mean(mean(row.figures[figure] for row in results if row.dataset == name) for name in sets):.1f}"
        for figure in figures
    ]


def skab_table(results: Sequence[Result]) -> str:
    """F1, false-alarm and missed-alarm rate of each method over the rows of all files, in percent."""
    counts = SKAB_FIGURES[3:]
    lines = []
    for name, rows in by_method(results):
        total = from_counts(*(sum(row.figures[count] for row in rows) for count in counts))
        lines.append([name, *(f"{100 * total[figure]:.1f}" for figure in SKAB_FIGURES[:3])])
    table = markdown([f"{len({row.dataset for row in results})} files", "F1", "FAR", "MAR"], lines)
    return f"{SKAB_NOTE}\n\n{table}"


def streams_in(folder: Path) -> tuple[list[Path], Measure, tuple[str, ...], Callable[[Sequence[Result]], str]]:
    """The streams of a folder, how they are measured, the figures, and their tables. Raises ValueError for none."""
    if files := sorted(folder.glob("*.npz")):
        return files, measure_stream, STREAM_FIGURES, stream_tables
    if files := [file for file in sorted(folder.glob("*.csv")) if "anomaly" in header_of(file)]:
        return files, measure_skab, SKAB_FIGURES, skab_table
    raise ValueError(f"there is neither an npz file nor a csv file with a column 'anomaly' in {folder}")


def header_of(file: Path) -> list[str]:
    with file.open() as lines:
        return lines.readline().strip().split(";")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of npz or of csv files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--ablate", action="store_true", help="the detector with one part taken out in turn")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where results are kept, and taken up again")
    options = parser.parse_args(argv)
    try:
        options.files, options.measure, options.figures, options.tables = streams_in(options.data)
        if options.ablate and options.measure is not measure_stream:
            raise ValueError("--ablate ranks rows and raises no alarms: it takes npz files only")
        settings = {"window": WINDOW, "skab_false_alarm_rate": SKAB_FALSE_ALARM_RATE}
        options.results = Results(options.out, options.figures, settings)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console = Console(stderr=True)
    results: Results = options.results
    work = [
        Work(method, f"{file.stem}, seed {seed}", partial(options.measure, file, method, seed))
        for file in options.files
        for seed in options.seeds
        for method in (ABLATION if options.ablate else METHODS)
        if (file.stem, method, seed) not in results
    ]
    troubles = run(work, results, console)
    if results.rows:
        print(options.tables(results.rows))
    for line in troubles.lines():
        console.print(line, markup=False, highlight=False)
    return 1 if troubles.failed else 0


if __name__ == "__main__":
    sys.exit(main())
