"""Results in a CSV file that a broken-off run takes up again, and Markdown tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = ("dataset", "method", "seed")


class OtherResults(ValueError):
    """The file holds results that must not be mixed with those of this run."""


def write_json(path: Path, content: object) -> None:
    """Write a file anew, so that there is a whole one at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(path.name + ".part")
    partial_file.write_text(json.dumps(content, indent=1) + "\n")
    partial_file.replace(path)


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one method on one data set with one seed."""

    dataset: str
    method: str
    seed: int
    figures: dict[str, float]


class Results:
    """All results so far; with a path also in a CSV file, one line each as soon as it is added.

    `figures` are the columns after dataset, method and seed. `settings` is what else the figures depend on: it
    is kept in a file beside the CSV, so that figures of different protocols are never mixed. Raises OtherResults
    if the file that is there has other columns or other settings.
    """

    def __init__(self, path: Path | None, figures: Sequence[str], settings: dict[str, Any]) -> None:
        self._path = path
        self._columns = [*KEY, *figures]
        self.rows: list[Result] = []
        if path is not None:
            self._open(path)
            self._require(path.with_suffix(".settings.json"), settings)
        self._done = {(row.dataset, row.method, row.seed) for row in self.rows}

    def __contains__(self, key: tuple[str, str, int]) -> bool:
        """Whether the figures of (dataset, method, seed) are there."""
        return key in self._done

    def add(self, result: Result) -> None:
        self.rows.append(result)
        self._done.add((result.dataset, result.method, result.seed))
        if self._path is not None:
            figures = [f"{result.figures[column]:.6g}" for column in self._columns[len(KEY) :]]
            with self._path.open("a", newline="") as file:
                file.write(csv_line([result.dataset, result.method, str(result.seed), *figures]))

    def _require(self, file: Path, settings: dict[str, Any]) -> None:
        if not file.exists():
            file.write_text(json.dumps(settings) + "\n")
        elif (known := json.loads(file.read_text())) != settings:
            raise OtherResults(f"{self._path} holds results of {known}, not of {settings}: give another --out")

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(csv_line(self._columns))
        text = path.read_text()
        if not text.endswith("\n"):  # the run before was ended in the middle of a line
            text = text[: text.rfind("\n") + 1]
            path.write_text(text)
        header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
        if header != self._columns:
            raise OtherResults(f"{path} has the columns {header}, not {self._columns}: give another --out")
        for dataset, method, seed, *figures in lines:
            values = dict(zip(self._columns[len(KEY) :], map(float, figures), strict=True))
            self.rows.append(Result(dataset, method, int(seed), values))


def csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column left-aligned, the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
