"""The false-alarm rate stays at the budget from retrain to retrain, on a stream that stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import budget
from stream_ad.detector.calibration import Calibration
from stream_ad.detector.detector import Findings
from stream_ad.learning import LoadedModel
from stream_ad.learning.adaptive import BOUND, AdaptiveLevel
from stream_ad.learning.window import InlierWindow
from stream_ad.records import RecordSchema
from stream_ad.records.float32_codec import Float32Decoder
from stream_ad.row_rate import RowRate
from stream_ad.scoring import Scorer
from tests.test_records import raw

ALPHA = 0.01
WINDOW = 20_000
EVERY = 40_000
RETRAINS = 40
LEAST_ODD, MOST_ODD = 4.0, 12.0
"""Where raw scores of anomalies lie; those of inliers are standard normal."""


class StubModel:
    """Raw scores are known, with noise that is each model's own; all that makes a verdict of them is the product's."""

    def __init__(self, window: InlierWindow, seed: int, alpha: float = ALPHA) -> None:
        rng = np.random.default_rng(seed)
        self._mix = 0.15 * rng.normal(size=3)
        self._calibration = Calibration()
        training = window.training_rows(seed)
        held_out = rng.random(len(training.rows)) < 0.5
        flagged = rng.random(len(training.flagged)) < 0.5
        raw = self._raw(np.concatenate([training.rows[held_out], training.flagged[flagged]]))
        self._calibration.fit(torch.from_numpy(raw), alpha, training.truncated(alpha))

    def p_value(self, rows: np.ndarray) -> np.ndarray:
        return self._calibration(torch.from_numpy(self._raw(rows)))[1].numpy()

    def _raw(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 0] + rows[:, 1:] @ self._mix


def rows(n: int, anomaly_share: float, rng: np.random.Generator) -> np.ndarray:
    """[n, 4]: what the raw score is made of, and what models disagree by."""
    x = rng.normal(size=(n, 4))
    odd = rng.random(n) < anomaly_share
    x[odd, 0] = rng.uniform(LEAST_ODD - 2.0, MOST_ODD, int(odd.sum()))
    return x


@pytest.mark.parametrize("anomaly_share", [0.0, 0.01, 0.03])
def test_the_budget_holds_over_forty_retrains(anomaly_share: float) -> None:
    rng = np.random.default_rng(0)
    window = InlierWindow(WINDOW, 4, ALPHA)
    window.add(rows(WINDOW, 0.0, rng), np.full(WINDOW, np.nan))
    level = AdaptiveLevel(ALPHA)
    fresh, odd = rows(50_000, 0.0, rng), rows(5_000, 1.0, rng)
    ratios, missed = [], []
    for k in range(RETRAINS + 1):
        model = StubModel(window, k)
        level.swapped()
        stood = []
        for _ in range(0, EVERY, 1000):
            batch = rows(1000, anomaly_share, rng)
            p_value = model.p_value(batch)
            stood.append(level.rate)
            window.add(batch, np.log(p_value) / np.log(level.rate))
            level.observe(p_value)
        normal, anomalous = np.sort(model.p_value(fresh)), np.sort(model.p_value(odd))
        ratios.append(np.searchsorted(normal, stood, side="right").mean() / len(fresh) / ALPHA)
        found = np.searchsorted(anomalous, stood, side="right").mean()
        missed.append(1.0 - found / np.searchsorted(anomalous, normal[int(ALPHA * len(fresh))], side="right"))
    shown = np.round(ratios, 2).tolist()
    assert min(ratios) >= 0.67, shown
    assert max(ratios) <= 1.5, shown
    assert max(missed) <= 0.05, np.round(missed, 3).tolist()


def faulty_rows(n: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """[n, 4] with faults of 40 rows that come and go: half of their rows are not strange enough to be flagged."""
    x = rng.normal(size=(n, 4))
    for start in np.flatnonzero(rng.random(n // 40) < share) * 40:
        x[start : start + 40, 0] += 5.0 * np.sin(np.linspace(0.0, np.pi, 40))
    return x


def test_the_weak_ends_of_faults_do_not_lift_the_threshold_of_a_small_budget() -> None:
    """In the window they would be many more than the few inliers that a threshold of 0.001 is set by."""
    alpha, rng = 0.001, np.random.default_rng(5)
    window = InlierWindow(WINDOW, 4, alpha)
    window.add(rows(WINDOW, 0.0, rng), np.full(WINDOW, np.nan))
    fresh = rows(100_000, 0.0, rng)
    ratios = []
    for k in range(8):
        model = StubModel(window, k, alpha)
        level = AdaptiveLevel(alpha)
        stood = []
        for _ in range(EVERY // 1000):
            batch = faulty_rows(1000, 0.03, rng)
            p_value = model.p_value(batch)
            stood.append(level.rate)
            window.add(batch, np.log(p_value) / np.log(level.rate))
            level.observe(p_value)
        normal = np.sort(model.p_value(fresh))
        ratios.append(np.searchsorted(normal, stood, side="right").mean() / len(fresh) / alpha)
    assert min(ratios) >= 0.67 and max(ratios) <= 1.5, np.round(ratios, 2).tolist()


def p_values(n: int, rng: np.random.Generator, factor: float = 1.0) -> np.ndarray:
    """Of n inliers under a model that flags `factor` times its budget."""
    return np.minimum(1.0, rng.random(n) / factor)


def settled(level: AdaptiveLevel, p_value: np.ndarray) -> float:
    """Where the level stands after these rows, over the budget."""
    for batch in np.split(p_value, len(p_value) // 1000):
        level.observe(batch)
    return level.rate / level.budget


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("anomaly_share", [0.0, 0.03])
def test_the_level_makes_up_for_a_model_that_is_off(factor: float, anomaly_share: float) -> None:
    rng = np.random.default_rng(1)
    p_value = p_values(100_000, rng, factor)
    odd = rng.random(len(p_value)) < anomaly_share
    p_value[odd] = ALPHA ** rng.uniform(0.8, 8.0, int(odd.sum()))
    assert settled(AdaptiveLevel(ALPHA), p_value) == pytest.approx(1.0 / factor, rel=0.25)


def test_a_burst_of_faults_does_not_lift_the_threshold_over_itself() -> None:
    rng = np.random.default_rng(2)
    level = AdaptiveLevel(ALPHA)
    before = settled(level, p_values(20_000, rng))
    assert settled(level, np.full(3000, ALPHA**3)) == pytest.approx(before, rel=0.1)


def test_faults_that_look_like_inliers_move_the_level_no_further_than_its_bound() -> None:
    rng = np.random.default_rng(3)
    level = AdaptiveLevel(ALPHA)
    assert settled(level, ALPHA ** rng.uniform(0.95, 1.05, 20_000)) == pytest.approx(1.0 / BOUND, rel=0.05)
    assert settled(AdaptiveLevel(ALPHA), np.ones(100_000)) <= BOUND


def test_the_level_is_the_same_however_rows_are_cut_into_batches() -> None:
    """A poll of a slow stream brings one row: alone it does not show that it lies in a fault."""
    rng = np.random.default_rng(6)
    p_value = rng.random(20_000)
    for start in range(500, 20_000, 1000):
        p_value[start : start + 40] = ALPHA ** (2.5 * np.sin(np.linspace(0.0, np.pi, 40)) + rng.normal(0.0, 0.2, 40))
    p_value = np.minimum(1.0, p_value)
    at_once, one_by_one = AdaptiveLevel(ALPHA), AdaptiveLevel(ALPHA)
    for batch in np.split(p_value, 20):
        at_once.observe(batch)
    for row in p_value:
        one_by_one.observe(row[None])
    assert one_by_one.rate == pytest.approx(at_once.rate, rel=0.02)
    assert one_by_one.rate == pytest.approx(ALPHA, rel=0.3)


def test_another_model_begins_at_the_budget() -> None:
    level = AdaptiveLevel(ALPHA)
    settled(level, p_values(20_000, np.random.default_rng(4), 3.0))
    assert level.rate < 0.5 * ALPHA
    level.swapped()
    assert level.rate == ALPHA


class TwiceTheBudget:
    """A detector by whose p-values twice as many inliers are flagged as the budget allows."""

    false_alarm_rate = ALPHA
    spread = np.ones(1)

    def judge(self, x: np.ndarray, sequence: np.ndarray) -> Findings:
        p_value = np.exp(x[:, 0]) / 2.0
        return Findings(np.log(p_value) / np.log(ALPHA), p_value, x)

    def explain(self, x: np.ndarray, describes: object) -> tuple[np.ndarray, np.ndarray]:
        return x, np.ones_like(x)


def test_the_scorer_flags_by_the_level_and_leaves_the_p_value_as_it_is() -> None:
    schema = RecordSchema(features=["log_share"])
    scorer = Scorer(schema, None, adapts=True)
    scorer.swap(LoadedModel("v", 0.0, TwiceTheBudget()))  # type: ignore[arg-type]  # what a scorer needs of a detector
    decoder, rng = Float32Decoder(schema), np.random.default_rng(5)
    flagged = []
    for _ in range(50):
        values = [row.tobytes() for row in np.log(rng.random((1000, 1))).astype(np.float32)]
        batch = decoder.decode(raw(values)).batch
        assert scorer.level is not None
        level = scorer.level.rate
        verdicts = scorer.score(batch, scorer.extend(batch))
        np.testing.assert_allclose(verdicts.p_value, np.exp(batch.values[:, 0]) / 2.0)
        np.testing.assert_array_equal(verdicts.is_anomaly, verdicts.score >= 1.0)
        np.testing.assert_allclose(verdicts.score, np.log(verdicts.p_value) / np.log(level))
        np.testing.assert_allclose(verdicts.score / scorer.stretch, np.log(verdicts.p_value) / np.log(ALPHA))
        flagged.append(verdicts.is_anomaly.mean() / ALPHA)
    assert flagged[0] > 1.5
    assert np.mean(flagged[20:]) == pytest.approx(1.0, abs=0.35)


def test_a_value_beyond_float32_is_flagged_at_whatever_level() -> None:
    schema = RecordSchema(features=["log_share"])
    scorer = Scorer(schema, None, adapts=True)
    scorer.swap(LoadedModel("v", 0.0, TwiceTheBudget()))  # type: ignore[arg-type]  # what a scorer needs of a detector
    assert scorer.level is not None
    scorer.level.rate = ALPHA / 4.0
    batch = Float32Decoder(schema).decode(raw([np.float32(value).tobytes() for value in (-0.1, np.inf, -0.2)])).batch
    batch.values[1] = np.log(2.0 * ALPHA)
    assert scorer.score(batch, batch.values).is_anomaly.tolist() == [False, True, False]


def test_rows_a_second_are_those_that_arrive_whatever_is_read() -> None:
    """Two rows in each record, five records a second; 6,000 wait at the start and are read within a minute."""
    rate = RowRate()
    for minute in range(5):
        read = 0 if minute == 0 else 6000 + 300 * minute
        waiting = 6000 if minute == 0 else 0
        rate.observe(60.0 * minute, 2 * read, read, {("plant", 0): waiting})
        assert (rate.per_second is None) == (minute < 3)
    assert rate.per_second == pytest.approx(10.0)


def test_a_minute_in_which_partitions_came_or_went_is_not_measured() -> None:
    rate = RowRate()
    for minute in range(5):
        rate.observe(60.0 * minute, 600 * minute, 600 * minute, {("plant", 0): 0})
    rate.observe(300.0, 3000, 3000, {("plant", 0): 0, ("plant", 1): 1_000_000})
    rate.observe(360.0, 3600, 3600, {("plant", 0): 0, ("plant", 1): 1_000_000})
    assert rate.per_second == pytest.approx(10.0)


def test_the_benchmark_writes_an_outcome_for_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run: the detector itself, on a plant with faults."""
    monkeypatch.setattr(budget, "JUDGED_ROWS", 20_000)
    file = tmp_path / "budget.json"
    sizes = ["--window", "5000", "--every", "10000"]
    few = ["--plants", "1", "--retrains", "1", "--alphas", "0.01", "--shares", "0.01"]
    assert budget.main([*few, *sizes, "--json", str(file)]) == 0
    outcomes = json.loads(file.read_text())
    assert [one["after_retrains"] for one in outcomes] == [0, 1]
    figures = {"stream", "alpha", "anomaly_share", "after_retrains", "alert_ratio", "missed"}
    assert outcomes[0].keys() == {*figures, "window_rows", "judged_rows"}
    for one in outcomes:
        assert 0.3 < one["alert_ratio"] < 3.0
        assert one["missed"] < 0.2
