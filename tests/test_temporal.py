"""Temporal context: what rows of the recent past add to a row."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_ad.detector import Detector, Recipe
from stream_ad.detector.temporal import CALENDAR_COLUMNS, KEY_MEMORY, TemporalContext

Float64 = NDArray[np.float64]
WINDOW = 16
SHORT = Recipe(
    autoencoder_steps=150,
    rarity_steps=75,
    vae_steps=50,
    classifier_steps=50,
    synthetic_outliers=4000,
    cross_fit_below=0,
)


def sensors(n: int, seed: int, n_features: int = 3) -> Float64:
    """Sensors that follow two slow causes, with noise of their own."""
    rng = np.random.default_rng(seed)
    time = np.arange(n)
    causes = np.stack([np.sin(time / 9.0), np.cos(time / 23.0)], axis=1)
    weights = np.array([[1.0, 0.2, -0.7], [0.3, 1.0, 0.8]])[:, :n_features]
    return causes @ weights + 0.1 * rng.normal(size=(n, n_features))


def by_definition(values: Float64, window: int) -> tuple[Float64, Float64]:
    """Rolling mean and fourth root of the rolling deviation of one column, row by row."""
    mean, deviation = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for i in range(window - 1, len(values)):
        past = values[i - window + 1 : i + 1]
        past = past[~np.isnan(past)]
        if len(past) >= window / 2:
            mean[i], deviation[i] = past.mean(), past.std() ** 0.25
    return mean, deviation


@pytest.mark.parametrize("window", [2, 3, 16, 21])
def test_descriptors_are_the_rolling_mean_and_deviation_of_the_values_that_are_there(window: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 2))
    values[rng.random(values.shape) < 0.2] = np.nan
    extended = TemporalContext(2, window).extend(values)
    np.testing.assert_array_equal(extended[:, :2], values)
    scales = [window, window // 4] if window >= 8 else [window]
    assert extended.shape[1] == 2 + 4 * len(scales)
    for k, scale in enumerate(scales):
        for feature in range(2):
            mean, deviation = by_definition(values[:, feature], scale)
            np.testing.assert_allclose(extended[:, 2 + 4 * k + feature], mean, atol=1e-9)
            np.testing.assert_allclose(extended[:, 4 + 4 * k + feature], deviation, atol=1e-4)


def test_without_window_and_calendar_a_row_stays_as_it_is() -> None:
    values = sensors(10, seed=0)
    context = TemporalContext(3, window=0)
    assert context.width == 3
    np.testing.assert_array_equal(context.extend(values), values)
    np.testing.assert_array_equal(context.describes, [0, 1, 2])


@pytest.mark.parametrize("window", [-1, 1])
def test_a_window_in_which_nothing_can_vary_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="0 for none, or 2 and more"):
        TemporalContext(3, window)


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4], [50], [7, 20, 21, 90], list(range(1, 120))])
def test_the_result_does_not_depend_on_how_rows_are_cut_into_batches(cuts: list[int]) -> None:
    values = sensors(120, seed=1)
    keys = [b"a" if i % 3 else b"b" for i in range(120)]
    times = np.arange(120) * 600.0
    whole = TemporalContext(3, WINDOW, calendar=True).extend(values, keys, times)
    context = TemporalContext(3, WINDOW, calendar=True)
    edges = [0, *cuts, 120]
    parts = [context.extend(values[a:b], keys[a:b], times[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_keys_do_not_mix() -> None:
    values = sensors(90, seed=2)
    keys = [(b"a", b"b", None)[i] for i in np.random.default_rng(0).integers(0, 3, 90)]
    together = TemporalContext(3, WINDOW).extend(values, keys)
    for key in (b"a", b"b", None):
        own = np.array([one == key for one in keys])
        np.testing.assert_array_equal(together[own], TemporalContext(3, WINDOW).extend(values[own]))


def test_keys_that_begin_raise_no_more_alerts_than_others() -> None:
    detector = Detector(false_alarm_rate=0.01, recipe=SHORT)
    detector.fit(TemporalContext(3, WINDOW).extend(sensors(4000, seed=0)))
    keys, rows = 100, 2 * WINDOW
    values = sensors(keys * rows, seed=1)
    of_key = np.repeat(np.arange(keys), rows)
    extended = TemporalContext(3, WINDOW).extend(values, [b"%d" % key for key in of_key])
    flagged = (detector.score(extended) >= 1.0).reshape(keys, rows)
    assert flagged[:, :WINDOW].mean() <= 0.01
    assert flagged[:, WINDOW:].mean() <= 0.01


def test_an_empty_batch_changes_nothing() -> None:
    context, other = TemporalContext(3, WINDOW), TemporalContext(3, WINDOW)
    values = sensors(40, seed=3)
    context.extend(values[:20])
    assert context.extend(values[:0]).shape == (0, context.width)
    assert context.extend(values[:0], []).shape == (0, context.width)
    other.extend(values[:20])
    np.testing.assert_array_equal(context.extend(values[20:]), other.extend(values[20:]))


def test_the_keys_seen_last_are_remembered_and_the_others_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_ad.detector.temporal.MEMORY", 2 * (KEY_MEMORY + 8 * 3 * (WINDOW - 1)))  # two keys
    context = TemporalContext(3, WINDOW)
    past, row = sensors(WINDOW, seed=4), sensors(1, seed=5)
    for key in (b"a", b"b", b"a", b"c"):
        context.extend(past, [key] * WINDOW)
    assert not np.isnan(context.extend(row, [b"a"])).any()
    assert not np.isnan(context.extend(row, [b"c"])).any()
    assert np.isnan(context.extend(row, [b"b"])[:, 3:]).all()


@pytest.mark.parametrize("window", [2, WINDOW])
def test_many_keys_take_no_more_memory_than_promised(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    promised = 2**20
    monkeypatch.setattr("stream_ad.detector.temporal.MEMORY", promised)
    context = TemporalContext(1, window)
    values = sensors(window * 5000, seed=4, n_features=1)
    tracemalloc.start()
    try:
        context.extend(values, [b"device-%012d" % (i // window) for i in range(len(values))])
        assert 0.5 * promised < tracemalloc.get_traced_memory()[0] < 1.2 * promised
    finally:
        tracemalloc.stop()


def test_a_counter_near_two_billion_keeps_its_movement() -> None:
    movement = np.random.default_rng(0).integers(-5, 6, size=(300, 1)).astype(np.float64)
    small = TemporalContext(1, WINDOW).extend(movement)
    large = TemporalContext(1, WINDOW).extend(movement + 2e9)
    np.testing.assert_allclose(large[:, 1] - 2e9, small[:, 1], atol=1e-6)
    np.testing.assert_allclose(large[:, 2], small[:, 2], rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 2e9 + 1 / 3, 3e38, np.inf])
def test_a_value_that_stands_still_has_no_deviation_at_all(value: float) -> None:
    extended = TemporalContext(1, 21).extend(np.concatenate([sensors(60, 0, 1), np.full((40, 1), value)]))
    np.testing.assert_array_equal(extended[-20:, 2], 0.0)


def test_the_calendar_turns_once_a_day_and_once_a_week() -> None:
    hours = np.arange(0.0, 8 * 24.0)
    circles = TemporalContext(1, 0, calendar=True).extend(np.zeros((len(hours), 1)), None, hours * 3600.0)[:, 1:]
    assert circles.shape[1] == CALENDAR_COLUMNS
    by_day, by_week = circles[:, [0, 2]], circles[:, [1, 3]]
    np.testing.assert_array_equal(by_day[24:], by_day[:-24])
    np.testing.assert_array_equal(by_week[-24:], by_week[:24])
    np.testing.assert_allclose(np.linalg.norm(by_day, axis=1), 1.0)
    assert np.linalg.norm(by_day[0] - by_day[12]) == pytest.approx(2.0)
    assert np.linalg.norm(by_week[0] - by_week[84]) == pytest.approx(2.0)


def test_the_calendar_of_unknown_times_is_missing() -> None:
    context = TemporalContext(1, 0, calendar=True)
    extended = context.extend(np.zeros((2, 1)), None, np.array([np.nan, 0.0]))
    assert np.isnan(extended[0, 1:]).all()
    assert not np.isnan(extended[1]).any()
    assert np.isnan(context.extend(np.zeros((1, 1)))[:, 1:]).all()


def test_columns_say_which_feature_they_tell_of() -> None:
    context = TemporalContext(2, WINDOW, calendar=True)
    np.testing.assert_array_equal(context.describes, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1, -1, -1, -1])


def fitted(extended: Float64) -> Detector:
    return Detector(false_alarm_rate=0.01, device="cpu", seed=0, recipe=SHORT).fit(extended)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fitted(TemporalContext(3, WINDOW).extend(sensors(2000, seed=0)))


class TestInTheDetector:
    """What no row shows by itself: the same detector sees it on extended rows and not on bare ones."""

    def test_a_stuck_sensor_is_seen_and_attributed(self, detector: Detector) -> None:
        test = sensors(400, seed=1)
        test[200:260, 0] = test[200, 0]
        context = TemporalContext(3, WINDOW)
        extended = context.extend(test)
        score = detector.score(extended)
        stuck = slice(200 + WINDOW, 260)
        assert np.mean(score[stuck] > 1.0) > 0.9
        assert np.mean(score[WINDOW:200] > 1.0) < 0.1
        _, share = detector.explain(extended[stuck], context.describes)
        assert share.shape == (60 - WINDOW, 3)
        assert np.mean(share.argmax(axis=1) == 0) > 0.9

    def test_a_wrong_pattern_of_ordinary_values_is_seen(self, detector: Detector) -> None:
        test = sensors(400, seed=1)
        test[200:280] = np.random.default_rng(0).permutation(test[200:280])
        raw = fitted(sensors(2000, seed=0)).score(test)
        extended = detector.score(TemporalContext(3, WINDOW).extend(test))
        wrong = slice(200 + WINDOW, 280)
        assert np.mean(raw[wrong] > 1.0) < 0.1
        assert np.mean(extended[wrong] > 1.0) > 0.9

    def test_a_right_value_at_the_wrong_hour_is_seen(self) -> None:
        rng = np.random.default_rng(0)
        hours = np.arange(0.0, 24.0 * 7 * 4, 0.5)
        load = np.cos(2 * np.pi * hours / 24)[:, None] * [1.0, 0.5] + 0.05 * rng.normal(size=(len(hours), 2))
        context = TemporalContext(2, 0, calendar=True)
        detector = fitted(context.extend(load, None, hours * 3600.0))
        evening = np.array([[-1.0, -0.5]])
        noon, midnight = (
            detector.score(context.extend(evening, None, np.array([(24 * 9 + hour) * 3600.0])))[0] for hour in (12, 24)
        )
        assert noon < 1.0 < midnight
