"""How well methods do on a stream that they learn from: every batch is scored first and learned then.

    python benchmarks/prequential.py --json results.json                   # simulated worlds
    python benchmarks/prequential.py --data DIR --json results.json        # streams in row order
    python benchmarks/prequential.py --tables DIR --json results.json      # tables made streams

`--data` takes folders of npz files, one stream each, with `train`, `test` and `test_labels`, or with `X` and `y` (of
which the first 2,000 rows, a third at most, train the first model), or folders of files of the Skoltech Anomaly
Benchmark. `--tables` takes the same npz files as tables without an order: normal rows in file order, anomalies mixed
in, once as they are and with sudden, gradual and recurring drift (benchmarks/streams.py). Without either the worlds of
benchmarks/worlds.py are run. Labels judge only.

`stream_ad` is the product's own learning loop (benchmarks/loop.py), with temporal context of 64 rows at most where
neighbouring rows are alike. Its alerts are scores of 1 and more. Beside it run half-space trees and a one-class SVM in
a QuantileFilter, both by river, a robust z-score, and PyOD's isolation forest retrained when ours is; all of these get
the same threshold: the quantile of their own past scores that the budget asks for (benchmarks/online.py).

- `alert_rate` is the share of normal rows that raised an alert; `budget` what it should be.
- `delay_rows` is the mean over the anomalous stretches of the rows from the first to the one that raised an alert; a
  stretch that was missed counts with its length.
- `rows_per_second` are rows judged in a second of processor time, learning included.

Figures are written as soon as they are there: with `--json` as a list of objects, with `--out` as CSV that a run that
was broken off takes up again. Markdown goes to standard output. What fails is shown, the run goes on, and the exit
code is 1. Needs the benchmarks' packages: pip install -c constraints.txt -e '.[benchmarks]'
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loop import Schedule
from benchmarks.metrics import auroc, average_precision
from benchmarks.online import METHODS, Method, make
from benchmarks.results import Result, Results, markdown, write_json
from benchmarks.running import Work, run
from benchmarks.streams import Source, Stream, files_in, tables_in
from benchmarks.worlds import WORLDS
from stream_ad.detector import Recipe

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

BUDGET = 0.01
MOST_ROWS = 20_000
QUICK_ROWS = 6000
QUICK_EVERY = 2000
QUICK = Recipe(autoencoder_steps=150, rarity_steps=75, vae_steps=80, classifier_steps=120, synthetic_outliers=2000)
STORM = 5.0
"""After a change a batch with so many times the budget's alerts is not settled yet."""
IN_JSON = ("auroc", "average_precision", "alert_rate", "budget", "delay_rows", "rows_per_second")
FIGURES = (*IN_JSON, "equal_delay_rows", "recall", "settled_rows")


class Unjudgeable(ValueError):
    """The rows that are judged are all normal, or all anomalies."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How streams are run."""

    budget: float
    schedule: Schedule
    max_rows: int
    recipe: Recipe

    def settings(self) -> dict[str, Any]:
        return asdict(self)


class Written(Results):
    """Results that are also written as JSON whenever there is a new one."""

    def __init__(self, json_file: Path | None, out: Path | None, settings: dict[str, Any]) -> None:
        super().__init__(out, FIGURES, settings)
        self._json_file = json_file

    def add(self, result: Result) -> None:
        super().add(result)
        self.write()

    def write(self) -> None:
        if self._json_file is not None:
            write_json(self._json_file, as_objects(self.rows))


