"""Where rows stop for long, those before are not the past of those after."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stream_ad.detector.outages import LONG, find_outages
from stream_ad.detector.temporal import TemporalContext

WINDOW = 8


def outages(times: np.ndarray, half_life: float = 32.0) -> list[int]:
    bounds, none = np.array([0, len(times)]), np.array([np.nan])
    return np.flatnonzero(find_outages(times, bounds, none, np.zeros(1), half_life)[0]).tolist()


def even(n: int, pause: float = 1.0) -> np.ndarray:
    return 1.7e9 + pause * np.arange(n)


@pytest.mark.parametrize("pause", [0.001, 1.0, 600.0])
def test_a_pause_many_times_as_long_as_usual_is_an_outage_whatever_the_pace(pause: float) -> None:
    times = even(200, pause)
    times[100:] += 2 * LONG * pause
    times[150:] += 0.5 * LONG * pause
    assert outages(times) == [100]


def test_rows_that_are_sent_together_make_no_outages() -> None:
    times = 1.7e9 + 100.0 * (np.arange(1000) // 50)
    assert outages(times) == []


def test_pauses_that_come_often_are_usual() -> None:
    times = even(5000)
    for stop in range(500, 5000, 60):
        times[stop:] += 1000.0
    assert outages(times) == [500]


@pytest.mark.parametrize("wrong", [np.nan, 4e9, 0.0])
def test_a_single_wrong_time_does_not_hide_an_outage_for_good(wrong: float) -> None:
    times = even(3000)
    times[100] = wrong
    times[2900:] += 3600.0
    assert outages(times)[-1:] == [2900]


def test_times_that_step_back_and_rows_without_any_are_no_outages() -> None:
    rng = np.random.default_rng(0)
    assert outages(even(500) + rng.uniform(-3.0, 3.0, 500)) == []
    assert outages(np.full(50, np.nan)) == []


def test_rows_that_come_by_chance_make_no_outages() -> None:
    rng = np.random.default_rng(0)
    assert outages(1.7e9 + rng.exponential(10.0, 20_000).cumsum(), 256.0) == []


def test_keys_are_told_apart_and_batches_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    of_key = rng.integers(0, 5, n)
    times = even(n, 0.1)
    times[of_key == 3] += np.where(np.arange(n) > 1200, 60.0, 0.0)[of_key == 3]
    keys = [b"%d" % key for key in of_key]
    values = rng.normal(size=(n, 2))
    whole = TemporalContext(2, WINDOW).extend(values, keys, times)
    parted = TemporalContext(2, WINDOW)
    edges = [0, 1, 7, 400, 1201, 1202, n]
    parts = [parted.extend(values[a:b], keys[a:b], times[a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    without = TemporalContext(2, WINDOW).extend(values, keys)
    anew = np.isnan(whole[:, 2]) & ~np.isnan(without[:, 2]) & (np.arange(n) > 200)
    stopped = (of_key == 3) & (np.arange(n) > 1200)
    assert np.flatnonzero(anew).tolist() == np.flatnonzero(stopped)[: WINDOW - 1].tolist()


def test_after_an_outage_the_past_begins_anew_and_is_that_of_the_rows_since() -> None:
    values = np.random.default_rng(0).normal(size=(100, 1))
    times = even(100)
    times[60:] += 3600.0
    extended = TemporalContext(1, WINDOW).extend(values, None, times)
    alone = TemporalContext(1, WINDOW).extend(values[60:], None, times[60:])
    np.testing.assert_array_equal(extended[60:], alone)
    assert np.isnan(extended[60:66, 1]).all()
