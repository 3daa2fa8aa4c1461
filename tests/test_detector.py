"""The detector as a whole: what it must find, and what must never break it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from stream_ad.detector import Detector, NotFittedError, Recipe, TrainingError
from stream_ad.detector.calibration import Calibration, drop_outliers
from stream_ad.detector.detector import CHUNK, padded, rows_at_once
from stream_ad.detector.statistics import NAMES

SHORT = Recipe(autoencoder_steps=250, rarity_steps=125, vae_steps=120, classifier_steps=200, synthetic_outliers=4000)
ONCE = replace(SHORT, cross_fit_below=0)
"""Half of the rows is held out and the stages are fitted once, not once for each third and once for all."""

TINY = Recipe(autoencoder_steps=30, rarity_steps=20, vae_steps=20, classifier_steps=30, synthetic_outliers=500)


def plant(n: int, seed: int = 0) -> np.ndarray:
    """Six features that hang together by two hidden causes."""
    rng = np.random.default_rng(seed)
    load = rng.normal(size=(n, 2))
    mixing = np.array([[1.0, 0.8, -0.6, 0.0, 0.5, 1.2], [0.0, 0.5, 0.9, 1.0, -0.7, 0.3]])
    return 40.0 + 5.0 * load @ mixing + 0.3 * rng.normal(size=(n, 6))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(0.01, "cpu", recipe=SHORT).fit(plant(3000))


def test_flags_what_breaks_a_relation_and_names_the_feature(detector: Detector) -> None:
    rows = plant(60, seed=1)
    for i in range(60):
        rows[i, i % 6] += 6.0 if i % 2 else -6.0
    assert (detector.score(rows) >= 1.0).mean() > 0.9
    expected, share = detector.explain(rows)
    assert (share.argmax(axis=1) == np.arange(60) % 6).mean() > 0.9
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    truth = plant(60, seed=1)[np.arange(60), np.arange(60) % 6]
    assert np.median(np.abs(expected[np.arange(60), np.arange(60) % 6] - truth)) < 1.0


def test_false_alarm_rate_is_the_budget(detector: Detector) -> None:
    rate = (detector.score(plant(40_000, seed=2)) >= 1.0).mean()
    assert 0.005 < rate < 0.02


def test_score_is_one_exactly_where_p_is_the_budget(detector: Detector) -> None:
    found = detector.judge(plant(20_000, seed=3))
    assert ((found.score >= 1.0) == (found.p_value <= 0.01)).all()
    assert (found.p_value > 0.0).all()
    assert (found.p_value <= 1.0).all()
    assert (found.score >= 0.0).all()


def test_missing_values_are_filled_in_from_the_other_features(detector: Detector) -> None:
    rows = plant(2000, seed=4)
    gaps = rows.copy()
    gaps[np.arange(2000), np.arange(2000) % 6] = np.nan
    assert (detector.score(gaps) >= 1.0).mean() < 0.02
    module = detector.module
    assert module is not None
    filled = module.standardise.inverse(module.impute(module.standardise(torch.from_numpy(gaps)))).numpy()
    missing = np.isnan(gaps)
    by_mean = np.abs(rows - rows.mean(axis=0))[missing].mean()
    assert np.abs(filled - rows)[missing].mean() < 0.3 * by_mean
    np.testing.assert_allclose(filled[~missing], rows[~missing], rtol=1e-5)


def test_one_sensor_among_two_hundred_that_jumps_is_flagged() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 200))
    rows = rng.normal(size=(900, 8)) @ mixing + rng.normal(size=(900, 200))
    train, fresh = rows[:600], rows[600:]
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(train)
    assert (detector.score(fresh) >= 1.0).mean() <= 0.02
    jumped = fresh.copy()
    jumped[np.arange(300), rng.integers(0, 200, 300)] += rng.choice([-18.0, 18.0], 300)
    assert (detector.score(jumped) >= 1.0).mean() >= 0.95


def test_twin_sensors_that_part_are_flagged_though_each_looks_as_ever() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 20)) + 0.3 * rng.normal(size=(3000, 20))
    rows = np.c_[rows, rows[:, 0] + 0.01 * rng.normal(size=3000)]
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(rows[:2000])
    assert (detector.score(rows[2000:]) >= 1.0).mean() <= 0.02
    parted = rows[2000:].copy()
    parted[:, -1] += 0.5 * rows[:, -1].std()
    assert (detector.score(parted) >= 1.0).mean() >= 0.95
    assert np.isin(detector.explain(parted[:100])[1].argmax(axis=1), [0, 20]).mean() >= 0.9
    gaps = rows[2000:].copy()
    gaps[rng.random(gaps.shape) < 0.1] = np.nan
    assert (detector.score(gaps) >= 1.0).mean() <= 0.02


def meters(n: int, seed: int) -> np.ndarray:
    """Rows [n, 4] of three meters and a fourth one that shows their sum."""
    rng = np.random.default_rng(seed)
    parts = rng.normal([500.0, 300.0, 800.0], [50.0, 40.0, 60.0], (n, 3))
    return np.c_[parts, parts.sum(axis=1) + 0.5 * rng.normal(size=n)]


def test_a_total_that_follows_from_its_parts_raises_no_alarms_until_it_is_off() -> None:
    detector = Detector(0.01, "cpu", recipe=SHORT).fit(meters(4000, 0))
    assert (detector.score(meters(10_000, 1)) >= 1.0).mean() < 0.014
    off = meters(500, 2)
    off[:, 3] += 20.0
    assert (detector.score(off) >= 1.0).mean() > 0.95, "a quarter of its spread, forty times its error"
    gap = meters(2000, 3)
    gap[:, 3] = np.nan
    assert (detector.score(gap) >= 1.0).mean() < 0.2


def test_twin_sensors_that_part_by_an_eighth_of_a_spread_are_flagged() -> None:
    def twins(n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        first = rng.normal(60.0, 8.0, n)
        return np.c_[first, first + 0.02 * rng.normal(size=n), rng.normal(5.0, 1.0, n), rng.normal(100.0, 10.0, n)]

    detector = Detector(0.01, "cpu", recipe=SHORT).fit(twins(4000, 0))
    assert (detector.score(twins(10_000, 1)) >= 1.0).mean() < 0.015
    apart = twins(500, 2)
    apart[:, 1] += 1.0
    assert (detector.score(apart) >= 1.0).mean() > 0.95
    assert (detector.explain(apart[:50])[1].argmax(axis=1) < 2).all()


def test_a_model_of_before_knows_no_close_relations_and_is_still_read() -> None:
    detector = Detector(0.01, "cpu", recipe=SHORT).fit(meters(1000, 0))
    later = ("relations.close", "relations.varies")
    tensors = {name: tensor for name, tensor in detector.tensors().items() if not name.startswith(later)}
    before = Detector.restore(detector.description(), tensors, "cpu")
    off = meters(200, 1)
    off[:, 3] += 20.0
    assert (before.score(off) < detector.score(off)).mean() > 0.9


def test_the_largest_residual_is_of_what_was_measured(detector: Detector) -> None:
    module = detector.module
    assert module is not None
    rows = torch.from_numpy(plant(200, seed=4))
    rows[:, 2] = torch.nan
    with torch.no_grad():
        v, missing, _ = module.describe(rows)
        v[:, [2, 8]] = 9.0
        residual = (v - module.autoencoder_v.decode(module.autoencoder_v.encode(v))).abs()
        largest = module.statistics(v, missing)[0][:, NAMES.index("residual_v_largest")]
    measured = [0, 1, 3, 4, 5, 6, 7, 9, 10, 11]
    torch.testing.assert_close(largest, residual[:, measured].amax(dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gaps_in_training", [0.0, 0.1])
@pytest.mark.parametrize("directions", [1, 4])
def test_gaps_in_what_hangs_together_by_a_curve_raise_no_alarms(directions: int, gaps_in_training: float) -> None:
    """Directions as sines and cosines: the mean that one suggests of the other lies inside the circle."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0.0, 2.0 * np.pi, size=(4000, 1)) + 0.5 * np.arange(directions)
    rows = np.c_[np.cos(angle), np.sin(angle), np.cos(2.0 * angle)]
    rows += 0.05 * rng.normal(size=rows.shape)
    train, whole, gaps, inside = rows[:3000].copy(), rows[3000:], rows[3000:].copy(), rows[3000:].copy()
    train[rng.random(train.shape) < gaps_in_training] = np.nan
    gaps[rng.random(gaps.shape) < 0.2] = np.nan
    inside[:, [0, directions]] *= 0.3
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(train)
    assert (detector.score(whole) >= 1.0).mean() <= 0.02
    assert (detector.score(gaps) >= 1.0).mean() <= 0.02
    assert (detector.score(inside) >= 1.0).mean() >= 0.8