def as_objects(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object a stream and method, each figure the mean over the seeds."""
    runs: dict[tuple[str, str], list[Result]] = {}
    for row in results:
        runs.setdefault((row.dataset, row.method), []).append(row)
    return [
        {"stream": stream, "method": method} | {name: fmean(row.figures[name] for row in rows) for name in IN_JSON}
        for (stream, method), rows in runs.items()
    ]


def measure(source: Source, method: str, seed: int, plan: Plan) -> list[Result]:
    """Run one method through one stream. Raises Unjudgeable if the stream cannot tell good from bad."""
    stream = source.make(seed, plan.max_rows)
    if stream.labels.all() or not stream.labels.any():
        raise Unjudgeable(f"of {len(stream.labels)} rows {int(stream.labels.sum())} are anomalies")
    runner = make(method, stream, plan.budget, plan.schedule, plan.recipe, seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        score, alert, seconds = run_through(stream, runner, plan.schedule.batch)
    figures = judge(stream, score, alert, plan.budget) | {
        "budget": plan.budget,
        "rows_per_second": len(score) / max(seconds, 1e-9),
    }
    return [Result(stream.name, method, seed, figures)]


def run_through(stream: Stream, method: Method, batch: int) -> tuple[Float64, Bool, float]:
    """Scores [m] and alerts [m] of the stream's rows, and the seconds of processor time that they took."""
    method.start(stream.train)
    before = time.process_time()
    steps = [method.step(stream.rows[at : at + batch]) for at in range(0, len(stream.rows), batch)]
    seconds = time.process_time() - before
    score, alert = (np.concatenate(column) for column in zip(*steps, strict=True))
    return score, alert, seconds


def judge(stream: Stream, score: Float64, alert: Bool, budget: float) -> dict[str, float]:
    """What the labels say of scores [m] and alerts [m]."""
    labels = stream.labels
    # In hindsight: the threshold that would have raised alerts on just the budget's share of the normal rows.
    exceeds = score > np.quantile(score[~labels], 1.0 - budget)
    return {
        "auroc": auroc(labels, score),
        "average_precision": average_precision(labels, score),
        "alert_rate": float(alert[~labels].mean()),
        "delay_rows": float(delays(labels, alert).mean()),
        "equal_delay_rows": float(delays(labels, exceeds).mean()),
        "recall": float(alert[labels].mean()),
        "settled_rows": settled_rows(stream, alert, budget),
    }


def delays(labels: Bool, alert: Bool) -> NDArray[np.int64]:
    """For each anomalous stretch [k] the rows from its first to its first alert; its length if there is none."""
    edges = np.diff(np.concatenate([[False], labels, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    alerts = np.append(np.flatnonzero(alert), len(alert) + 1)
    first = alerts[np.searchsorted(alerts, starts)]
    rows: NDArray[np.int64] = np.minimum(first, ends) - starts
    return rows


def settled_rows(stream: Stream, alert: Bool, budget: float, batch: int = 256) -> float:
    """Rows from a change to the end of the last batch with an alert storm, a mean over the changes; NaN without any.

    Only normal rows count: faults may well raise alerts.
    """
    needed = []
    for start, end in pairwise([*stream.changes, len(alert)]):
        last = 0
        for at in range(start, end, batch):
            normal = alert[at : min(at + batch, end)][~stream.labels[at : min(at + batch, end)]]
            if normal.sum() > STORM * budget * batch:
                last = min(at + batch, end) - start
        needed.append(last)
    return fmean(needed) if needed else float("nan")


def tables(results: Sequence[Result]) -> str:
    """The means of each method over the streams that all of them have, and AUROC and delay by stream."""
    methods = [name for name in METHODS if any(row.method == name for row in results)]
    by_method = {name: by_stream(results, name) for name in methods}
    streams = dict.fromkeys(row.dataset for row in results)
    common = [stream for stream in streams if all(stream in figures for figures in by_method.values())]
    if not common:
        return "No stream has been run by all methods yet."
    by_figure = (one_figure(by_method, common, *column) for column in COLUMNS)
    return "\n\n".join([overall(by_method, common), *filter(None, by_figure)])


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("AUROC", "auroc", lambda value: f"{100 * value:.1f}"),
    ("delay", "delay_rows", lambda value: f"{value:.1f}"),
    ("alerts / budget", "alert_ratio", lambda value: f"{value:.2f}"),
    ("recall", "recall", lambda value: f"{100 * value:.1f}"),
    ("rows until settled", "settled_rows", lambda value: f"{value:.0f}"),
)


def by_stream(results: Sequence[Result], method: str) -> dict[str, dict[str, float]]:
    """Figures of a method by stream, each the mean over the seeds."""
    runs: dict[str, list[Result]] = {}
    for row in results:
        if row.method == method:
            runs.setdefault(row.dataset, []).append(row)
    figures = {
        stream: {name: fmean(row.figures[name] for row in rows) for name in FIGURES} for stream, rows in runs.items()
    }
    return {stream: row | {"alert_ratio": row["alert_rate"] / row["budget"]} for stream, row in figures.items()}


def overall(by_method: dict[str, dict[str, dict[str, float]]], streams: Sequence[str]) -> str:
    title = f"{len(streams)} stream{'s' if len(streams) > 1 else ''}"
    header = [title, "AUROC", "average precision", "alerts / budget", "delay", "delay at equal alerts"]
    header += ["recall", "rows / s"]
    lines = []
    for method, figures in by_method.items():
        mean = {name: fmean(figures[stream][name] for stream in streams) for name in (*FIGURES, "alert_ratio")}
        percents = [f"{100 * mean[name]:.1f}" for name in ("auroc", "average_precision")]
        delay = [f"{mean[name]:.1f}" for name in ("delay_rows", "equal_delay_rows")]
        rest = [f"{100 * mean['recall']:.1f}", f"{mean['rows_per_second']:,.0f}"]
        lines.append([method, *percents, f"{mean['alert_ratio']:.2f}", *delay, *rest])
    return markdown(header, lines)


def one_figure(
    by_method: dict[str, dict[str, dict[str, float]]],
    streams: Sequence[str],
    title: str,
    figure: str,
    text: Callable[[float], str],
) -> str:
    """One figure by stream and method; streams that have none are left out."""
    lines = [
        [stream, *(text(figures[stream][figure]) for figures in by_method.values())]
        for stream in streams
        if all(np.isfinite(figures[stream][figure]) for figures in by_method.values())
    ]
    return markdown([title, *by_method], lines) if lines else ""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR", help="streams in row order")
    parser.add_argument("--tables", type=Path, nargs="+", default=[], metavar="DIR", help="tables to make streams of")
    parser.add_argument("--worlds", action="store_true", help="the simulated worlds too")
    parser.add_argument(
        "--streams", nargs="+", default=["*"], metavar="NAME", help="only these; * and ? stand for others"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SHARE", help=f"of normal rows; {BUDGET:g}")
    parser.add_argument("--max-rows", type=int, metavar="N", help=f"first rows of each stream; {MOST_ROWS:,}")
    parser.add_argument("--every", type=int, metavar="N", help=f"rows between trainings; {Schedule().every_rows:,}")
    parser.add_argument(
        "--quick", action="store_true", help=f"a short training, and {QUICK_ROWS:,} rows of each stream"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a list of objects, one a stream and method")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where results are kept, and taken up again")
    options = parser.parse_args(argv)
    try:
        prepare(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def prepare(options: argparse.Namespace) -> None:
    """Make of what was asked for the plan, its streams and the results so far. Raises ValueError."""
    rows = options.max_rows or (QUICK_ROWS if options.quick else MOST_ROWS)
    recipe = QUICK if options.quick else Recipe()
    every = options.every or (QUICK_EVERY if options.quick else Schedule().every_rows)
    options.plan = Plan(options.budget, Schedule(every_rows=every), rows, recipe)
    sources = list(WORLDS) if options.worlds or not (options.data or options.tables) else []
    sources += [source for folder in options.data for source in files_in(folder)]
    sources += [source for folder in options.tables for source in tables_in(folder)]
    options.sources = [one for one in sources if any(fnmatch(one.name, wanted) for wanted in options.streams)]
    if not options.sources:
        raise ValueError(
            f"no stream is called {' or '.join(options.streams)}; there are {', '.join(s.name for s in sources)}"
        )
    options.results = Written(options.json, options.out, options.plan.settings())


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    console = Console(stderr=True)
    results: Written = options.results
    work = [
        Work(method, f"{source.name}, seed {seed}", partial(measure, source, method, seed, options.plan))
        for source in options.sources
        for seed in options.seeds
        for method in options.methods
        if (source.name, method, seed) not in results
    ]
    troubles = run(work, results, console, processes=options.jobs, skip=Unjudgeable)
    results.write()
    print(tables(results.rows) if results.rows else "Nothing was measured.")
    for line in troubles.lines():
        console.print(line, markup=False, highlight=False)
    return 1 if troubles.failed else 0


if __name__ == "__main__":
    sys.exit(main())
