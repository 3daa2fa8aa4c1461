"""The detectors that stream_ad is measured beside: PyOD's, a plain nearest-neighbour distance, and river's.

Each is a function that fits on rows [n, d] and a seed, and returns a function that gives rows [m, d] scores [m],
larger for stranger. Settings are the libraries' defaults unless said here; none depends on the data set. Rows
are standardised with the training part's mean and standard deviation, and missing values are its mean.
Libraries are imported where they are used, so that a machine without them can run the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Scorer = Callable[[Float64], Float64]
Method = Callable[[Float64, int], Scorer]

NEIGHBOURS = 5
HALF_SPACE_ROWS = 4000
"""river learns row by row in Python: it sees no more than so many of the training rows, the last ones."""


def on_standardised_rows(method: Method, train: Float64, seed: int) -> Scorer:
    """Fit a method on standardised rows without missing values."""
    finite = np.where(np.isfinite(train), train, np.nan)
    known = np.isfinite(finite).any(axis=0)
    mean, deviation = np.zeros(train.shape[1]), np.ones(train.shape[1])
    mean[known] = np.nanmean(finite[:, known], axis=0)
    deviation[known] = np.nanstd(finite[:, known], axis=0)
    deviation[deviation == 0] = 1.0

    def standardise(rows: Float64) -> Float64:
        scaled = (rows - mean) / deviation
        scaled[~np.isfinite(scaled)] = 0.0
        return scaled

    scorer = method(standardise(train), seed)
    return lambda rows: scorer(standardise(rows))


def fitted(model: Any, train: Float64) -> Scorer:
    """Fit a model of PyOD."""
    model.fit(train)
    return lambda rows: np.asarray(model.decision_function(rows), dtype=np.float64)


def knn(train: Float64, seed: int) -> Scorer:
    from pyod.models.knn import KNN

    return fitted(KNN(n_neighbors=NEIGHBOURS, method="mean"), train)


def dte_np(train: Float64, seed: int) -> Scorer:
    """The non-parametric estimate of diffusion time comes down to the mean distance to the nearest neighbours."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(train)
    return lambda rows: np.asarray(neighbours.kneighbors(rows)[0].mean(axis=1))


def lof(train: Float64, seed: int) -> Scorer:
    from pyod.models.lof import LOF

    return fitted(LOF(), train)


def isolation_forest(train: Float64, seed: int) -> Scorer:
    from pyod.models.iforest import IForest

    return fitted(IForest(random_state=seed), train)


def ecod(train: Float64, seed: int) -> Scorer:
    """PyOD counts the scored rows into the distribution: its scores depend on what is scored together."""
    from pyod.models.ecod import ECOD

    return fitted(ECOD(), train)


def one_class_svm(train: Float64, seed: int) -> Scorer:
    from pyod.models.ocsvm import OCSVM

    return fitted(OCSVM(), train)


def autoencoder(train: Float64, seed: int) -> Scorer:
    from pyod.models.auto_encoder import AutoEncoder

    return fitted(AutoEncoder(random_state=seed, verbose=0), train)


def variational_autoencoder(train: Float64, seed: int) -> Scorer:
    from pyod.models.vae import VAE

    return fitted(VAE(random_state=seed, verbose=0), train)


def deep_svdd(train: Float64, seed: int) -> Scorer:
    from pyod.models.deep_svdd import DeepSVDD

    return fitted(DeepSVDD(n_features=train.shape[1], random_state=seed, verbose=0), train)


def lunar(train: Float64, seed: int) -> Scorer:
    from pyod.models.lunar import LUNAR

    return fitted(LUNAR(n_neighbours=NEIGHBOURS, random_state=seed), train)


def deep_isolation_forest(train: Float64, seed: int) -> Scorer:
    from pyod.models.dif import DIF

    return fitted(DIF(random_state=seed), train)


def half_space_trees(train: Float64, seed: int) -> Scorer:
    """river's, with rows scaled to [0, 1] by the training part, as it wants them."""
    from river.anomaly import HalfSpaceTrees

    low = train.min(axis=0)
    width = train.max(axis=0) - low
    width[width == 0] = 1.0

    def records(rows: Float64) -> list[dict[int, float]]:
        return [dict(enumerate(row)) for row in ((rows - low) / width).tolist()]

    # A first window must be full before there are scores.
    trees = HalfSpaceTrees(seed=seed, window_size=min(250, len(train)))
    for record in records(train[-HALF_SPACE_ROWS:]):
        trees.learn_one(record)
    return lambda rows: np.array([trees.score_one(record) for record in records(rows)])


PEERS: dict[str, Method] = {
    name: partial(on_standardised_rows, method)
    for name, method in {
        "KNN": knn,
        "DTE-NP": dte_np,
        "LOF": lof,
        "IForest": isolation_forest,
        "ECOD": ecod,
        "OCSVM": one_class_svm,
        "AutoEncoder": autoencoder,
        "VAE": variational_autoencoder,
        "DeepSVDD": deep_svdd,
        "LUNAR": lunar,
        "DIF": deep_isolation_forest,
        "HalfSpaceTrees": half_space_trees,
    }.items()
}
"""By the name that results have."""
