"""Drift: found where the stream changes, named, and hardly ever found where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.learning.changes import ChangeWatch
from stream_ad.learning.drift import BASELINE_UNITS, UNIT_ROWS, Drift, DriftWatch
from stream_ad.learning.triggers import Triggers
from stream_ad.learning.window import InlierWindow

ALPHA = 0.01
FEATURES = ["flow", "pressure", "speed"]


class Stream:
    """Scores and residuals of a calibrated model on a stream whose level moves with the time of the day."""

    def __init__(self, seed: int, anomalies: float = 0.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._anomalies = anomalies
        self._row = 0

    def rows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores [n] and residuals [n, 3] of the next n rows."""
        day = np.sin(2.0 * np.pi * np.arange(self._row, self._row + n) / 480.0)[:, None]
        self._row += n
        score = np.log(self._rng.random(n)) / np.log(ALPHA)
        score[self._rng.random(n) < self._anomalies] = 5.0
        return score, self._rng.exponential(0.3 * (1.0 + 0.2 * day), (n, 3))


def fed(watch: DriftWatch, score: np.ndarray, residual: np.ndarray, batch: int = 1000) -> list[tuple[int, Drift]]:
    """What the watch finds, with the number of rows that it had been given."""
    starts = range(0, len(score), batch)
    return [
        (i + batch, found) for i in starts for found in watch.observe(score[i : i + batch], residual[i : i + batch])
    ]


@pytest.mark.parametrize("method", ["adwin", "page_hinkley"])
@pytest.mark.parametrize("anomalies", [0.0, 0.03])
def test_a_stationary_stream_does_not_drift_in_two_hundred_thousand_rows(method: str, anomalies: float) -> None:
    assert fed(DriftWatch(method, FEATURES), *Stream(0, anomalies).rows(200_000)) == []


@pytest.mark.parametrize(("method", "within"), [("adwin", 3000), ("kswin", 6000), ("page_hinkley", 3000)])
def test_a_sudden_change_of_a_residual_is_found_soon_and_named(method: str, within: int) -> None:
    score, residual = Stream(1).rows(26_000)
    residual[20_000:, 1] *= 2.0
    row, drift = fed(DriftWatch(method, FEATURES), score, residual)[0]
    assert drift == Drift("residual", "pressure")
    assert 20_000 < row <= 20_000 + within


def test_scores_that_rise_without_alarms_are_found() -> None:
    score, residual = Stream(2).rows(30_000)
    score[20_000:] = np.minimum(0.99, 1.5 * score[20_000:])
    assert fed(DriftWatch("adwin", FEATURES), score, residual)[0][1] == Drift("score", "")


def test_a_share_of_flagged_rows_above_the_budget_is_found() -> None:
    score, residual = Stream(3).rows(30_000)
    score[20_000::10] = 3.0
    found = fed(DriftWatch("adwin", FEATURES), score, residual)
    assert found[0][1] == Drift("flagged", "")
    assert found[0][0] <= 24_000


def test_a_slow_drift_is_found_before_it_has_gone_far() -> None:
    score, residual = Stream(4).rows(120_000)
    residual[20_000:, 2] *= np.linspace(1.0, 3.0, 100_000)
    row, drift = fed(DriftWatch("adwin", FEATURES), score, residual)[0]
    assert drift == Drift("residual", "speed")
    assert row < 60_000, "the residual has not doubled yet"


def test_faults_do_not_move_the_residuals_and_scores_of_sound_rows() -> None:
    score, residual = Stream(5).rows(60_000)
    faults = slice(30_000, 30_400)
    score[faults], residual[faults] = 8.0, 50.0
    assert fed(DriftWatch("adwin", FEATURES), score, residual) == []


def test_how_rows_are_cut_into_batches_changes_nothing() -> None:
    score, residual = Stream(6).rows(30_000)
    residual[15_000:, 0] *= 3.0
    found = [fed(DriftWatch("adwin", FEATURES), score, residual, batch) for batch in (5, 30_000)]
    assert [drift for _, drift in found[0]] == [drift for _, drift in found[1]] != []


def test_missing_values_and_rows_without_a_score_are_passed_over() -> None:
    score, residual = Stream(7).rows(40_000)
    residual[20_000:, 1] = np.nan
    score[::3] = np.nan
    assert fed(DriftWatch("adwin", FEATURES), score, residual) == []


def test_after_a_swap_another_level_is_no_drift() -> None:
    watch = DriftWatch("adwin", FEATURES)
    score, residual = Stream(8).rows(40_000)
    assert fed(watch, score[:20_000], residual[:20_000]) == []
    watch.reset()
    assert fed(watch, score[20_000:], 3.0 * residual[20_000:]) == []


def test_a_feature_that_never_moved_is_found_when_it_moves() -> None:
    score, residual = Stream(9).rows(20_000)
    residual[:, 0] = 0.0
    residual[10_000:, 0] = 0.5
    assert fed(DriftWatch("adwin", FEATURES), score, residual)[0][1] == Drift("residual", "flow")


def test_none_watches_nothing_and_an_unknown_method_is_refused() -> None:
    score, residual = Stream(10).rows(20_000)
    residual[10_000:] *= 9.0
    assert fed(DriftWatch("none", FEATURES), score, residual) == []
    with pytest.raises(ValueError, match="use adwin, kswin, page_hinkley or none"):
        DriftWatch("adwim", FEATURES)


def test_a_drift_starts_a_training_once_the_minimum_distance_is_over() -> None:
    triggers = Triggers(min_rows=100, every_rows=None, every_seconds=None, min_interval_seconds=60.0, has_model=True)
    triggers.started(0.0, 0)
    window = InlierWindow(20_000, 3, ALPHA)
    changes = ChangeWatch("adwin", "adapt", FEATURES, window, triggers)
    score, residual = Stream(11).rows(20_000)
    residual[10_000:, 1] *= 4.0
    window.add(np.zeros((20_000, 3)), score)
    assert [drift.feature for drift in changes.observe(score, residual).drifts] == ["pressure"]
    assert triggers.due(59.0, window.seen, len(window)) is None
    assert triggers.due(60.0, window.seen, len(window)) == "drift"
    triggers.started(60.0, window.seen)
    assert triggers.due(200.0, window.seen, len(window)) is None, "one drift is one training"


def test_the_log_names_the_signal_and_the_feature(caplog: pytest.LogCaptureFixture) -> None:
    triggers = Triggers(min_rows=100, every_rows=None, every_seconds=None, min_interval_seconds=0.0)
    changes = ChangeWatch("adwin", "adapt", FEATURES, InlierWindow(1000, 3, ALPHA), triggers)
    score, residual = Stream(12).rows(20_000)
    residual[10_000:, 1] *= 4.0
    changes.observe(score, residual)
    (record,) = caplog.records
    assert record.getMessage() == "drift in the residual of pressure"
    assert (record.__dict__["signal"], record.__dict__["feature"]) == ("residual", "pressure")


def test_nothing_is_said_before_the_baseline_is_known() -> None:
    score, residual = Stream(13).rows(BASELINE_UNITS * UNIT_ROWS - 1)
    residual[500:] *= 10.0
    assert fed(DriftWatch("adwin", FEATURES), score, residual) == []
