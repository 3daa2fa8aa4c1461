"""Bursts of anomalies in the window are found where they are, and regimes, scatter and clean rows stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from stream_ad.detector import Detector
from stream_ad.detector.fitting import bursts_in
from stream_ad.detector.folds import ALONE, Window, in_the_past
from stream_ad.detector.screening import largest_sum
from stream_ad.detector.temporal import TemporalContext
from stream_ad.simulation import Plant
from tests.running import BRIEF


def bursts(x: np.ndarray, sequence: np.ndarray | None = None) -> np.ndarray:
    of_sequence = torch.zeros(len(x)) if sequence is None else torch.from_numpy(sequence)
    return bursts_in(Window(torch.from_numpy(x), of_sequence), BRIEF, 0).numpy()


def noise(n: int = 3000) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 6))


def test_a_burst_is_found_with_its_ends_though_its_rows_vouch_for_each_other() -> None:
    x = noise()
    x[1000:1060] = 3.0 + 0.1 * noise(60)
    found = np.flatnonzero(bursts(x))
    assert abs(found[0] - 1000) <= 2
    assert abs(found[-1] - 1059) <= 2


def test_a_burst_is_found_among_hundreds_of_kinds_of_rows() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.uniform(-5.0, 5.0, size=(300, 6))
    x = kinds[rng.integers(0, 300, 3000)] + 0.2 * rng.normal(size=(3000, 6))
    x[1000:1060] = rng.uniform(-5.0, 5.0, size=(60, 6))
    found = np.flatnonzero(bursts(x))
    assert abs(found[0] - 1000) <= 5
    assert abs(found[-1] - 1059) <= 5


def test_the_same_rows_scattered_over_the_window_are_no_burst() -> None:
    x = noise()
    x[::50] = 3.0 + 0.1 * noise(60)
    assert not bursts(x).any()


def test_clean_rows_are_left_alone_whatever_the_draw() -> None:
    for seed in range(10):
        assert not bursts(np.random.default_rng(seed).normal(size=(2000, 4))).any()


def test_a_regime_longer_than_an_eighth_of_the_window_is_learned() -> None:
    x = noise()
    x[1000:1500] += 3.0
    assert not bursts(x).any()


def test_a_stream_that_wanders_is_left_alone() -> None:
    walk = np.cumsum(0.1 * noise(), axis=0)
    assert not bursts(walk).any()


@pytest.mark.parametrize("seed", [0, 3, 6, 11])
def test_two_sensors_that_follow_one_slow_load_have_no_bursts(seed: int) -> None:
    """A load that is far up for a hundred rows is like no other time of the window, and there are few such times."""
    rng = np.random.default_rng(seed)
    load = lfilter([np.sqrt(1.0 - 0.99**2)], [1.0, -0.99], rng.normal(size=10_000))[2000:]
    x = np.c_[load, load + 0.1 * rng.normal(size=8000), rng.normal(size=8000)]
    assert bursts(x).sum() == 0


@pytest.mark.parametrize("rows", [40, 100])
def test_a_sensor_that_leaves_the_others_is_a_burst_where_rows_wander_as_far_themselves(rows: int) -> None:
    x = Plant(seed=1, drift=False).rows(2000).values
    burst = np.arange(700, 700 + rows)
    x[burst, 3] += 10.0 / np.sqrt(np.linalg.inv(np.cov(x.T))[3, 3])
    found = bursts(x)
    assert found[burst].all()
    assert found.sum() < rows + 20


@pytest.mark.parametrize("seed", range(4))
def test_a_plant_without_faults_has_no_bursts(seed: int) -> None:
    assert not bursts(Plant(seed=seed, drift=False).rows(3000).values).any()


@pytest.mark.parametrize("apart", [0.0, 4.0])
def test_a_burst_of_one_machine_is_found_though_rows_of_others_come_between(apart: float) -> None:
    x, machine = noise(), np.arange(3000) % 5
    x += apart * np.random.default_rng(1).normal(size=(5, 6))[machine]
    burst = np.flatnonzero(machine == 2)[200:260]
    x[burst] += 1.5
    assert not bursts(x)[burst].any(), "every fifth row is no stretch"
    found = bursts(x, machine)
    assert found[burst].mean() > 0.9
    assert not found[machine != 2].any()


def test_a_machine_that_is_less_steady_than_the_others_has_no_burst() -> None:
    x, machine = noise(), np.arange(3000) % 10
    x[machine == 2] *= 3.0
    assert not bursts(x, machine).any()


def test_what_has_a_burst_in_its_past_are_the_next_rows_of_its_sequence() -> None:
    burst = torch.zeros(12, dtype=torch.bool)
    burst[2] = True
    near = in_the_past(burst, torch.arange(12) % 2, 2)
    assert torch.nonzero(near).flatten().tolist() == [2, 4, 6]
    assert not in_the_past(burst & False, torch.arange(12) % 2, 2).any()


def test_a_burst_shows_in_the_features_and_not_in_what_tells_of_their_past() -> None:
    """A mean of the latest rows follows its sensor, which is then nowhere off what the mean says."""
    plant = Plant(seed=1, drift=False).rows(2000).values
    spread = 1.0 / np.sqrt(np.linalg.inv(np.cov(plant.T))[3, 3])
    plant[700:740, 3] += 10.0 * spread
    extended = TemporalContext(12, 16).extend(plant)
    left_out = Detector(0.01, "cpu", recipe=BRIEF).fit(extended, features=12, past=16).left_out
    assert set(range(700, 755)) <= set(left_out.tolist()) <= set(range(690, 770)), "nor what has it in its past"


def test_the_largest_sum_is_that_of_one_stretch() -> None:
    steps = torch.tensor([-1.0, 2.0, -0.5, 2.0, -3.0, 1.0])
    assert largest_sum(steps) == (1, 4, 3.5)


def test_a_first_window_is_learned_without_its_burst_and_then_flags_what_was_in_it() -> None:
    x = noise(1500)
    x[700:740] = 4.0 + 0.1 * noise(40)
    first = Detector(0.01, "cpu", recipe=BRIEF).fit(x)
    assert set(range(705, 735)) <= set(first.left_out.tolist()) <= set(range(690, 750))
    assert (first.score(4.0 + 0.1 * noise(20)) >= 1.0).all()


def test_a_window_that_a_model_has_judged_is_learned_with_all_rows() -> None:
    x = noise(400)
    x[200:220] = 4.0 + 0.1 * noise(20)
    assert len(Detector(0.01, "cpu", recipe=BRIEF).fit(x, judged=True).left_out) == 0


def test_rows_that_a_person_labelled_are_no_burst() -> None:
    x, told = noise(1500), np.zeros(1500)
    x[700:740], told[700:740] = 4.0 + 0.1 * noise(40), ALONE
    assert not bursts(x, told).any()


def test_a_former_operating_point_that_has_faded_is_no_burst() -> None:
    """A tenth of the rows that are left, but a third of the time; where it took no longer than others it is one."""
    x = noise()
    x[:300] += 6.0
    took = torch.cat([torch.full((300,), 5.0), torch.ones(2700)]).double()
    window = Window(torch.from_numpy(x), torch.zeros(len(x)), 0)
    assert bursts_in(window, BRIEF, 0).sum() >= 290
    assert not bursts_in(replace(window, thinned=took), BRIEF, 0)[:300].any()


def test_an_operating_point_that_comes_again_is_no_burst() -> None:
    x = noise(6000)
    for start in (900, 2600, 5300):
        x[start : start + 150] += 5.0
    assert not bursts(x).any()


def products(rows: int, seed: int, second: np.ndarray) -> np.ndarray:
    """Rows of a plant whose ten sensors hang together, and the `second` [rows] in another way."""
    rng = np.random.default_rng(seed)
    of_each = [
        lfilter([0.44], [1.0, -0.9], rng.normal(size=(rows, 3)), axis=0) @ rng.normal(size=(3, 10)) for _ in "ab"
    ]
    return np.where(second[:, None], of_each[1], of_each[0]) + 0.3 * rng.normal(size=(rows, 10))


@pytest.mark.parametrize("seed", range(3))
def test_a_product_that_comes_again_and_again_is_no_burst_though_it_breaks_all_relations(seed: int) -> None:
    rare = np.arange(20_000) % 5000 < 250
    assert not bursts(products(20_000, seed, second=rare)).any()


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_what_comes_four_times_is_no_burst_though_it_is_not_strange_enough_for_one_each_time(seed: int) -> None:
    x = products(20_000, seed, second=np.zeros(20_000, bool))
    x[np.arange(20_000) % 5000 < 100] += 3.0
    assert not bursts(x).any()


def test_a_burst_is_found_beside_a_product_that_comes_again_and_again() -> None:
    rare = np.arange(20_000) % 5000 < 250
    x = products(20_000, 0, second=rare)
    fault = slice(12_000, 12_200)
    x[fault, 3] += 8.0
    found = bursts(x)
    assert found[fault].mean() > 0.9
    assert found.sum() < 250


def test_four_faults_that_differ_are_bursts_and_no_product() -> None:
    x = products(20_000, 0, second=np.zeros(20_000, bool))
    for sensor, start in enumerate((1000, 6000, 11_000, 16_000)):
        x[start : start + 200, sensor] += 8.0
    assert bursts(x).sum() > 500


def test_a_sensor_that_leaves_the_others_again_and_again_is_a_burst_each_time() -> None:
    x = Plant(seed=1, drift=False).rows(10_000).values
    spread = 1.0 / np.sqrt(np.linalg.inv(np.cov(x.T))[3, 3])
    off = np.concatenate([np.arange(start, start + 100) for start in (1500, 4800, 8200)])
    x[off, 3] += 10.0 * spread
    found = bursts(x)
    assert found[off].all()
    assert found.sum() < len(off) + 20
