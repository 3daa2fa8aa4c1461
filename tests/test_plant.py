"""The simulated plant: reproducible, correlated, stationary where asked, and its faults can be found."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.simulation import KINDS, SENSORS, Plant, PlantRows

SEEDS = [0, 1, 2, 3]


def regression_residuals(normal: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n, 12] how far each sensor is from its linear regression on the others, in its spread."""
    precision = np.linalg.inv(np.cov(normal.T))
    residuals: np.ndarray = np.abs((rows - normal.mean(axis=0)) @ precision / np.sqrt(np.diag(precision)))
    return residuals


def faults(rows: PlantRows) -> list[np.ndarray]:
    """The row numbers of each fault."""
    return [np.flatnonzero(rows.fault == number) for number in range(1, int(rows.fault.max()) + 1)]


def test_a_seed_makes_the_same_rows_whatever_the_chunks() -> None:
    whole = Plant(seed=5, fault_rate=2.0).rows(3000)
    plant = Plant(seed=5, fault_rate=2.0)
    chunks = [plant.rows(n) for n in (1, 999, 0, 1700, 300)]
    for name in ("values", "fault", "feature", "kind"):
        joined = np.concatenate([getattr(chunk, name) for chunk in chunks])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_another_seed_is_another_plant() -> None:
    one, other = (np.corrcoef(Plant(seed).rows(8000).values.T) for seed in (1, 2))
    assert np.abs(one - other).max() > 0.1


def test_faults_change_only_their_own_rows_and_sensor() -> None:
    sound = Plant(seed=3).rows(10_000)
    faulty = Plant(seed=3, fault_rate=2.0).rows(10_000)
    changed = sound.values != faulty.values
    expected = np.zeros_like(changed)
    at = np.flatnonzero(faulty.fault)
    expected[at, faulty.feature[at]] = True
    assert not (changed & ~expected).any()
    # A frozen sensor's first row is true, all others of a fault are not.
    assert changed[at].any(axis=1).mean() > 0.98


def test_sensors_are_correlated() -> None:
    values = Plant(seed=0).rows(8000).values
    spread = values.std(axis=0)
    given_the_others = 1.0 / np.sqrt(np.diag(np.linalg.inv(np.cov(values.T))))
    assert (given_the_others < 0.6 * spread).all()
    correlation = np.corrcoef(values.T)
    assert correlation[SENSORS.index("feed_flow"), SENSORS.index("product_flow")] > 0.9


def test_labels_agree_with_each_other_and_every_kind_occurs() -> None:
    rows = Plant(seed=7, fault_rate=2.0).rows(40_000)
    sound = rows.fault == 0
    assert (rows.feature[sound] == -1).all()
    assert (rows.kind[sound] == -1).all()
    kinds = []
    for at in faults(rows):
        assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
        assert len(set(rows.feature[at])) == len(set(rows.kind[at])) == 1
        kinds.append(int(rows.kind[at[0]]))
    assert set(kinds) == set(range(len(KINDS)))
    assert 0.5 * 80 <= len(kinds) <= 1.5 * 80


def test_a_stuck_sensor_repeats_what_it_read_last() -> None:
    rows = Plant(seed=2, fault_rate=3.0).rows(20_000)
    sound = Plant(seed=2).rows(20_000)
    stuck = [at for at in faults(rows) if KINDS[rows.kind[at[0]]] == "stuck"]
    assert stuck
    for at in stuck:
        sensor = rows.feature[at[0]]
        assert (rows.values[at, sensor] == sound.values[at[0], sensor]).all()


def test_the_start_is_free_of_faults() -> None:
    rows = Plant(seed=1, fault_rate=4.0, fault_free_rows=5000).rows(10_000)
    assert not rows.fault[:5000].any()
    assert rows.fault[5000:].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_without_drift_the_plant_is_stationary(seed: int) -> None:
    steady, drifting = (Plant(seed, drift=drift).rows(160_000).values for drift in (False, True))

    def shift(values: np.ndarray) -> np.ndarray:
        early, late = values[:40_000], values[-40_000:]
        moved: np.ndarray = np.abs(late.mean(axis=0) - early.mean(axis=0)) / early.std(axis=0)
        return moved

    assert shift(steady).max() < 0.05
    assert shift(drifting)[SENSORS.index("coolant_temperature")] > 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_can_be_found_row_by_row(seed: int) -> None:
    plant = Plant(seed, fault_rate=2.0, fault_free_rows=8000)
    normal, rows = plant.rows(8000).values, plant.rows(20_000)
    residuals = regression_residuals(normal, rows.values)
    threshold = np.quantile(regression_residuals(normal, normal).max(axis=1), 0.995)
    flagged = residuals.max(axis=1) > threshold
    assert flagged[rows.fault == 0].mean() < 0.015
    found = [flagged[at].any() for at in faults(rows)]
    assert np.mean(found) >= 0.95
    inside = flagged & (rows.fault > 0)
    assert np.mean(residuals[inside].argmax(axis=1) == rows.feature[inside]) > 0.9
