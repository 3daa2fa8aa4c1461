"""A plant that stands still most of the time is known while it runs, and rows of any other kind are all learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.fitting import Flagged, fit_hierarchical_detector
from stream_ad.detector.folds import Window
from stream_ad.detector.resting import LEAST_ROWS, SHARE, Rest, thin_rest
from tests.running import BRIEF

SENSORS = 6
MIXING = np.random.default_rng(1).normal(size=(2, SENSORS))


def running(n: int, seed: int = 0) -> np.ndarray:
    """Rows of a plant that runs: two loads behind six sensors."""
    rng = np.random.default_rng(seed)
    return 5.0 + rng.normal(size=(n, 2)) @ MIXING + 0.3 * rng.normal(size=(n, SENSORS))


def mostly_at_rest(kind: str, n: int = 8000, each: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a plant that runs one time in ten, and where it rests."""
    x, rests = running(n), np.arange(n) // each % 10 != 3
    rng = np.random.default_rng(2)
    match kind:
        case "off":
            x[rests] = 0.0
        case "with noise":
            x[rests] = 0.02 * rng.normal(size=(int(rests.sum()), SENSORS))
        case "frozen":
            x[rests] = x[0]
        case "but for two sensors":
            x[rests, 2:] = 0.0
    return x, rests


def thinned(x: np.ndarray, sequence: np.ndarray | None = None) -> np.ndarray:
    of_sequence = np.zeros(len(x), np.int64) if sequence is None else sequence
    return thin_rest(torch.from_numpy(x), torch.from_numpy(of_sequence)).numpy()


@pytest.mark.parametrize("kind", ["off", "with noise", "frozen", "but for two sensors"])
def test_of_rows_at_rest_so_many_are_learned_that_the_others_are_most(kind: str) -> None:
    x, rests = mostly_at_rest(kind, 120_000)
    stands_for = thinned(x)
    kept = stands_for > 0.0
    rest = Rest.found_in(torch.from_numpy(x))
    assert rest is not None
    assert np.mean(rest.holds(torch.from_numpy(x)).numpy() == rests) > 0.99
    assert kept[~rests].mean() > 0.99
    assert (stands_for[kept & ~rests] == 1.0).mean() > 0.99
    assert rests[kept].mean() == pytest.approx(SHARE, abs=0.01)
    assert stands_for.sum() == pytest.approx(len(x), rel=0.01)
    assert np.diff(np.flatnonzero(kept & rests)).max() < 5000, "evenly over time"


def test_where_it_hardly_ever_ran_enough_rows_at_rest_are_left_to_calibrate_by() -> None:
    x = np.zeros((4000, SENSORS))
    x[1000:1300] = running(300)
    assert np.count_nonzero(thinned(x)) == LEAST_ROWS + 300


ORDINARY = {
    "of a plant that runs": lambda rng: running(6000),
    "of one feature": lambda rng: rng.normal(size=(6000, 1)),
    "with heavy tails": lambda rng: rng.standard_cauchy(size=(6000, 4)),
    "over orders of magnitude": lambda rng: rng.lognormal(sigma=2.0, size=(6000, 4)),
    "of counts that are mostly 0": lambda rng: np.floor(rng.lognormal(-1.0, 2.0, size=(6000, 4))),
    "of switches of their own": lambda rng: (rng.random((6000, 8)) < 0.2).astype(float),
    "that are all one": lambda rng: np.full((6000, 4), 7.0),
    "without a value": lambda rng: np.full((6000, 2), np.nan),
    "with a sentinel in every hundredth": lambda rng: np.where(
        np.arange(6000)[:, None] % 100 == 7, -9999.0, rng.normal(size=(6000, 4))
    ),
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_rows_of_any_other_kind_are_all_learned(kind: str) -> None:
    x = ORDINARY[kind](np.random.default_rng(0))
    assert (thinned(x) == 1.0).all()


def test_rows_that_are_alike_but_do_not_follow_each_other_are_all_learned() -> None:
    """Orders, or people, of whom many have the same figures: how many they are is what there is to know."""
    x, _ = mostly_at_rest("off")
    assert (thinned(np.random.default_rng(0).permutation(x)) == 1.0).all()


def test_machines_that_take_turns_rest_each_by_itself() -> None:
    x, rests = mostly_at_rest("off", each=1)
    machine = np.arange(len(x)) % 10
    assert (thinned(x) == 1.0).all()
    assert np.count_nonzero(thinned(x, machine)[rests]) == LEAST_ROWS


@pytest.mark.parametrize("kind", ["off", "with noise", "frozen"])
def test_faults_are_found_while_a_plant_runs_that_mostly_stands_still(kind: str) -> None:
    x, rests = mostly_at_rest(kind)
    detector = Detector(0.01, "cpu", recipe=BRIEF).fit(x, judged=True)
    sound, faulty = running(2000, seed=3), running(400, seed=4)
    faulty[np.arange(400), np.arange(400) % SENSORS] += 4.0
    assert (detector.score(sound) >= 1.0).mean() < 0.06
    assert (detector.score(faulty) >= 1.0).mean() > 0.7
    assert (detector.score(x[rests][:2000]) >= 1.0).mean() < 0.01


def test_flagged_rows_keep_their_place_between_those_that_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """They calibrate with the block that they came in."""
    x, _ = mostly_at_rest("off")
    flagged = running(40, seed=5) + 2.0
    place = np.linspace(0, len(x), 40).astype(np.int64)
    told = {}

    def fit(window: Window, recipe: Recipe, alpha: float, seed: int, extra: Flagged, *others: object) -> tuple:
        told["place"] = extra.place.numpy()
        return fit_hierarchical_detector(window, recipe, alpha, seed, extra, *others)

    monkeypatch.setattr("stream_ad.detector.detector.fit_hierarchical_detector", fit)
    detector = Detector(0.01, "cpu", recipe=BRIEF)
    detector.fit(x, flagged=flagged, flagged_place=place, flagged_sequence=np.zeros(40, np.int64), judged=True)
    assert np.isfinite(detector.score(x[:100])).all()
    kept = thinned(x) > 0.0
    assert told["place"].tolist() == [np.count_nonzero(kept[:before]) for before in place]


def test_where_a_plant_that_mostly_rests_ran_is_no_burst_of_anomalies() -> None:
    x, rests = mostly_at_rest("with noise")
    left_out = Detector(0.01, "cpu", recipe=BRIEF).fit(x).left_out
    assert np.isin(np.flatnonzero(~rests), left_out).mean() < 0.05


def test_what_is_left_out_is_told_by_the_numbers_of_all_rows() -> None:
    x, rests = mostly_at_rest("off", 20_000)
    burst = np.flatnonzero(~rests)[500:600]
    x[burst, 3] += 6.0
    left_out = Detector(0.01, "cpu", recipe=BRIEF).fit(x).left_out
    assert set(burst[3:-3].tolist()) <= set(left_out.tolist()) <= set(range(burst[0] - 10, burst[-1] + 10))