def test_a_gap_does_not_hide_a_fault_in_another_feature(detector: Detector) -> None:
    rows = plant(100, seed=5)
    rows[:, 0] += 8.0
    rows[:, 3] = np.nan
    assert (detector.score(rows) >= 1.0).mean() > 0.9


def machine(n: int, seed: int, gaps: float) -> np.ndarray:
    """Rows of a machine with four modes, what each of them sets, and a switch that has nothing to do with them."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(0, 4, n)
    rows = np.column_stack([mode == 0, mode == 1, 2.0 * mode, 5.0 * (mode > 1), rng.random(n) < 0.3]).astype(float)
    rows[rng.random(rows.shape) < gaps] = np.nan
    return rows


@pytest.mark.parametrize("known", [0, 20])
def test_a_sensor_that_comes_after_the_training_is_not_judged(known: int) -> None:
    rows = np.c_[plant(2500), 50.0 + plant(2500, seed=9)[:, 0]]
    rows[known:2000, -1] = np.nan
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(rows[:2000])
    without = rows[2000:].copy()
    without[:, -1] = np.nan
    np.testing.assert_array_equal(detector.score(rows[2000:]), detector.score(without))
    assert (detector.score(without) >= 1.0).mean() <= 0.03
    assert (detector.explain(rows[2000:2003])[1][:, -1] < 1e-6).all()


@pytest.mark.parametrize("gaps_in_training", [0.0, 0.1])
def test_a_missing_state_is_one_that_goes_with_the_others(gaps_in_training: float) -> None:
    known = Detector(0.01, "cpu", recipe=TINY).fit(machine(2000, 0, gaps_in_training))
    rows = machine(1000, 1, 0.3)
    assert (known.score(rows) >= 1.0).mean() <= 0.02
    assert (known.score(machine(1000, 2, 0.0)) >= 1.0).mean() <= 0.02
    broken = np.array([[1.0, 1.0, 0.0, 0.0, np.nan], [1.0, 0.0, 6.0, np.nan, 0.0]])
    assert (known.score(broken) >= 1.0).all()
    expected, share = known.explain(np.array([[0.0, 0.0, 3.0, 5.0, 0.0]]))
    assert np.abs(expected[0, 2] - [4.0, 6.0]).min() < 1e-6
    assert share[0].argmax() == 2


def test_a_sensor_that_comes_late_in_the_training_raises_no_alarms() -> None:
    rows = plant(4000)
    rows[:2600, 0] = np.nan
    detector = Detector(0.01, "cpu", recipe=SHORT).fit(rows[:3000])
    assert (detector.score(rows[3000:]) >= 1.0).mean() <= 0.02


def test_infinities_and_numbers_beyond_float32_are_flagged(detector: Detector) -> None:
    rows = plant(4, seed=6)
    rows[0, 0], rows[1, 1], rows[2, 2], rows[3, 3] = np.inf, -np.inf, 1e300, -1e39
    found = detector.judge(rows)
    assert (found.score >= 1.0).all()
    assert np.isfinite(found.score).all()
    assert np.isfinite(found.reconstruction).all()


def test_compiled_equals_eager(detector: Detector) -> None:
    rows = plant(500, seed=7)
    rows[::7, 2] = np.nan
    np.testing.assert_allclose(detector.score(rows), detector.score_eager(rows), atol=1e-5, rtol=1e-5)


def test_the_score_of_a_row_does_not_depend_on_those_beside_it(detector: Detector) -> None:
    rows = plant(700, seed=7)
    rows[::7, 2] = np.nan
    apart = np.concatenate([detector.score(part) for part in np.array_split(rows, [1, 3, 20, 211])])
    np.testing.assert_allclose(detector.score(rows), apart, atol=1e-5, rtol=1e-5)


def test_batches_are_padded_to_few_sizes() -> None:
    sizes = np.array([padded(torch.zeros(n, 1)).shape[0] for n in range(CHUNK + 1)])
    added = sizes - np.arange(CHUNK + 1)
    assert (added >= 0).all()
    assert (added <= 0.25 * np.arange(CHUNK + 1)).all()
    assert added[[0, CHUNK]].tolist() == [0, 0]
    assert len(np.unique(sizes)) <= 45


def test_torch_export_takes_the_module(detector: Detector) -> None:
    module = detector.module
    assert module is not None
    rows = torch.from_numpy(plant(64, seed=8))
    rows[::3, 1] = torch.nan
    batch = torch.export.Dim("batch", min=2, max=100_000)
    program = torch.export.export(module, (rows,), dynamic_shapes=({0: batch},), strict=False)
    torch.testing.assert_close(program.module()(rows)[0], module(rows)[0], atol=1e-5, rtol=1e-5)


def test_same_seed_same_model() -> None:
    tiny = replace(TINY, cross_fit_below=0)
    x, fresh = plant(300), plant(50, seed=9)
    first = Detector(0.01, "cpu", seed=3, recipe=tiny).fit(x).score(fresh)
    second = Detector(0.01, "cpu", seed=3, recipe=tiny).fit(x).score(fresh)
    other = Detector(0.01, "cpu", seed=4, recipe=tiny).fit(x).score(fresh)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_restored_from_tensors_it_scores_the_same(detector: Detector) -> None:
    again = Detector.restore(detector.description(), detector.tensors(), "cpu")
    rows = plant(100, seed=10)
    np.testing.assert_array_equal(again.score(rows), detector.score(rows))


def test_the_codes_of_both_autoencoders_can_be_fused() -> None:
    fusing = replace(TINY, cross_fit_below=0, fuse_codes=True)
    x, fresh = plant(300), plant(50, seed=9)
    detector = Detector(0.01, "cpu", recipe=fusing).fit(x)
    scores = detector.score(fresh)
    assert (scores != Detector(0.01, "cpu", recipe=replace(fusing, fuse_codes=False)).fit(x).score(fresh)).any()
    again = Detector.restore(detector.description(), detector.tensors(), "cpu")
    np.testing.assert_array_equal(again.score(fresh), scores)
    np.testing.assert_allclose(detector.score_eager(fresh), scores, atol=1e-5)


def test_detectors_may_be_compiled_in_several_threads_at_once() -> None:
    """As a model that is warmed up and one that is rolled back to are, or two workers' in one process."""
    learned = Detector(0.01, "cpu", recipe=replace(TINY, cross_fit_below=0)).fit(plant(100)[:, :2])
    restored = [Detector.restore(learned.description(), learned.tensors(), "cpu") for _ in range(4)]
    together = threading.Barrier(4)

    def compiled(detector: Detector) -> bool:
        together.wait(30.0)
        return detector.compiled() is not None

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(compiled, restored))


