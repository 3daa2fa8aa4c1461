"""Markdown tables of results: means over the data sets, each the mean of its seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

import numpy as np
from scipy.stats import binom, rankdata

from benchmarks.results import Result, markdown

OURS = "stream_ad"
LEVEL = re.compile(r"^(?P<method>.+) \[(?P<level>(?P<percent>[\d.e-]+) % (?P<kind>\w+))\]$")
Figures = dict[str, dict[str, float]]
"""By method and data set."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the data sets, in a column of their own."""

    title: str
    datasets: frozenset[str]


def by_set(results: Iterable[Result], figure: str) -> Figures:
    """One figure of each method on each data set, the mean over its seeds; stream_ad comes first."""
    seeds: dict[str, dict[str, list[float]]] = {}
    for row in results:
        seeds.setdefault(row.method, {}).setdefault(row.dataset, []).append(row.figures[figure])
    ours_first = sorted(seeds.items(), key=lambda item: not item[0].startswith(OURS))
    return {method: {name: mean(values) for name, values in sets.items()} for method, sets in ours_first}


def common_sets(figures: Figures, methods: Iterable[str], group: Group) -> list[str]:
    """The sets of a group on which every method has a figure."""
    return sorted(group.datasets.intersection(*(figures.get(method, {}) for method in methods)))


def summary(results: Sequence[Result], groups: Sequence[Group]) -> str:
    """One line a method, without those at levels of contamination or gaps. Cells hold all groups side by side."""
    clean = [row for row in results if not LEVEL.match(row.method)]
    auroc, precision = by_set(clean, "auroc"), by_set(clean, "average_precision")
    if not auroc:
        return "Nothing was measured."
    columns = [column(auroc, precision, common_sets(auroc, auroc, group)) for group in groups]
    header = ["method", "AUROC", "average precision", "median AUROC", "mean rank"]
    header += [f"sets {OURS} wins", f"{OURS} gains", "its largest loss"]
    rows = [[method, *side_by_side(column[method] for column in columns)] for method in auroc]
    return "\n\n".join([caption(auroc, groups), markdown(header, rows), *largest_loss(auroc, "KNN", groups)])


def column(auroc: Figures, precision: Figures, sets: list[str]) -> dict[str, list[str]]:
    """The cells of each method for one group of sets."""
    if not sets:
        return {method: ["-"] * 7 for method in auroc}
    ranks = rankdata([[-auroc[method][name] for name in sets] for method in auroc], axis=0).mean(axis=1)
    cells = {}
    for method, rank in zip(auroc, ranks, strict=True):
        values = [auroc[method][name] for name in sets]
        cells[method] = [
            percent(mean(values)),
            percent(mean(precision[method][name] for name in sets)),
            percent(median(values)),
            f"{rank:.1f}",
            *(["", "", ""] if method == OURS or OURS not in auroc else against(auroc, method, sets)),
        ]
    return cells


def against(auroc: Figures, method: str, sets: list[str]) -> list[str]:
    """Sets that stream_ad wins, its mean gain with the standard error over the sets, its largest loss."""
    gains = [auroc[OURS][name] - auroc[method][name] for name in sets]
    error = f" ± {percent(stdev(gains) / len(gains) ** 0.5)}" if len(gains) > 1 else ""
    won = sum(gain > 0 for gain in gains)
    return [f"{won} of {len(sets)}", f"{signed(mean(gains))}{error}", signed(min(gains)) if min(gains) < 0 else "none"]


def largest_loss(auroc: Figures, peer: str, groups: Sequence[Group]) -> list[str]:
    """A sentence on the set where stream_ad is furthest behind a peer, if both were run."""
    sets = common_sets(auroc, [OURS, peer], groups[0])
    if not sets:
        return []
    worst = min(sets, key=lambda name: auroc[OURS][name] - auroc[peer][name])
    ours, theirs = auroc[OURS][worst], auroc[peer][worst]
    if ours >= theirs:
        return [f"No set is lost to {peer}."]
    loss = percent(theirs - ours)
    return [f"Worst against {peer}: {worst}, {loss} points behind ({percent(ours)}, {peer} {percent(theirs)})."]


def caption(auroc: Figures, groups: Sequence[Group]) -> str:
    """How many sets stand behind the columns, and who lacks some."""
    counts = " / ".join(f"{len(common_sets(auroc, auroc, group))} {group.title}" for group in groups)
    known = groups[0].datasets.intersection(*[set().union(*auroc.values())])
    lacking = [f"{method} lacks {len(known - set(sets))}" for method, sets in auroc.items() if known - set(sets)]
    text = f"Data sets: {counts}. AUROC and average precision in percent."
    return text + (f" Only sets that every method has count: {', '.join(lacking)}." if lacking else "")


def levels(results: Sequence[Result], groups: Sequence[Group]) -> str:
    """AUROC at each level of contamination or gaps, in brackets the change against the clean run on these sets.

    Empty if there are no such results.
    """
    auroc = by_set(results, "auroc")
    found = [match for method in auroc if (match := LEVEL.match(method))]
    if not found:
        return ""
    methods = list(dict.fromkeys(match["method"] for match in found))
    ordered = sorted({(match["kind"], float(match["percent"]), match["level"]) for match in found})
    rows = []
    for _, _, level in ordered:
        needed = [*methods, *(f"{method} [{level}]" for method in methods)]
        sets = [common_sets(auroc, needed, group) for group in groups]
        cells = [" / ".join(str(len(names)) for names in sets)]
        cells += [
            " / ".join(with_change(auroc[method], auroc.get(f"{method} [{level}]", {}), names) for names in sets)
            for method in methods
        ]
        rows.append([level, *cells])
    return markdown(["", "sets", *methods], rows)


def with_change(clean: dict[str, float], changed: dict[str, float], sets: list[str]) -> str:
    if not sets:
        return "-"
    after = mean(changed[name] for name in sets)
    return f"{percent(after)} ({signed(after - mean(clean[name] for name in sets))})"


def calibration(results: Sequence[Result], rates: Sequence[float]) -> str:
    """How often the alert rate on fresh inliers lies in the binomial 99 % interval of the rate asked for."""
    if not results:
        return "Nothing was measured."
    rows = []
    for rate in rates:
        judged = np.array([row.figures["rows"] for row in results])
        alarms = np.array([row.figures[f"alarms_at_{rate:g}"] for row in results])
        below = alarms < binom.ppf(0.005, judged, rate)
        above = alarms > binom.ppf(0.995, judged, rate)
        inside = 1.0 - below.mean() - above.mean()
        overall = alarms.sum() / judged.sum()
        shares = map(percent, (inside, below.mean(), above.mean()))
        rows.append([f"{rate:g}", str(len(results)), *shares, f"{overall:.5f}"])
    return markdown(["false-alarm rate", "runs", "inside, %", "below, %", "above, %", "rate over all rows"], rows)


def side_by_side(columns: Iterable[list[str]]) -> list[str]:
    return [" / ".join(cells) if any(cells) else "" for cells in zip(*columns, strict=True)]


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def signed(share: float) -> str:
    return f"{100 * share:+.1f}"
