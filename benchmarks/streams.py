"""Streams with labels: from folders of npz files, from tables put in a row, and from the files of SKAB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocols import inliers_and_anomalies, read
from benchmarks.series import SKAB_TRAINING_ROWS, header_of, read_skab

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

FIRST_ROWS = 2000
"""Of a file without a training part so many rows train the first model, a third of the file at most."""
ANOMALY_SHARE = 0.05
"""Of a table's rows at most, when it is made a stream."""
LONGEST_RUN = 30
"""Anomalies of a table come in runs of one to so many rows."""
SPELL = 1500
"""Rows between two switches of recurring drift."""
IN_ORDER = 0.3
"""Lag-one correlation of the middle feature from which on rows are taken to depend on those before them."""
MIXES = ("still", "sudden", "gradual", "recurring")


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows in order of arrival: what trains the first model, and what is scored and learned after it."""

    name: str
    train: Float64
    """[n, d] taken as normal."""
    rows: Float64
    """[m, d]"""
    labels: Bool
    """[m] true for anomalies."""
    in_time: bool
    """Whether a row depends on those before it."""
    changes: tuple[int, ...] = ()
    """Where in `rows` what is normal changes at once."""


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that can be made when it is needed."""

    name: str
    make: Callable[[int, int], Stream]
    """From the seed and the most rows that it may have; the training part may have as many besides."""


def in_file(file: Path, seed: int, most: int) -> Stream:
    """An npz file in row order. Raises ValueError if it holds neither kind of arrays."""
    arrays = read(file)
    if "X" in arrays:
        first = first_rows(len(arrays["X"]))
        train, rows, labels = arrays["X"][:first], arrays["X"][first:], arrays["y"][first:] != 0
    else:
        train, rows, labels = arrays["train"], arrays["test"], arrays["test_labels"] != 0
    train = train[-most:]
    return Stream(file.stem, train, rows[:most], labels[:most], depends_on_time(train))


def in_skab(file: Path, seed: int, most: int) -> Stream:
    """A file of SKAB; the rows that its leaderboard trains on are the training part."""
    rows, labels = read_skab(file)
    judged = slice(SKAB_TRAINING_ROWS, SKAB_TRAINING_ROWS + most)
    return Stream(f"skab-{file.stem}", rows[:SKAB_TRAINING_ROWS], rows[judged], labels[judged], in_time=True)


def of_table(file: Path, drift: str, seed: int, most: int) -> Stream:
    """A table as a stream: normal rows in file order, anomalies mixed in by the seed.

    With drift another mapping of the features holds for some of the rows: the columns in another order, whatever
    they are. `sudden` switches halfway and stays, `gradual` draws more and more rows from it over the middle
    third, `recurring` goes to and fro. None of the rows is an anomaly for that.
    """
    rng = np.random.default_rng(seed)
    normal, anomalies = inliers_and_anomalies(file)
    first = first_rows(len(normal))
    train, normal = normal[:first], normal[first : first + most]
    wanted = min(len(anomalies), max(1, round(ANOMALY_SHARE * len(normal))))
    drawn = anomalies[np.sort(rng.choice(len(anomalies), wanted, replace=False))]
    rows, labels = mixed(normal, drawn, rng)
    rows, labels = rows[:most], labels[:most]
    other = rng.permutation(rows.shape[1])
    mapped, changes = switched(len(rows), drift, rng)
    rows = np.where(mapped[:, None], rows[:, other], rows)
    return Stream(f"{file.stem}-{drift}", train, rows, labels, in_time=False, changes=changes)


def mixed(normal: Float64, anomalies: Float64, rng: np.random.Generator) -> tuple[Float64, Bool]:
    """Both in their order, the anomalies in runs at random places; rows [n, d] and labels [n]."""
    ends = np.cumsum(rng.integers(1, LONGEST_RUN + 1, size=len(anomalies)))
    run = np.searchsorted(ends, np.arange(len(anomalies)), side="right")
    place = np.sort(rng.integers(0, len(normal) + 1, size=run[-1] + 1))[run]
    rows = np.insert(normal, place, anomalies, axis=0)
    labels = np.insert(np.zeros(len(normal), dtype=bool), place, True)
    return rows, labels


def switched(n: int, drift: str, rng: np.random.Generator) -> tuple[Bool, tuple[int, ...]]:
    """[n] whether the other mapping holds, and where it switches at once."""
    row = np.arange(n)
    if drift == "sudden":
        return row >= n // 2, (n // 2,)
    if drift == "gradual":
        return rng.random(n) < np.clip(3.0 * row / n - 1.0, 0.0, 1.0), ()
    if drift == "recurring":
        return row // SPELL % 2 == 1, tuple(range(SPELL, n, SPELL))
    return np.zeros(n, dtype=bool), ()


def first_rows(n: int) -> int:
    return min(FIRST_ROWS, n // 3)


def depends_on_time(rows: Float64) -> bool:
    """Whether neighbouring rows are more alike than others: by the middle feature's lag-one correlation."""
    filled = np.where(np.isfinite(rows), rows, np.nan)
    moving = filled[:, np.nanstd(filled, axis=0) > 0]
    if len(rows) < 3 or moving.shape[1] == 0:
        return False
    apart = np.nan_to_num((moving - np.nanmean(moving, axis=0)) / np.nanstd(moving, axis=0))
    return bool(np.median((apart[1:] * apart[:-1]).mean(axis=0)) > IN_ORDER)


def files_in(folder: Path) -> list[Source]:
    """The streams of a folder, of npz files or of files of SKAB. Raises ValueError if there are none."""
    if files := sorted(folder.glob("*.npz")):
        return [Source(file.stem, partial(in_file, file)) for file in files]
    if files := [file for file in sorted(folder.glob("*.csv")) if "anomaly" in header_of(file)]:
        return [Source(f"skab-{file.stem}", partial(in_skab, file)) for file in files]
    raise ValueError(f"there is neither an npz file nor a csv file with a column 'anomaly' in {folder}")


def tables_in(folder: Path) -> list[Source]:
    """Each table of a folder as four streams. Raises ValueError if there are none."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise ValueError(f"there is no npz file in {folder}")
    return [Source(f"{file.stem}-{drift}", partial(of_table, file, drift)) for file in files for drift in MIXES]