def test_a_model_that_is_no_longer_live_gives_its_memory_back(detector: Detector) -> None:
    """A worker that trains every hour has had seven hundred models within a month."""
    rows = plant(2000, 1)
    grown = []
    for _ in range(8):
        another = Detector.restore(detector.description(), detector.tensors(), "cpu")
        for n in (1, 300, 2000, 2000):
            another.judge(rows[:n])
        another.explain(rows[:64])
        del another
        grown.append(psutil.Process().memory_info().rss / 2**20)
    assert grown[-1] - grown[2] < 20.0, "MB"


def test_a_gpu_takes_more_rows_at_once_unless_they_are_very_wide() -> None:
    assert rows_at_once(torch.empty(1, 30)) == rows_at_once(torch.empty(1, 1500)) == 2048
    assert rows_at_once(torch.empty(1, 30, device="meta")) == 16_384
    assert 2048 < rows_at_once(torch.empty(1, 1500, device="meta")) < 4096
    assert rows_at_once(torch.empty(1, 50_000, device="meta")) == 2048


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_scores_as_the_cpu_does(detector: Detector) -> None:
    on_gpu = Detector.restore(detector.description(), detector.tensors(), "cuda")
    rows = plant(1000, seed=11)
    np.testing.assert_allclose(on_gpu.score(rows), detector.score(rows), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(on_gpu.score(rows), on_gpu.score_eager(rows), atol=1e-5)
    np.testing.assert_allclose(on_gpu.explain(rows)[1], detector.explain(rows)[1], atol=1e-2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_learns_what_the_cpu_learns(detector: Detector) -> None:
    """The draws are the same; hundreds of steps amplify the rounding, so scores differ in the second digit."""
    learned = Detector(0.01, "cuda", recipe=SHORT).fit(plant(3000))
    rows = plant(1000, seed=12)
    rows[:100, 2] += 6.0
    there, here = learned.score(rows), detector.score(rows)
    np.testing.assert_allclose(there, here, atol=0.15, rtol=0.1)
    assert ((there >= 1.0) == (here >= 1.0)).mean() > 0.98


def test_a_counter_near_two_thousand_million_keeps_its_movement() -> None:
    rng = np.random.default_rng(0)
    load = rng.normal(size=3000)
    x = np.c_[1.9e9 + 5.0 * load, load, 0.5 * load + 0.05 * rng.normal(size=3000)] + 0.01 * rng.normal(size=(3000, 3))
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(x)
    probe = x[:20] + np.array([60.0, 0.0, 0.0])
    assert (detector.score(probe) >= 1.0).all()
    assert (detector.score(x) >= 1.0).mean() < 0.03


def test_rows_learned_as_text_score_the_same_as_float32() -> None:
    rng = np.random.default_rng(0)
    n = 2500
    constant, state = np.full(n, 23.1), rng.choice([0.1, 0.2, 0.3, 0.7], n)
    rounded, total = rng.normal(20.0, 1.0, n).round(1), rng.normal(100.0, 5.0, n)
    rows = np.c_[total, 0.3 * total + rng.normal(size=n), constant, state, rounded]
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(rows[:2000])
    np.testing.assert_allclose(
        detector.score(rows[2000:].astype(np.float32).astype(np.float64)), detector.score(rows[2000:]), atol=1e-3
    )


def test_a_column_in_tiny_units_counts_and_rounding_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    load = rng.normal(size=2400)
    noise = 14.62 + 1e-15 * rng.normal(size=2400)
    x = np.c_[load, load + 0.1 * rng.normal(size=2400), 1e-9 * rng.normal(size=2400), noise]
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(x)
    fresh = np.c_[load, load, np.zeros(2400), np.full(2400, 14.62 + 4e-15)][:60]
    assert (detector.score(fresh) >= 1.0).sum() <= 5
    fresh[0, 2] = 2e-7
    assert detector.score(fresh[:1])[0] >= 1.0
    assert detector.explain(fresh[:1])[1].argmax() == 2


def test_sentinels_in_the_training_rows_do_not_set_the_scale() -> None:
    x = plant(1600)
    x[::60, 0] = -9999.0
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(x)
    ordinary = plant(200, seed=1)
    assert (detector.score(ordinary) >= 1.0).mean() < 0.05
    assert (detector.score(ordinary + np.array([15.0, 0, 0, 0, 0, 0])) >= 1.0).mean() > 0.9


def test_rare_steps_are_graded_by_how_far_they_go() -> None:
    rng = np.random.default_rng(0)
    x = np.tile([5.0, 10.0, 2.0], (2400, 1))
    x[rng.permutation(2400)[:36]] += np.eye(3)[np.arange(36) % 3]
    detector = Detector(0.01, "cpu", recipe=ONCE).fit(x)
    same, one, two, far = detector.score(
        np.array([[5.0, 10.0, 2.0], [5.0, 10.0, 3.0], [5.0, 10.0, 4.0], [50.0, 100.0, 2.0]])
    )
    assert same < one <= two < far
    assert far >= 1.0


def test_too_few_rows_are_refused_with_their_number() -> None:
    with pytest.raises(TrainingError, match="7 rows are too few"):
        Detector(device="cpu").fit(plant(7))


def test_scoring_before_fitting_says_what_to_do() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        Detector(device="cpu").score(plant(3))


def test_rows_of_another_width_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="learned 6 features, these rows have 5"):
        detector.score(plant(3)[:, :5])


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_normal"])
@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_calibration_keeps_the_budget_on_fresh_scores(draw: str, alpha: float) -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        calibration = Calibration()
        calibration.fit(torch.from_numpy(getattr(rng, draw)(size=4000)), alpha)
        fresh = torch.from_numpy(getattr(rng, draw)(size=100_000).astype(np.float32))
        ratios.append(float((calibration(fresh)[0] >= 1.0).double().mean()) / alpha)
    assert 0.7 < np.mean(ratios) < 1.4


def test_real_anomalies_among_the_calibration_rows_do_not_lift_the_threshold() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=2000), np.full(30, 60.0)])
    calibration = Calibration()
    calibration.fit(torch.from_numpy(scores), 0.01)
    assert float(calibration(torch.tensor([6.0]))[0]) > 1.0
    assert len(drop_outliers(torch.from_numpy(np.sort(scores)))) == 2000


