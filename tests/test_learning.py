"""Window, triggers, cores and data report: when and on what to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ad.detector import Detector
from stream_ad.learning import ColdStart
from stream_ad.learning.cores import threads_each, usable_cores
from stream_ad.learning.data_report import counters, short_sequences, suspicious_values, too_coarse_for_float32
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.truncation import in_company, inlier_probability
from stream_ad.learning.window import InlierWindow


def numbered(first: int, last: int) -> np.ndarray:
    """Rows whose first feature is their number."""
    return np.c_[np.arange(first, last), np.zeros(last - first)].astype(float)


def test_window_keeps_inliers_in_order_the_latest_all() -> None:
    window = InlierWindow(40, 2, 0.01)
    for first in range(0, 120, 4):
        window.add(numbered(first, first + 4), np.full(4, 0.3))
    kept = window.training_rows().rows[:, 0].tolist()
    assert len(kept) == 40 and kept == sorted(kept)
    assert kept[-10:] == list(range(110, 120))


def test_flagged_rows_never_enter_the_window() -> None:
    window = InlierWindow(10, 2, 0.01)
    window.add(numbered(0, 6), np.array([0.1, 1.0, 0.2, 2.7, 0.3, 1.2]))
    training = window.training_rows()
    assert training.rows[:, 0].tolist() == [0, 2, 4]
    assert 3.0 not in training.flagged[:, 0], "far above the threshold they do not even help to calibrate"


def test_a_flagged_row_keeps_its_place_in_time() -> None:
    window = InlierWindow(1000, 2, 0.01)
    score = np.full(1000, 0.5)
    score[400] = 1.0
    window.add(numbered(0, 1000), score)
    training = window.training_rows()
    assert training.flagged[:, 0].tolist() == [400]
    assert training.flagged_place.tolist() == [400]


def test_a_burst_of_one_key_leaves_the_window_and_rows_of_other_keys_between_stay() -> None:
    window = InlierWindow(1000, 2, 0.01)
    window.add(numbered(0, 1000), np.full(1000, np.nan), sequence=np.arange(1000) % 2 + 7)
    training, detector = window.training_rows(), Detector(0.01)
    detector.left_out = np.array([100, 102, 103, 104, 200])
    stretches = training.left_out(detector)
    assert stretches == [(100, 104, 7), (200, 200, 7), (103, 103, 8)]
    window.drop(stretches)
    assert set(range(1000)) - set(window.training_rows().rows[:, 0].tolist()) == {100, 102, 103, 104, 200}


def exponential_scores(n: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Scores of n inliers of a calibrated model."""
    return np.log(rng.random(n)) / np.log(alpha)


@pytest.mark.parametrize("alpha", [0.01, 0.002])
def test_flagged_inliers_are_told_from_anomalies_by_how_their_scores_fall_off(alpha: float) -> None:
    rng = np.random.default_rng(0)
    inliers = exponential_scores(200_000, alpha, rng)
    mixed = np.concatenate([inliers, rng.uniform(0.8, 12.0, size=6000)])
    truth = (inliers >= 1.0).sum()
    for scores in (inliers, mixed):
        found = inlier_probability(scores, alpha)[scores >= 1.0].sum()
        assert found == pytest.approx(truth, rel=0.25)


def test_a_threshold_that_is_too_low_shows_in_the_flagged_inliers() -> None:
    rng = np.random.default_rng(0)
    scores = 1.15 * exponential_scores(200_000, 0.01, rng)
    assert inlier_probability(scores, 0.01)[scores >= 1.0].sum() > 1.3 * 0.01 * 200_000


