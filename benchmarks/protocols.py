"""What is learned and what is judged: the split of a data set, its caps, anomalies among the training rows, gaps.

Every draw is determined by the seed. The training rows keep the order that they have in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
How = Literal["array-order", "random-half"]
Kind = Literal["burst", "scattered"]

FEWEST, MOST = 1000, 50_000
"""Array order draws smaller sets up to the one, and larger sets down to the other number of rows."""


class TooFewAnomalies(ValueError):
    """There are not enough anomalies to put some among the training rows and judge by the others."""


@dataclass(frozen=True, slots=True)
class Split:
    """One data set, ready to be learned and judged."""

    train: Float64
    """[n, d] taken as normal, in row order."""
    test: Float64
    """[m, d]"""
    labels: Bool
    """[m] true for anomalies."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the files of one run are split."""

    how: How = "array-order"
    """For files with X and y; the others bring their own split."""
    max_train: int | None = None
    max_test: int | None = None

    def split(self, file: Path, seed: int) -> Split:
        """Raises ValueError if the file is of neither kind."""
        arrays = read(file)
        if "X" not in arrays:
            whole = Split(arrays["train"], arrays["test"], arrays["test_labels"] != 0)
        elif self.how == "array-order":
            whole = array_order(arrays["X"], arrays["y"] != 0, seed)
        else:
            whole = random_half(arrays["X"], arrays["y"] != 0, seed)
        return capped(whole, self.max_train, self.max_test, seed)


@lru_cache(maxsize=1)
def read(file: Path) -> dict[str, Float64]:
    """The arrays of a file. Raises ValueError if they are neither X, y nor train, test, test_labels."""
    with np.load(file) as stored:
        for names in (("X", "y"), ("train", "test", "test_labels")):
            if set(names) <= set(stored.files):
                return {name: stored[name].astype(np.float64) for name in names}
        found = ", ".join(stored.files)
    raise ValueError(f"{file} holds the arrays {found}; it takes X and y, or train, test and test_labels")


def size_before_resampling(file: Path) -> int | None:
    """Number of rows of a file with X and y; None for a file that brings its own split."""
    with np.load(file) as stored:
        return len(stored["y"]) if "y" in stored.files else None


def array_order(x: Float64, anomalous: Bool, seed: int) -> Split:
    """The 'semi-supervised' protocol of Livernoche et al. (ICLR 2024): the first half of the normal rows trains.

    Sets under 1000 rows are drawn up to 1000 with replacement, sets over 50,000 down to 50,000.
    """
    n = len(x)
    if n < FEWEST or n > MOST:
        np.random.seed(seed)  # the published figures were drawn so
        drawn = np.random.choice(n, FEWEST if n < FEWEST else MOST, replace=n < FEWEST)
        x, anomalous = x[drawn], anomalous[drawn]
    normal = np.flatnonzero(~anomalous)
    half = round(0.5 * len(normal))
    return trained_on(normal[:half], x, anomalous)


def random_half(x: Float64, anomalous: Bool, seed: int) -> Split:
    """No resampling; a random half of the normal rows trains, so that the other half is exchangeable with it."""
    normal = np.flatnonzero(~anomalous)
    chosen = np.random.default_rng(seed).choice(normal, round(0.5 * len(normal)), replace=False)
    return trained_on(np.sort(chosen), x, anomalous)


def trained_on(chosen: NDArray[np.int64], x: Float64, anomalous: Bool) -> Split:
    """The chosen rows train, all others are judged."""
    rest = np.ones(len(x), dtype=bool)
    rest[chosen] = False
    return Split(x[chosen], x[rest], anomalous[rest])


def capped(split: Split, max_train: int | None, max_test: int | None, seed: int) -> Split:
    """At most so many rows, drawn at random, in their order; the share of anomalies stays, with one at least."""
    rng = np.random.default_rng(seed)
    if max_train is not None and len(split.train) > max_train:
        split = replace(split, train=split.train[np.sort(rng.choice(len(split.train), max_train, replace=False))])
    if max_test is not None and len(split.test) > max_test:
        anomalies, inliers = np.flatnonzero(split.labels), np.flatnonzero(~split.labels)
        wanted = min(len(anomalies), max(1, round(max_test * split.labels.mean())))
        drawn = [rng.choice(anomalies, wanted, replace=False), rng.choice(inliers, max_test - wanted, replace=False)]
        kept = np.sort(np.concatenate(drawn))
        split = replace(split, test=split.test[kept], labels=split.labels[kept])
    return split


@dataclass(frozen=True, slots=True)
class Contamination:
    """True anomalies among the training rows, taken out of the test part."""

    share: float
    """Of the training rows."""
    kind: Kind
    """All in one place, or each somewhere."""

    def __str__(self) -> str:
        return f"{100 * self.share:g} % {self.kind}"

    def apply(self, split: Split, seed: int) -> Split:
        """Raises TooFewAnomalies if more than half of the anomalies would be needed."""
        anomalies = np.flatnonzero(split.labels)
        n = len(split.train)
        wanted = max(1, round(n * self.share / (1 - self.share)))
        if wanted > len(anomalies) // 2:
            raise TooFewAnomalies(f"{self} takes {wanted} anomalies, more than half of the {len(anomalies)} there are")
        rng = np.random.default_rng(seed)
        taken = np.sort(rng.choice(anomalies, wanted, replace=False))
        places = rng.integers(0, n + 1, size=1 if self.kind == "burst" else wanted)
        train = np.insert(split.train, np.broadcast_to(places, wanted), split.test[taken], axis=0)
        return Split(train, np.delete(split.test, taken, axis=0), np.delete(split.labels, taken))


def with_missing(rows: Float64, share: float, seed: int) -> Float64:
    """Rows [m, d] with that share of the values, drawn at random, set to NaN."""
    return np.where(np.random.default_rng(seed).random(rows.shape) < share, np.nan, rows)


def inliers_and_anomalies(file: Path) -> tuple[Float64, Float64]:
    """All normal rows [n, d] and all anomalies [m, d] of a file of either kind, in file order."""
    arrays = read(file)
    if "X" in arrays:
        anomalous = arrays["y"] != 0
        return arrays["X"][~anomalous], arrays["X"][anomalous]
    anomalous = arrays["test_labels"] != 0
    return np.vstack([arrays["train"], arrays["test"][~anomalous]]), arrays["test"][anomalous]


def fresh_inliers(file: Path, protocol: Protocol, seed: int) -> tuple[Float64, Float64]:
    """Training rows [n, d] and inliers to judge [m, d] that are exchangeable with them.

    For both kinds of file a random half of all normal rows trains, in random order: array order, and the split that a
    file brings, may hold a shift between the two, and neighbouring rows count as neighbours in time.
    """
    normal = np.random.default_rng(seed).permutation(inliers_and_anomalies(file)[0])
    half = random_half(normal, np.zeros(len(normal), dtype=bool), seed)
    split = capped(half, protocol.max_train, protocol.max_test, seed)
    return split.train, split.test
