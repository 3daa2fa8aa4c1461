"""Rows of features that hang together, as sensors of one machine do."""

import numpy as np
from numpy.typing import NDArray

LATENT = 8
"""Independent causes behind the features, beside a little noise."""


def sensor_rows(n: int, features: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[n, features] rows; how they hang together depends on the number of features alone."""
    loading = np.random.default_rng(features).normal(size=(LATENT, features))
    return rng.normal(size=(n, LATENT)) @ loading + 0.3 * rng.normal(size=(n, features))