def a_fault(n: int, start: int, length: int) -> np.ndarray:
    """Scores of n inliers with a fault that begins and ends below the threshold."""
    score = np.full(n, 0.2)
    score[start : start + length] = 0.9
    score[start + length // 4 : start + 3 * length // 4] = 1.6
    return score


def test_the_rows_around_a_fault_are_not_learned_either() -> None:
    window = InlierWindow(2000, 2, 0.01)
    window.add(numbered(0, 2000), a_fault(2000, 500, 40))
    learned = window.training_rows().rows[:, 0]
    assert not ((learned >= 500) & (learned < 540)).any()
    assert len(learned) > 1850, "and little else is left out"


def test_a_row_that_is_strange_alone_takes_no_others_with_it() -> None:
    window = InlierWindow(2000, 2, 0.01)
    score = np.full(2000, 0.2)
    score[::200] = 1.6
    window.add(numbered(0, 2000), score)
    assert len(window.training_rows().rows) == 1990


def test_rows_that_are_strange_everywhere_are_no_company() -> None:
    """Where single anomalies are frequent their neighbours are ordinary rows."""
    strange = np.random.default_rng(0).random(20_000) < 0.03
    assert in_company(strange, 0.001, np.zeros(20_000, int)).mean() < 0.02


def test_company_is_sought_among_the_rows_of_one_key() -> None:
    """Ten keys by turns; one of them has a fault."""
    key = np.arange(4000) % 10
    strange = (key == 3) & (np.arange(4000) >= 2000) & (np.arange(4000) < 2200)
    company = in_company(strange, 0.001, key)
    assert company[strange].all()
    assert not company[key != 3].any()


def test_a_machine_that_always_looks_somewhat_strange_is_learned_and_its_faults_are_not() -> None:
    """A hundred keys by turns. A tenth of the rows of one of them is strange, all the time, and then it has a fault."""
    n = 40_000
    key = np.arange(n) % 100
    odd = np.flatnonzero(key == 3)
    strange = np.zeros(n, dtype=bool)
    strange[odd] = np.random.default_rng(0).random(len(odd)) < 0.1
    fault = odd[350:370]
    strange[fault] = True
    company = in_company(strange, 0.001, key)
    assert company[fault].all()
    assert company[odd[:280]].mean() < 0.02
    assert not company[key != 3].any()


def test_an_inlier_has_company_by_chance_less_than_once_in_a_hundred_rows() -> None:
    strange = np.random.default_rng(0).random(200_000) < 0.001
    assert in_company(strange, 0.001, np.zeros(200_000, int)).mean() < 0.01


def test_flagged_rows_older_than_the_window_are_forgotten() -> None:
    window = InlierWindow(4, 2, 0.01)
    window.add(numbered(0, 2), np.array([1.1, 0.5]))
    window.add(numbered(2, 8), np.full(6, 0.5))
    assert len(window.training_rows().flagged) == 0


def test_rows_from_before_the_first_model_are_not_truncated() -> None:
    window = InlierWindow(10, 2, 0.01)
    window.add(numbered(0, 5), np.full(5, np.nan))
    assert window.training_rows().truncated(0.01) == 0.0
    window.add(numbered(5, 10), np.full(5, 0.5))
    assert window.training_rows().truncated(0.01) == pytest.approx(0.5 * 0.0001)


def test_window_survives_in_its_state() -> None:
    window = InlierWindow(6, 2, 0.01)
    window.add(numbered(0, 9), np.array([0.1, 1.1, 0.2, 0.2, 1.9, 0.2, 0.2, 0.2, 0.2]))
    again = InlierWindow(6, 2, 0.01)
    again.restore(window.state())
    for name, array in window.state().items():
        np.testing.assert_array_equal(array, again.state()[name])
    smaller = InlierWindow(3, 2, 0.01)
    smaller.restore(window.state())
    kept = smaller.training_rows().rows[:, 0].tolist()
    assert len(kept) == 3 and kept[-1] == 8


def test_a_window_that_an_earlier_version_kept_is_taken_up() -> None:
    """It held the latest rows, and of each the values, the position and the score."""
    window = InlierWindow(100, 2, 0.01)
    position = np.arange(400, 500)
    kept = {"values": numbered(400, 500), "position": position, "score": np.full(100, 0.5)}
    none = {name: column[:0] for name, column in kept.items()}
    window.restore(
        {"seen": np.array([500])}
        | {f"inliers.{name}": column for name, column in kept.items()}
        | {f"quarantine.{name}": column for name, column in none.items()}
    )
    training = window.training_rows()
    assert training.position.tolist() == position.tolist()
    assert training.stands_for.max() < 1.5, "hardly anything of that time seems to have faded"
    window.add(numbered(500, 600), np.full(100, 0.5))
    assert len(window) == 100 and window.training_rows().position.min() < 500


def test_scores_of_the_window_come_onto_the_scale_of_another_budget() -> None:
    """A row of p-value 0.001 has the score 1 under a budget of 0.001, and 1.5 under one of 0.01."""
    strict = InlierWindow(10, 1, 0.001)
    strict.add(np.zeros((2, 1)), np.array([0.5, 1.0]))
    loose = InlierWindow(10, 1, 0.01)
    loose.restore(strict.state())
    strict.set_false_alarm_rate(0.01)
    for window in (loose, strict):
        state = window.state()
        np.testing.assert_allclose(state["inliers.score"], [0.75])
        np.testing.assert_allclose(state["quarantine.score"], [1.5])
        assert state["false_alarm_rate"] == 0.01


def test_a_batch_larger_than_the_window_fills_it_like_many_small_ones() -> None:
    window, slow = InlierWindow(100, 2, 0.01), InlierWindow(100, 2, 0.01)
    window.add(numbered(0, 1000), np.full(1000, 0.5))
    for first in range(0, 1000, 5):
        slow.add(numbered(first, first + 5), np.full(5, 0.5))
    np.testing.assert_array_equal(window.training_rows().rows, slow.training_rows().rows)


def test_triggers_first_rows_and_time() -> None:
    triggers = Triggers(min_rows=100, every_rows=1000, every_seconds=60.0, min_interval_seconds=5.0)
    assert triggers.due(0.0, 99, 99) is None
    assert triggers.due(0.0, 100, 100) == "first"
    triggers.started(0.0, 100)
    triggers.finished(good=True)
    triggers.has_model = True
    assert triggers.due(6.0, 1099, 500) is None
    assert triggers.due(6.0, 1100, 500) == "rows"
    assert triggers.due(61.0, 200, 500) == "time"


def test_a_young_window_is_learned_each_time_the_rows_seen_have_grown_by_half() -> None:
    triggers = Triggers(100, every_rows=1000, every_seconds=None, min_interval_seconds=0.0, young_rows=800)
    trained = []
    for seen in range(0, 3001, 50):
        if triggers.due(float(seen), seen, min(seen, 800)):
            triggers.started(float(seen), seen)
            triggers.has_model = True
            trained.append(seen)
    assert trained == [100, 150, 250, 400, 600, 900, 1900, 2900]


def test_the_minimum_distance_between_trainings_holds() -> None:
    triggers = Triggers(min_rows=10, every_rows=10, every_seconds=None, min_interval_seconds=5.0, has_model=True)
    triggers.started(0.0, 0)
    triggers.finished(good=True)
    assert triggers.due(4.9, 1000, 1000) is None
    assert triggers.due(5.0, 1000, 1000) == "rows"


def test_after_failures_the_next_training_waits_longer_each_time() -> None:
    triggers = Triggers(min_rows=10, every_rows=10, every_seconds=None, min_interval_seconds=0.0)
    waits = []
    for _ in range(10):
        triggers.finished(good=False)
        waits.append(triggers.wait())
    assert waits[:3] == [30.0, 60.0, 120.0]
    assert waits[-1] == 3600.0
    triggers.finished(good=True)
    assert triggers.wait() == 0.0


def test_cold_start_ranks_an_outlier_above_ordinary_rows() -> None:
    cold = ColdStart(seed=0)
    cold.score(np.random.default_rng(0).normal(size=(600, 3)))
    ordinary, outlier, incomplete = cold.score(np.array([[0.0, 0.1, 0.0], [9.0, -9.0, 9.0], [np.nan, 0.1, 0.0]]))
    assert 0.0 <= ordinary < outlier <= 1.0
    assert 0.0 <= incomplete <= 1.0


def test_cores_follow_the_containers_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    unlimited = usable_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1
    assert usable_cores(tmp_path / "nowhere") == unlimited


def test_cores_follow_the_old_control_groups_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == 1


def test_threads_setting_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_each(None) == 3
    assert threads_each(2) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert threads_each(None) >= 1


def test_repeated_extreme_values_are_reported_as_likely_sentinels() -> None:
    x = np.random.default_rng(0).normal(50.0, 1.0, size=(400, 2))
    x[10:15, 0] = -9999.0
    assert suspicious_values(x, ["temperature", "pressure"]) == [
        "temperature: -9999 5 times; if it means 'no reading', list it in schema.missing_values"
    ]


def test_features_that_only_count_up_are_reported_machine_by_machine() -> None:
    rng = np.random.default_rng(0)
    machine = rng.integers(0, 12, 600)
    total = np.zeros(600)
    for one in range(12):
        own = machine == one
        total[own] = 1000.0 * one + rng.poisson(2.0, own.sum()).cumsum()
    total[rng.random(600) < 0.1] = np.nan
    load, rated_power = rng.normal(size=600), 10.0 * machine
    x = np.c_[total, load, rated_power]
    (note,) = counters(x, ["energy_total", "load", "rated_power"], machine)
    assert note.startswith("energy_total: never falls, like a counter")
    assert counters(x, ["energy_total", "load", "rated_power"], np.zeros(600, np.int64)) == []


def test_a_spread_lost_in_float32_is_reported() -> None:
    rng = np.random.default_rng(0)
    x = np.c_[1.9e9 + 5.0 * rng.normal(size=200), rng.normal(size=200), np.full(200, 3.2)]
    x[21:, 2] = np.nan
    assert np.full(21, 3.2).std() > 0.0
    (note,) = too_coarse_for_float32(x, ["raw_ticks", "load", "constant"])
    assert note.startswith("raw_ticks: spread")


def test_keys_with_too_few_rows_for_their_window_are_told_of() -> None:
    of_key = np.arange(20_000) % 400
    (note,) = short_sequences(of_key, 16)
    assert note.startswith("400 keys share the window, with some 50 rows of each")
    assert "Learn from 51200 rows" in note
    assert short_sequences(of_key, 4) == []
    assert short_sequences(of_key, 0) == []
    assert short_sequences(np.zeros(50, np.int64), 64) == [], "of one sequence lint says it"


@pytest.mark.parametrize("window", [0, 16])
def test_keys_that_name_messages_are_told_of(window: int) -> None:
    (note,) = short_sequences(np.arange(2000), window)
    assert note.startswith("2000 rows have 2000 keys")
    assert "schema.key" in note
    assert "2000 keys" not in str(short_sequences(np.arange(2000) % 1500, window)), "of some machines two rows"
