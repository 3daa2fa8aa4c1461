"""What labels bring: AUROC and average precision without, and with 10, 100 and 1000 labelled rows.

    python benchmarks/feedback.py --data DIR --seeds 0 1 --out results.csv

DIR holds npz files as for `benchmarks/tabular.py`. Half of the test part, drawn at random, is what an operator sees,
the other half is judged. Half of the labels go to the rows that the detector without labels scores highest, the
other half to rows drawn at random; they are true. Rows labelled normal join the training rows, those labelled
anomalous are given to `Detector.fit(anomalies=...)`. A set with fewer rows to label than asked for has all of them
labelled.

Each figure is written to the CSV as soon as it is measured, and a run that was broken off goes on where it stood. The
table goes to standard output as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.metrics import auroc, average_precision
from benchmarks.protocols import How, Protocol, Split
from benchmarks.results import OtherResults, Result, Results, markdown
from benchmarks.running import Work, run
from stream_ad.detector import Detector

FIGURES = ("auroc", "average_precision", "anomalies_labelled")
LABELS = (10, 100, 1000)
TOP_SHARE = 0.5
"""Of the labels that go to the rows with the highest scores."""


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """A data set before anybody has labelled anything of it."""

    split: Split
    order: NDArray[np.int64]
    """Rows of the test part that can be labelled, by the detector's scores, the highest first."""
    judged: NDArray[np.int64]
    """The other rows of the test part."""
    detector: Detector


@lru_cache(maxsize=1)
def unlabelled(file: Path, seed: int, protocol: Protocol) -> Unlabelled:
    split = protocol.split(file, seed)
    drawn = np.random.default_rng(seed).permutation(len(split.test))
    seen, judged = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    detector = Detector(device="cpu", seed=seed).fit(split.train)
    order = seen[np.argsort(-detector.score(split.test[seen]), kind="stable")]
    return Unlabelled(split, order, judged, detector)


def measure(file: Path, seed: int, protocol: Protocol, count: int) -> list[Result]:
    """Fit with so many labels, and judge rows that nobody has labelled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = unlabelled(file, seed, protocol)
        split, detector = start.split, start.detector
        labelled = to_label(start.order, count, seed)
        anomalies = split.test[labelled[split.labels[labelled]]]
        if count:
            normal = split.test[labelled[~split.labels[labelled]]]
            # Anywhere in the window, as they would be: together they would be a block of their own.
            places = np.random.default_rng(seed).integers(0, len(split.train) + 1, len(normal))
            rows = np.insert(split.train, places, normal, axis=0)
            detector = Detector(device="cpu", seed=seed).fit(rows, anomalies=anomalies)
        truth, score = split.labels[start.judged], detector.score(split.test[start.judged])
        values = (auroc(truth, score), average_precision(truth, score), float(len(anomalies)))
    return [Result(file.stem, method(count), seed, dict(zip(FIGURES, values, strict=True)))]


def to_label(order: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Of rows in the order of their scores, the highest first, the first ones and some of the others."""
    top = order[: round(TOP_SHARE * count)]
    others = np.random.default_rng(seed).permutation(order[len(top) :])
    return np.concatenate([top, others[: count - len(top)]])


def method(labels: int) -> str:
    return f"{labels} labels" if labels else "no labels"


def table(rows: Sequence[Result], labels: Sequence[int]) -> str:
    """Mean over the seeds of each set, and over the sets: AUROC without labels, and what labels add."""
    columns = [method(count) for count in (0, *labels)]
    lines, every = [], []
    complete = {row.dataset for row in rows if row.method == columns[-1]}
    for name in sorted(complete):
        means = [
            np.mean(
                [[row.figures[figure] for figure in FIGURES] for row in rows if (row.dataset, row.method) == key], 0
            )
            for key in ((name, column) for column in columns)
        ]
        every.append(means)
        lines.append(line(name, np.array(means)))
    lines.append(line(f"mean of {len(every)} sets", np.mean(every, axis=0)))
    header = ["data set", "AUROC", *columns[1:], "average precision", *columns[1:], "of the labels anomalies"]
    return markdown(header, lines)


def line(name: str, means: NDArray[np.float64]) -> list[str]:
    """means [levels, figures], without labels first."""
    cells = [name]
    for figure in (0, 1):
        plain, *others = means[:, figure]
        cells += [f"{100 * plain:.1f}", *(f"{100 * (one - plain):+.1f}" for one in others)]
    return [*cells, " / ".join(f"{count:.0f}" for count in means[1:, 2])]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of npz files")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="some of them, by their names without .npz")
    parser.add_argument("--labels", type=int, nargs="+", default=list(LABELS), metavar="N", help="how many")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--split", choices=get_args(How), default="random-half", help="for files with X and y")
    parser.add_argument("--max-train", type=int, metavar="N", help="rows that train at most, drawn by the seed")
    parser.add_argument("--max-test", type=int, metavar="N", help="rows that are labelled or judged at most")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="where results are kept, and taken up again")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes side by side (default: 1)")
    options = parser.parse_args(argv)
    files = [file for file in sorted(options.data.glob("*.npz")) if not options.sets or file.stem in options.sets]
    if not files:
        parser.error(f"there is no such npz file in {options.data}")
    protocol = Protocol(options.split, options.max_train, options.max_test)
    try:
        results = Results(options.out, FIGURES, asdict(protocol) | {"labels": options.labels})
    except OtherResults as error:
        parser.error(str(error))
    work = [
        Work(method(count), f"{file.stem}, seed {seed}", partial(measure, file, seed, protocol, count))
        for file in files
        for seed in options.seeds
        for count in (0, *options.labels)
        if (file.stem, method(count), seed) not in results
    ]
    console = Console(stderr=True)
    troubles = run(work, results, console, options.jobs)
    print(table(results.rows, options.labels))
    for trouble in troubles.lines():
        console.print(trouble, style="red")
    return 1 if troubles.failed else 0


if __name__ == "__main__":
    sys.exit(main())
