"""Whatever the rows are like, fitting and scoring neither fail nor give anything but finite numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream_ad.detector import Detector, Recipe

Float64 = NDArray[np.float64]

TINY = Recipe(
    autoencoder_steps=20,
    rarity_steps=20,
    vae_steps=20,
    classifier_steps=20,
    synthetic_outliers=64,
    prototypes=32,
    cross_fit_below=40,
)
"""Below 40 rows windows are cross-fitted, as they are below 4,000 in earnest."""

COLUMNS = {
    "measurements": lambda rng, n: rng.normal(size=n),
    "constant": lambda rng, n: np.full(n, 0.1 + 0.2),
    "zero": lambda rng, n: np.zeros(n),
    "missing throughout": lambda rng, n: np.full(n, np.nan),
    "half missing": lambda rng, n: np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n)),
    "heavy tails": lambda rng, n: rng.standard_cauchy(size=n),
    "integers": lambda rng, n: rng.integers(-3, 4, size=n).astype(float),
    "switch": lambda rng, n: (rng.random(n) < 0.02).astype(float),
    "counter": lambda rng, n: 2e9 + np.arange(n, dtype=float),
    "huge": lambda rng, n: 1e30 * rng.normal(size=n),
    "minute": lambda rng, n: 1e-30 * rng.normal(size=n),
    "many orders of magnitude": lambda rng, n: 10.0 ** rng.uniform(-30, 30, size=n),
    "infinities": lambda rng, n: np.where(
        rng.random(n) < 0.1, np.inf * np.sign(rng.normal(size=n)), rng.normal(size=n)
    ),
    "beyond float32": lambda rng, n: 1e300 * rng.normal(size=n),
}

STATES = {
    "one": lambda rng, n: np.zeros(n),
    "two, by turns": lambda rng, n: rng.integers(0, 2, size=n),
    "two, one after the other": lambda rng, n: np.arange(n) // (n // 2),
    "one of two more rarely, but not as rarely as alarms": lambda rng, n: np.arange(n) % 20 == 0,
    "one, but for rounding": lambda rng, n: np.where(rng.random(n) < 0.5, 0.3, 0.1 + 0.2),
    "the hour": lambda rng, n: np.arange(n) % 24,
}


def assert_sound(train: Float64, test: Float64, recipe: Recipe = TINY) -> None:
    """Fit on the one and judge the other: finite, in their ranges, compiled as plain."""
    detector = Detector(0.01, "cpu", recipe=recipe).fit(train)
    found = detector.judge(test)
    assert np.isfinite(found.score).all()
    assert (found.score >= 0.0).all()
    assert ((found.p_value > 0.0) & (found.p_value <= 1.0)).all()
    assert np.isfinite(found.reconstruction).all()
    np.testing.assert_allclose(detector.score_eager(test), found.score, rtol=1e-5, atol=1e-5)
    expected, share = detector.explain(test[:3])
    assert not np.isnan(expected).any()
    assert (share >= 0.0).all()
    np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-9)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    kinds=st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6),
    n=st.sampled_from([8, 12, 50, 90]),
    repeated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_mixture_of_columns_is_learned_and_judged(kinds: list[str], n: int, repeated: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.stack([COLUMNS[kind](rng, 2 * n) for kind in kinds], axis=1)
    train = np.repeat(x[: n // 4 + 2], 4, axis=0)[:n] if repeated else x[:n]
    # What is judged has gaps where the training rows had none.
    test = np.where(rng.random((n, len(kinds))) < 0.3, np.nan, x[n:])
    assert_sound(train, np.concatenate([x[:n], test]))


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_rows_of_one_feature_are_enough(kind: str) -> None:
    rng = np.random.default_rng(0)
    assert_sound(COLUMNS[kind](rng, 50)[:, None], COLUMNS[kind](rng, 50)[:, None])


def test_more_features_than_rows_are_learned() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 1500))
    assert_sound(x[:60], x[60:])


def test_rows_that_are_all_the_same_are_learned() -> None:
    assert_sound(np.ones((50, 3)), np.random.default_rng(0).normal(size=(20, 3)))


@pytest.mark.parametrize("cross_fit_below", [40, 4000])
@pytest.mark.parametrize("states", sorted(STATES))
def test_what_has_been_all_the_time_raises_no_alarm_in_any_batch(states: str, cross_fit_below: int) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.full(600, 3.7), STATES[states](rng, 600), np.full(600, -0.1)])
    for seed in range(3):
        detector = Detector(0.01, "cpu", seed, replace(TINY, cross_fit_below=cross_fit_below)).fit(x)
        scores = [detector.score(part) for size in (1, 3, 50, 600) for part in (x[:size], x[-size:])]
        assert max(score.max() for score in scores) < 1.0
