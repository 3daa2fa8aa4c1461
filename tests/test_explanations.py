"""Explanations of flagged rows: who is blamed, what was expected, and the benchmark that measures both."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import explanations
from benchmarks.explanations import Faults, causes_of, false_rows, hit_rate, judge, mean_of_stretches, plant_case
from stream_ad.detector import Detector, Recipe
from stream_ad.detector.temporal import TemporalContext

Float64 = NDArray[np.float64]

SHORT = Recipe(
    autoencoder_steps=100, rarity_steps=50, vae_steps=50, classifier_steps=80, synthetic_outliers=500, cross_fit_below=0
)
TINY = replace(SHORT, autoencoder_steps=30, rarity_steps=20, vae_steps=20, classifier_steps=20)
MIXING = np.array([[1.0, 0.8, -0.6, 0.0, 0.5, 1.2], [0.0, 0.5, 0.9, 1.0, -0.7, 0.3]])


def linear(n: int, seed: int) -> Float64:
    """Six features that are linear in two hidden causes, but for a little noise."""
    rng = np.random.default_rng(seed)
    return 40.0 + 5.0 * rng.normal(size=(n, 2)) @ MIXING + 0.2 * rng.normal(size=(n, 6))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(0.01, "cpu", recipe=SHORT).fit(linear(1500, seed=0))


# The detector's explanations


def test_the_false_feature_is_named_and_its_true_value_expected(detector: Detector) -> None:
    truth = linear(60, seed=1)
    which = np.arange(60) % 6
    rows = truth + 7.0 * np.eye(6)[which] * np.where(np.arange(60) % 4 < 2, 1.0, -1.0)[:, None]
    expected, share = detector.explain(rows)
    assert (share.argmax(axis=1) == which).mean() > 0.9
    assert np.median(np.abs(expected - truth)[np.arange(60), which]) < 0.5


def test_shares_are_not_negative_and_sum_to_one_whatever_the_row(detector: Detector) -> None:
    rows = linear(40, seed=2)
    rows[::3] += 50.0
    rows[1::5, 2], rows[2::5, 4], rows[3::5] = np.nan, np.inf, np.nan
    expected, share = detector.explain(rows)
    assert (share >= 0.0).all()
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert np.isfinite(expected).all()


def test_a_missing_value_is_not_to_blame(detector: Detector) -> None:
    rows = linear(30, seed=3)
    rows[:, 1] += 8.0
    rows[:, 4] = np.nan
    share = detector.explain(rows)[1]
    assert share[:, 4].max() < 1e-6
    assert (share.argmax(axis=1) == 1).mean() > 0.8


def test_where_many_features_are_off_all_of_them_are_blamed(detector: Detector) -> None:
    rows = linear(40, seed=4)
    off = np.array([0, 2, 3, 5])
    rows[:, off] = 40.0 + np.array([60.0, 60.0, -60.0, -60.0])
    share = detector.explain(rows)[1]
    assert share[:, off].min() > 0.05
    assert share[:, off].sum(axis=1).mean() > 0.8


def test_all_columns_that_tell_of_a_feature_are_tried_out_together() -> None:
    context = TemporalContext(6, 8)
    detector = Detector(0.01, "cpu", recipe=SHORT).fit(context.extend(linear(1500, seed=0)))
    truth = linear(80, seed=5)
    faulty = truth.copy()
    faulty[20:, 1] += 8.0
    rows = TemporalContext(6, 8).extend(faulty)[30:]
    expected, share = detector.explain(rows, context.describes)
    assert expected.shape == share.shape == (50, 6)
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert (share.argmax(axis=1) == 1).mean() > 0.9
    # The rolling mean has the fault in it, too: filled in beside it the value would be expected where it is.
    assert np.median(np.abs(expected[:, 1] - truth[30:, 1])) < 1.5


# The benchmark


def test_hit_rates_are_what_one_counts_by_hand() -> None:
    ranking = np.array([[0.5, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4], [0.0, 0.9, 0.1, 0.0]])
    causes = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)
    np.testing.assert_allclose(hit_rate(ranking, causes, 1.0), [1 / 2, 0.0, 1.0])
    # Three of four features for two causes, one for one cause, four for three.
    np.testing.assert_allclose(hit_rate(ranking, causes, 1.5), [1 / 2, 0.0, 1.0])
    causes[0] = [True, False, False, True]
    np.testing.assert_allclose(hit_rate(ranking, causes, 1.5)[0], 1.0)


def test_each_stretch_counts_the_same() -> None:
    assert mean_of_stretches(np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 9])) == 0.5
    assert np.isnan(mean_of_stretches(np.empty(0), np.empty(0, dtype=np.int64)))


def test_causes_are_read_with_rows_from_zero_and_features_from_one() -> None:
    rows, causes, stretch = causes_of("2-3:1,3\n7-7:2\n", 3)
    np.testing.assert_array_equal(rows, [2, 3, 7])
    np.testing.assert_array_equal(causes, [[True, False, True], [True, False, True], [False, True, False]])
    np.testing.assert_array_equal(stretch, [0, 0, 1])


def test_only_faults_count_that_are_flagged_and_would_not_be_without_the_fault() -> None:
    truth = np.zeros((4, 2))
    truth[3] = 9.0
    rows = np.array([[5.0, 0.0], [0.0, 5.0], [0.5, 0.0], [9.0, 1.0]])
    faults = Faults("moved", rows, np.eye(2, dtype=bool)[[0, 1, 0, 1]], np.arange(4), truth)
    stub = SimpleNamespace(
        spread=np.array([2.0, 2.0]),
        score=lambda x: np.abs(x).max(axis=1),
        judge=lambda x: SimpleNamespace(score=np.abs(x).max(axis=1), reconstruction=x - np.array([4.0, 1.0])),
        explain=lambda x, describes: (x * 0.2, np.abs(x)),
    )
    found = judge(stub, faults, None)  # type: ignore[arg-type]
    assert found["stream_ad"] == {
        "rows": 4.0,
        "flagged": 0.75,
        "faults": 2.0,
        "hit_100": 1.0,
        "hit_150": 1.0,
        "error": 0.5,
    }
    # The residual blames the first feature of both; its reconstruction is 0.5 and 2 spreads off.
    assert found["residual alone"]["hit_100"] == 0.5
    assert found["residual alone"]["error"] == pytest.approx((0.5 + 2.0) / 2)


@pytest.mark.parametrize("kind", ["replaced", "moved", "frozen"])
def test_one_feature_of_each_row_is_false(kind: str) -> None:
    train, inliers = linear(500, seed=6), linear(200, seed=7)
    faults = false_rows(kind, train, inliers, np.random.default_rng(0))
    assert faults.truth is not None
    np.testing.assert_array_equal(faults.rows != faults.truth, faults.causes)
    np.testing.assert_array_equal(faults.causes.sum(axis=1), 1)
    false, true = faults.rows[faults.causes], faults.truth[faults.causes]
    if kind == "replaced":
        column = faults.causes.argmax(axis=1)
        ranks = [[(train[:, j] < v).mean() for j, v in zip(column, values, strict=True)] for values in (false, true)]
        assert np.abs(np.subtract(*ranks)).min() > 0.3
    elif kind == "moved":
        assert np.abs(false - true).min() > 3.0 * train.std(axis=0).min()
    else:
        assert len(np.unique(false)) <= 6
        assert np.isin(false, train).all()


def test_the_plants_rows_without_faults_are_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "PLANT_ROWS", 3000)
    monkeypatch.setattr(explanations, "PLANT_TRAINING_ROWS", 480)
    case = plant_case(0, with_context=False)
    assert len(case.train) == 480
    assert sum(len(faults.rows) for faults in case.faults) > 50
    for faults in case.faults:
        assert faults.truth is not None
        assert (faults.rows == faults.truth)[~faults.causes].all()


def test_it_measures_a_folder_and_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "table.npz", X=linear(400, seed=8), y=np.arange(400) % 40 == 0)
    stream = linear(300, seed=9)
    np.savez(folder / "stream.npz", train=stream, test=stream, test_labels=np.zeros(300))
    (folder / "stream.causes.txt").write_text("100-120:1,2\n200-203:6\n")
    monkeypatch.setattr(explanations, "Detector", partial(Detector, recipe=TINY))
    command = ["--data", str(folder), "--plants", "0", "--out", str(tmp_path / "results.csv")]
    assert explanations.main(command) == 0
    table = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["causes", "replaced", "moved", "frozen"]
    written = (tmp_path / "results.csv").read_text()
    lines = list(csv.DictReader(written.splitlines()))
    assert {line["method"] for line in lines if line["dataset"] == "stream"} == {
        "stream_ad [causes]",
        "residual alone [causes]",
    }
    assert {float(line["faults"]) for line in lines if line["dataset"] == "stream"} == {2.0}
    assert explanations.main(command) == 0
    assert (tmp_path / "results.csv").read_text() == written
