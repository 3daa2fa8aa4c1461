"""A window whose rows fade with age knows what was long ago, at any pace of the stream, and all that is new."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.learning.fading import FadingRows, Rows, lot
from stream_ad.learning.window import InlierWindow


def rows(first: int, last: int) -> Rows:
    """Rows whose only value is their position."""
    position = np.arange(first, last)
    n = len(position)
    score, sequence, no = np.full(n, 0.5), np.zeros(n, int), np.zeros(n, bool)
    return Rows(position[:, None].astype(float), position, position, score, sequence, no, no)


def ages(capacity: int, seen: int, batch: int = 1000) -> np.ndarray:
    """Of the rows that are left after so many, youngest first."""
    kept = FadingRows(capacity, 1)
    for first in range(0, seen, batch):
        kept.add(rows(first, min(seen, first + batch)))
    held = kept.ordered()
    assert len(kept) == len(held) == min(capacity, seen)
    np.testing.assert_array_equal(held.values[:, 0], held.position)
    return seen - held.position[::-1]


def test_each_doubling_of_age_keeps_as_many_rows() -> None:
    found = ages(2000, 1_000_000)
    # 235 of 2,000 after a million: c (1 + log(1,000,000 / c)) = 2,000.
    np.testing.assert_array_equal(found[:180], np.arange(1, 181))
    counts = np.histogram(found, 1000 * 2 ** np.arange(10))[0]
    assert abs(counts - 215 * np.log(2.0)).max() < 60, counts
    assert found.max() > 500_000


def test_until_it_is_full_nothing_fades() -> None:
    np.testing.assert_array_equal(ages(2000, 2000), np.arange(1, 2001))


@pytest.mark.parametrize("batch", [1, 7, 30_000])
def test_the_size_of_the_batches_hardly_matters(batch: int) -> None:
    one, other = ages(640, 30_000, batch), ages(640, 30_000, 640)
    assert len(np.setdiff1d(one, other)) <= 640 // 64


def test_positions_draw_numbers_of_their_own_that_are_spread_evenly() -> None:
    drawn = lot(np.arange(100_000))
    counts = np.histogram(drawn, 100, (0.0, 1.0))[0]
    assert np.square(counts - 1000.0).sum() / 1000.0 < 150.0, "chi squared of 99 degrees of freedom"
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    for machines in (100, 144, 377):
        assert abs(drawn[::machines].mean() - 0.5) < 0.05, "nor are rows of some machine favoured"


def filled(flagged_share: float, capacity: int = 2000, seen: int = 100_000) -> InlierWindow:
    window, rng = InlierWindow(capacity, 1, 0.01), np.random.default_rng(0)
    for _ in range(seen // 500):
        score = np.where(rng.random(500) < flagged_share, 1.2, 0.5)
        window.add(np.zeros((500, 1)), score)
    return window


def test_flagged_rows_fade_as_inliers_do() -> None:
    """Calibration takes both together; a share of flagged rows that grows with age would lift the threshold."""
    held, flagged = filled(0.01).by_time()
    age = 100_000 - held.position
    for low, high in ((0, 400), (400, 5_000), (5_000, 100_000)):
        of_age = (age >= low) & (age < high)
        assert flagged[of_age].mean() == pytest.approx(0.01, abs=0.006), (low, high)


def test_a_row_stands_for_those_of_its_time_that_have_faded() -> None:
    window = filled(0.0)
    training = window.training_rows()
    assert (training.stands_for[-200:] == 1.0).all()
    assert training.stands_for.sum() == pytest.approx(100_000, rel=0.1)
    assert (filled(0.0, seen=2000).training_rows().stands_for == 1.0).all()


def test_a_restart_changes_nothing() -> None:
    window, again = filled(0.01), InlierWindow(2000, 1, 0.01)
    again.restore(window.state())
    for one in (window, again):
        one.add(np.ones((3000, 1)), np.full(3000, 0.5))
    np.testing.assert_array_equal(window.training_rows().position[-1500:], again.training_rows().position[-1500:])
    assert len(np.setdiff1d(window.training_rows().position, again.training_rows().position)) < 40


def test_what_went_on_is_still_suspected_when_most_of_it_has_faded() -> None:
    """A short fault and its weak ends: alone in the window, each would look like an inlier of its own."""
    window = InlierWindow(2000, 1, 0.01)
    for start in range(0, 100_000, 500):
        score = np.full(500, 0.5)
        score[100:106], score[106:110] = 1.2, 1.55
        window.add(np.full((500, 1), start), score)
    training = window.training_rows()
    of_fault = np.isin(training.position % 500, np.arange(100, 110))
    assert not of_fault.any() and not len(training.flagged)


def test_while_a_plant_stands_still_the_rows_of_it_running_do_not_fade() -> None:
    rng = np.random.default_rng(0)
    window = InlierWindow(4000, 3, 0.01)

    def feed(values: np.ndarray) -> None:
        for batch in values.reshape(-1, 500, 3):
            window.add(batch, np.full(500, 0.5))

    feed(5.0 + rng.normal(size=(10_000, 3)))
    feed(0.01 * rng.normal(size=(100_000, 3)))
    rows = window.inliers.ordered()
    ran = rows.values[:, 0] > 1.0
    assert len(rows) >= 3700
    assert ran.mean() > 0.92
    assert (rows.rests == ~ran).all()
    learned = window.training_rows()
    of_rest = learned.rows[:, 0] < 1.0
    assert learned.stands_for[of_rest].sum() == pytest.approx(100_000, rel=0.4), "and each stands for many"
    restored = InlierWindow(4000, 3, 0.01)
    restored.restore(window.state())
    assert (restored.inliers.ordered().rests == rows.rests).all()
    feed(5.0 + rng.normal(size=(10_000, 3)))
    newest = window.inliers.ordered().position >= 110_000
    assert newest.mean() > 0.4, "once it runs again, what is new counts as it always does"
