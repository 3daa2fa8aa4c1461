"""Keys whose rows are stranger than those of the others: what becomes of their p-values."""

import numpy as np
import pytest

from stream_ad.detector import Detector
from stream_ad.detector.mondrian import MondrianCalibration
from stream_ad.detector.recipe import Recipe
from stream_ad.learning import gate

ODD, QUIET, HEAVY, PLAIN = 7, 11, 13, 17
SHORT = Recipe(autoencoder_steps=200, rarity_steps=100, vae_steps=100, classifier_steps=100)


def p_values(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """p-values of n rows of each of four keys: one whose rows all look strange, one whose look ordinary, one with a
    heavy tail, and a plain one."""
    rng = np.random.default_rng(seed)
    depth = rng.exponential(size=(4, n))
    depth[0] = 4.0 + 0.5 * depth[0]
    depth[1] *= 0.3
    depth[2] *= 1.6
    keys = np.array([ODD, QUIET, HEAVY, PLAIN])
    return np.exp(-depth.flatten()), np.repeat(keys, n)


def share(p_value: np.ndarray, key: np.ndarray, of: int, budget: float) -> float:
    return float((p_value[key == of] <= budget).mean())


@pytest.fixture(scope="module")
def calibration() -> MondrianCalibration:
    return MondrianCalibration.fit(*p_values(2000, 0))


@pytest.mark.parametrize(
    ("strange", "budget", "most"), [(ODD, 0.01, 2.5), (ODD, 0.001, 2.5), (HEAVY, 0.01, 2.5), (HEAVY, 0.001, 4.0)]
)
def test_no_key_flags_much_more_than_twice_its_part(
    calibration: MondrianCalibration, strange: int, budget: float, most: float
) -> None:
    p_value, key = p_values(50_000, 1)
    assert share(p_value, key, strange, budget) > most * budget
    own = calibration.p_value(p_value, key)
    assert share(own, key, strange, budget) < most * budget
    assert calibration.p_value(np.array([1e-8]), np.array([strange]))[0] < budget, "a fault of it is still found"


def test_other_keys_are_judged_as_before(calibration: MondrianCalibration) -> None:
    p_value, key = p_values(1000, 1)
    own = calibration.p_value(p_value, key)
    for other in (QUIET, PLAIN):
        np.testing.assert_array_equal(own[key == other], p_value[key == other])
    unknown = np.full(len(key), 12)
    np.testing.assert_array_equal(calibration.p_value(p_value, unknown), p_value)


def test_rows_of_a_key_keep_their_order_and_are_never_made_stranger(calibration: MondrianCalibration) -> None:
    p_value = np.exp(-np.linspace(0.0, 600.0, 5000))
    for key in (ODD, HEAVY):
        own = calibration.p_value(p_value, np.full(5000, key))
        assert (own >= p_value * (1.0 - 1e-12)).all()
        assert (np.diff(own) < 0.0).all()


def test_a_few_faults_of_a_machine_do_not_hide_its_faults() -> None:
    """Four in a hundred rows of one machine are faults, and nobody knows."""
    p_value, key = p_values(500, 0)
    faulty = np.flatnonzero(key == PLAIN)[::25]
    p_value[faulty] = 1e-6
    own = MondrianCalibration.fit(p_value, key).p_value(p_value, key)
    assert (own[faulty] < 1e-4).all()


def test_a_few_rows_of_a_key_say_little() -> None:
    p_value, key = p_values(500, 0)
    few = np.append(p_value, np.full(12, 1e-3)), np.append(key, np.full(12, 99))
    own = MondrianCalibration.fit(*few).p_value(np.array([1e-6]), np.array([99]))
    assert 1e-6 < own[0] < 1e-4


def test_where_each_row_has_a_key_of_its_own_none_is_known() -> None:
    p_value, _ = p_values(500, 0)
    assert len(MondrianCalibration.fit(p_value, np.arange(2000))) == 0


def test_of_one_key_there_is_nothing_to_say() -> None:
    p_value, key = p_values(500, 0)
    assert len(MondrianCalibration.fit(p_value[key == ODD], key[key == ODD])) == 0


def test_rows_that_are_all_alike_do_no_harm() -> None:
    p_value, key = np.full(300, 1e-3), np.arange(300) % 3
    own = MondrianCalibration.fit(p_value, key).p_value(np.array([1e-3, 1e-9, 1.0]), np.array([0, 1, 2]))
    assert np.isfinite(own).all()
    assert own[0] == pytest.approx(0.05, rel=0.2), "half of the tenth that its rows are at least as strange as"
    assert own[1] < 1e-6


def fleet(n: int, seed: int, machines: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Rows of six sensors that follow two loads, machine by machine; those of the first do so less closely."""
    rng = np.random.default_rng(seed)
    key = np.arange(n) % machines
    mix = np.random.default_rng(99).normal(size=(2, 6))
    rows = rng.normal(size=(n, 2)) @ mix + 0.2 * rng.normal(size=(n, 6))
    rows[key == 0] += 0.6 * rng.normal(size=(np.count_nonzero(key == 0), 6))
    return rows, key


@pytest.fixture(scope="module")
def detector() -> Detector:
    rows, key = fleet(4000, 0)
    return Detector(0.01, "cpu", recipe=SHORT).fit(rows, sequence=key)


def test_a_machine_unlike_the_others_does_not_get_most_of_the_alerts(detector: Detector) -> None:
    rows, key = fleet(40_000, 1)
    odd = key == 0
    assert (detector.score(rows[odd]) >= 1.0).mean() > 0.06
    assert (detector.score(rows[odd], key[odd]) >= 1.0).mean() < 0.04
    others = detector.score(rows[~odd], key[~odd])
    assert (others >= 1.0).mean() == pytest.approx((detector.score(rows[~odd]) >= 1.0).mean(), abs=0.002)
    broken = rows[odd][:50].copy()
    broken[:, 3] += 8.0
    assert (detector.score(broken, np.zeros(50, np.int64)) >= 1.0).mean() > 0.9


def test_the_gate_flags_rows_of_a_key_as_the_stream_does(detector: Detector) -> None:
    """The latest rows of the window may all be of the machine that is unlike the others."""
    rows, key = fleet(40_000, 1)
    rows, key, learned = rows[key == 0], key[key == 0], fleet(4000, 0)[0]
    assert "alert_rate" in gate.judge(detector, rows, learned, detector).refusals
    verdict = gate.judge(detector, rows, learned, detector, sequence=key)
    assert verdict.alert_rate == (detector.score(rows, key) >= 1.0).mean()
    assert "alert_rate" not in verdict.refusals


def test_score_and_p_value_of_a_key_say_the_same_under_any_budget(detector: Detector) -> None:
    rows, key = fleet(400, 2)
    restored = Detector.restore(detector.description(), detector.tensors(), "cpu")
    restored.set_false_alarm_rate(0.001)
    found, before = restored.judge(rows, key), detector.judge(rows, key)
    np.testing.assert_allclose(found.p_value, before.p_value)
    np.testing.assert_allclose(found.score, np.log(found.p_value) / np.log(0.001))


def test_a_model_of_before_judges_all_keys_alike(detector: Detector) -> None:
    rows, key = fleet(400, 2)
    tensors = {name: tensor for name, tensor in detector.tensors().items() if not name.startswith("mondrian.")}
    restored = Detector.restore(detector.description(), tensors, "cpu")
    np.testing.assert_array_equal(restored.score(rows, key), detector.score(rows))