def test_of_rows_that_come_again_and_again_a_new_one_is_as_frequent_as_the_window_says() -> None:
    rng = np.random.default_rng(0)
    # Two in a hundred are combinations of states without a copy: as far beyond the others as an anomaly would be.
    raw = torch.from_numpy(np.r_[rng.exponential(size=1960), rng.normal(60.0, 1.0, size=40)]).to(torch.float32)
    another = torch.tensor([58.0])
    calibration = Calibration()
    calibration.fit(raw, 0.01)
    assert float(calibration(another)[0]) > 1.0
    calibration.fit(raw, 0.01, repeated=True)
    assert float(calibration(another)[0]) < 1.0


def test_rounding_does_not_decide_over_a_step_of_the_score() -> None:
    """A compiled module may round otherwise than a plain one, and the gate refuses it if it scores otherwise."""
    generator = torch.Generator().manual_seed(0)
    calibration = Calibration()
    calibration.fit(torch.randn(20_000, generator=generator), 0.01)
    raw = torch.randn(20_000, generator=generator)
    raw = raw[(raw - calibration.tail[0]).abs() > 1e-4]
    apart = (calibration(raw + 1e-6)[0] - calibration(raw)[0]).abs()
    assert float(apart.max()) < 1e-5


def test_scores_go_on_ranking_beyond_all_that_was_seen() -> None:
    calibration = Calibration()
    calibration.fit(torch.from_numpy(np.random.default_rng(0).normal(size=2000)), 0.01)
    score, p = calibration(torch.tensor([5.0, 10.0, 50.0, 100.0]))
    assert (torch.diff(score) > 0.0).all()
    assert (p > 0.0).all()
    assert float(calibration(torch.tensor([float("nan")]))[0]) >= 1.0, "what a broken model says is not normal"


def test_no_rows_no_scores(detector: Detector) -> None:
    found = detector.judge(np.empty((0, 6)))
    assert found.score.shape == (0,)
    assert found.reconstruction.shape == (0, 6)
    assert detector.explain(np.empty((0, 6)))[1].shape == (0, 6)
