"""The benchmark on tables: metrics, protocols, results that are taken up again, tables."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import speed, tabular
from benchmarks.metrics import auroc, average_precision
from benchmarks.peers import HALF_SPACE_ROWS, PEERS, Method, on_standardised_rows
from benchmarks.protocols import (
    Contamination,
    Protocol,
    Split,
    TooFewAnomalies,
    array_order,
    capped,
    fresh_inliers,
    with_missing,
)
from benchmarks.results import OtherResults, Result, Results
from benchmarks.tables import Group, calibration, levels, summary
from stream_ad.detector import Recipe

TINY = Recipe(
    autoencoder_steps=60, rarity_steps=30, vae_steps=30, classifier_steps=30, synthetic_outliers=200, cross_fit_below=0
)
FIGURES = ("auroc", "average_precision", "fit_seconds", "score_seconds")


# Metrics


@pytest.mark.parametrize(
    ("labels", "scores", "area", "precision"),
    [
        # The example in scikit-learn's documentation of both figures.
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75, 0.8333333333333333),
        ([0, 1, 0, 1], [1.0, 1.0, 1.0, 1.0], 0.5, 0.5),
        # Computed with scikit-learn 1.9.1: ties across the classes.
        ([1, 0, 1, 0, 0, 1, 0], [3.0, 3.0, 2.0, 1.0, 2.0, 2.0, 0.0], 0.7083333333333333, 0.5666666666666667),
        ([0, 0, 1], [0.0, 1.0, 2.0], 1.0, 1.0),
    ],
)
def test_metrics_are_those_of_scikit_learn(
    labels: list[int], scores: list[float], area: float, precision: float
) -> None:
    anomalous = np.array(labels, dtype=bool)
    assert auroc(anomalous, np.array(scores)) == pytest.approx(area)
    assert average_precision(anomalous, np.array(scores)) == pytest.approx(precision)


@pytest.mark.parametrize("figure", [auroc, average_precision])
def test_metrics_refuse_scores_that_are_no_numbers_and_labels_of_one_kind(figure: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        figure(np.array([True, False]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="both anomalies and inliers"):
        figure(np.array([False, False]), np.array([1.0, 2.0]))


# Protocols


def numbered(n: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, 2] whose first feature is their number; one in `every` is an anomaly."""
    return np.c_[np.arange(n), np.ones(n)].astype(float), np.arange(n) % every == 0


def test_array_order_trains_on_the_first_half_of_the_normal_rows() -> None:
    x, anomalous = numbered(1000, 10)
    split = array_order(x, anomalous, seed=0)
    assert split.train[:, 0].tolist() == [i for i in range(1000) if i % 10][:450]
    assert sorted(split.test[:, 0]) == sorted([*range(0, 500, 10), *range(500, 1000)])
    assert (split.labels == (split.test[:, 0] % 10 == 0)).all()


@pytest.mark.parametrize(("n", "drawn", "replace"), [(300, 1000, True), (60_000, 50_000, False)])
def test_array_order_resamples_with_the_legacy_generator(n: int, drawn: int, replace: bool) -> None:
    x, anomalous = numbered(n, 10)
    np.random.seed(3)
    order = np.random.choice(n, drawn, replace=replace)
    normal = order[order % 10 != 0]
    first, again = array_order(x, anomalous, seed=3), array_order(x, anomalous, seed=3)
    assert first.train[:, 0].tolist() == normal[: round(len(normal) / 2)].tolist()
    assert len(first.train) + len(first.test) == drawn
    assert (first.test == again.test).all()


def save(folder: Path, name: str, **arrays: np.ndarray) -> Path:
    file = folder / f"{name}.npz"
    np.savez(file, **arrays)
    return file


def test_a_random_half_of_the_normal_rows_trains_in_their_order(tmp_path: Path) -> None:
    x, anomalous = numbered(300, 10)
    file = save(tmp_path, "a", X=x, y=anomalous.astype(int))
    split, other = (Protocol("random-half").split(file, seed) for seed in (0, 1))
    number = split.train[:, 0]
    assert len(number) == 135, "nothing is resampled"
    assert (np.diff(number) > 0).all()
    assert not (number % 10 == 0).any()
    assert sorted([*number, *split.test[:, 0]]) == list(range(300))
    assert number.tolist() != other.train[:, 0].tolist()


def test_a_file_with_its_own_split_is_judged_by_it(tmp_path: Path) -> None:
    x, anomalous = numbered(40, 4)
    file = save(tmp_path, "a", train=x[:10].astype(int), test=x, test_labels=anomalous.astype(np.uint8))
    split = Protocol("array-order").split(file, 0)
    assert (split.train == x[:10]).all()
    assert split.train.dtype == np.float64
    assert (split.labels == anomalous).all()


def test_a_file_with_other_arrays_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path, "a", rows=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="holds the arrays rows; it takes X and y, or"):
        Protocol().split(file, 0)


def test_caps_keep_the_order_of_rows_and_the_share_of_anomalies() -> None:
    x, anomalous = numbered(1000, 10)
    split = capped(Split(x, x, anomalous), 100, 200, seed=0)
    assert (len(split.train), len(split.test), int(split.labels.sum())) == (100, 200, 20)
    assert (np.diff(split.train[:, 0]) > 0).all()
    assert (split.labels == (split.test[:, 0] % 10 == 0)).all()
    rare = capped(Split(x, x, np.arange(1000) == 7), None, 50, seed=0)
    assert (len(rare.train), len(rare.test), int(rare.labels.sum())) == (1000, 50, 1)


def contaminated(kind: str, seed: int = 0) -> tuple[Split, np.ndarray]:
    """A split with 5 % of anomalies among 950 training rows, and which of its training rows they are."""
    x, anomalous = numbered(2000, 10)
    split = Split(x[~anomalous][:950], x, anomalous)
    after = Contamination(0.05, kind).apply(split, seed)  # type: ignore[arg-type]
    return after, after.train[:, 0] % 10 == 0


def test_a_burst_is_one_contiguous_stretch_of_test_anomalies() -> None:
    split, planted = contaminated("burst")
    places = np.flatnonzero(planted)
    assert len(places) == round(0.05 * len(split.train))
    assert places[-1] - places[0] == len(places) - 1
    assert (np.diff(split.train[~planted][:, 0]) > 0).all(), "the others keep their order"
    assert not set(split.train[planted][:, 0]) & set(split.test[:, 0]), "what trains is not judged"
    assert int(split.labels.sum()) == 200 - len(places)
    assert np.flatnonzero(contaminated("burst", seed=1)[1])[0] != places[0]


def test_scattered_anomalies_are_all_over_the_training_rows() -> None:
    split, planted = contaminated("scattered")
    places = np.flatnonzero(planted)
    assert len(places) == round(0.05 * len(split.train))
    assert np.count_nonzero(np.diff(places) > 1) > len(places) // 2
    assert places[0] < 200
    assert places[-1] > 800


def test_never_more_than_half_of_the_anomalies_are_taken() -> None:
    x, anomalous = numbered(200, 20)
    split = Split(x[:100], x, anomalous)
    Contamination(0.04, "burst").apply(split, 0)
    with pytest.raises(TooFewAnomalies, match="10 % burst takes 11 anomalies, more than half of the 10"):
        Contamination(0.1, "burst").apply(split, 0)


def test_that_share_of_the_values_is_missing() -> None:
    rows = np.ones((1000, 10))
    gaps = with_missing(rows, 0.3, seed=0)
    assert np.isnan(gaps).mean() == pytest.approx(0.3, abs=0.02)
    assert np.isnan(gaps).any(axis=0).all()
    assert not np.isnan(rows).any()


def test_fresh_inliers_are_drawn_from_both_parts_of_a_file_and_hold_no_anomaly(tmp_path: Path) -> None:
    x, anomalous = numbered(400, 10)
    split = save(tmp_path, "a", train=x[:200][~anomalous[:200]], test=x[200:], test_labels=anomalous[200:])
    for file in (split, save(tmp_path, "b", X=x, y=anomalous)):
        train, fresh = fresh_inliers(file, Protocol(), seed=0)
        assert (len(train), len(fresh)) == (180, 180)
        assert sorted([*train[:, 0], *fresh[:, 0]]) == [i for i in range(400) if i % 10]
        assert 60 < np.count_nonzero(train[:, 0] < 200) < 120


# Peers


def test_peers_get_standardised_rows_and_the_mean_for_what_is_missing() -> None:
    seen = {}

    def method(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        seen["train"] = train
        return lambda rows: rows.sum(axis=1)

    train = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan]])
    score = on_standardised_rows(method, train, 0)
    assert seen["train"].tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert score(np.array([[4.0, 5.0, 0.0], [np.nan, 7.0, np.inf]])).tolist() == [2.0, 2.0]


def test_half_space_trees_tell_a_far_row_from_those_they_learned() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(600, 3))
    assert len(train) < HALF_SPACE_ROWS
    score = PEERS["HalfSpaceTrees"](train, 0)(np.vstack([rng.normal(size=(20, 3)), np.full((1, 3), -8.0)]))
    assert score.argmax() == 20


@pytest.mark.parametrize("method", [tabular.stream_ad, *PEERS.values()], ids=["stream_ad", *PEERS])
def test_a_measurement_can_be_sent_to_another_process(method: Method) -> None:
    call = partial(tabular.measure, Path("a.npz"), 0, "name", method, Protocol(), Contamination(0.02, "burst"), [0.0])
    sent = pickle.loads(pickle.dumps(call))
    assert sent.args[:3] == call.args[:3]
    assert sent.args[4:] == call.args[4:]


# Results


def a_result(seed: int = 0, method: str = "stream_ad", dataset: str = "a", value: float = 0.5) -> Result:
    return Result(dataset, method, seed, dict.fromkeys(FIGURES, value))


def test_results_are_found_again_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "r.csv"
    Results(path, FIGURES, {"split": "x"}).add(a_result(method="a, b [2 % burst]"))
    again = Results(path, FIGURES, {"split": "x"})
    assert again.rows == [a_result(method="a, b [2 % burst]")]
    assert ("a", "a, b [2 % burst]", 0) in again
    assert ("a", "a, b [2 % burst]", 1) not in again


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    results = Results(path, FIGURES, {})
    results.add(a_result(0))
    whole = path.read_text()
    results.add(a_result(1))
    path.write_text(path.read_text()[:-5])
    assert Results(path, FIGURES, {}).rows == [a_result(0)]
    assert path.read_text() == whole


def test_results_of_other_settings_or_columns_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    Results(path, FIGURES, {"max_train": 1000})
    with pytest.raises(OtherResults, match=r"holds results of \{'max_train': 1000\}.*another --out"):
        Results(path, FIGURES, {"max_train": None})
    with pytest.raises(OtherResults, match=r"has the columns .*another --out"):
        Results(path, ("rows",), {"max_train": 1000})


# Tables


def test_the_summary_compares_on_the_sets_that_all_methods_have() -> None:
    figures = {"stream_ad": [0.9, 0.6, 0.7], "KNN": [0.8, 0.7, 0.4], "LOF": [0.5, 0.8]}
    rows = [
        a_result(method=method, dataset=name, value=value)
        for method, values in figures.items()
        for name, value in zip("abc", values, strict=False)
    ]
    rows.append(a_result(1, "stream_ad", "a", 0.7))
    table = summary(rows[::-1], [Group("in all", frozenset("abc")), Group("large", frozenset("b"))])
    assert table.splitlines()[4].startswith("| stream_ad |")
    assert "2 in all / 1 large" in table
    assert "LOF lacks 1" in table
    lines = {line.split(" |")[0]: line for line in table.splitlines()}
    # On a: 0.8, 0.8, 0.5; on b: 0.6, 0.7, 0.8. The two that are equal share ranks 1 and 2.
    assert lines["| stream_ad"] == "| stream_ad | 70.0 / 60.0 | 70.0 / 60.0 | 70.0 / 60.0 | 2.2 / 3.0 |  |  |  |"
    assert lines["| KNN"].endswith("| 0 of 2 / 0 of 1 | -5.0 ± 5.0 / -10.0 | -10.0 / -10.0 |")
    assert lines["| LOF"].endswith("| 1 of 2 / 0 of 1 | +5.0 ± 25.0 / -20.0 | -20.0 / -20.0 |")


def test_the_worst_set_against_knn_is_named() -> None:
    figures = {("stream_ad", "a"): 0.9, ("stream_ad", "b"): 0.6, ("KNN", "a"): 0.8, ("KNN", "b"): 0.7}
    rows = [a_result(method=method, dataset=name, value=value) for (method, name), value in figures.items()]
    table = summary(rows, [Group("in all", frozenset("ab"))])
    assert table.endswith("Worst against KNN: b, 10.0 points behind (60.0, KNN 70.0).")


def test_levels_show_the_change_on_the_sets_that_have_them() -> None:
    rows = [
        a_result(dataset="a", value=0.9),
        a_result(dataset="b", value=0.5),
        a_result(dataset="a", method="stream_ad [2 % burst]", value=0.8),
        a_result(dataset="a", method="stream_ad [10 % burst]", value=0.7),
    ]
    lines = levels(rows, [Group("in all", frozenset("ab"))]).splitlines()
    assert lines[2:] == ["| 2 % burst | 1 | 80.0 (-10.0) |", "| 10 % burst | 1 | 70.0 (-20.0) |"]
    assert levels(rows[:2], [Group("in all", frozenset("ab"))]) == ""


def test_calibration_counts_the_runs_inside_the_binomial_interval() -> None:
    # 10,000 rows at 1 %: 99 % of all draws lie between 75 and 127.
    rows = [Result("a", "stream_ad", i, {"rows": 1e4, "alarms_at_0.01": n}) for i, n in enumerate((75, 127, 74, 128))]
    assert calibration(rows, [0.01]).splitlines()[-1] == "| 0.01 | 4 | 50.0 | 25.0 | 25.0 | 0.01010 |"


# The whole command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two small sets, one of each kind, whose anomalies are far away."""
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(1000, 3)), rng.normal(6.0, 1.0, size=(60, 3))])
    y = np.arange(len(x)) >= 1000
    folder = tmp_path / "data"
    folder.mkdir()
    save(folder, "halves", X=x, y=y)
    save(folder, "own", train=x[:500], test=x[500:], test_labels=y[500:])
    return folder


def distance(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A method that takes no time: the distance to the mean."""
    return lambda rows: np.nansum(np.abs(rows - train.mean(axis=0)), axis=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_detector_is_measured_on_both_kinds_of_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabular, "stream_ad", partial(tabular.stream_ad, recipe=TINY))
    out = tmp_path / "r.csv"
    assert tabular.main(["--data", str(data), "--max-train", "200", "--missing", "0.1", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert len(rows) == 4
    assert all(float(row["auroc"]) > 0.9 and float(row["fit_seconds"]) > 0 for row in rows)


def test_a_run_measures_all_that_is_asked_for_and_a_second_one_only_what_is_new(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tabular, "stream_ad", distance)
    out = tmp_path / "r.csv"
    command = ["--data", str(data), "--max-train", "200", "--out", str(out), "--contamination", "0.05:burst"]
    assert tabular.main([*command, "--missing", "0.1"]) == 0
    rows = rows_of(out)
    assert list(rows[0]) == ["dataset", "method", "seed", *FIGURES]
    kinds = ["stream_ad", "stream_ad [10 % missing]", "stream_ad [5 % burst]"]
    assert sorted((row["dataset"], row["method"]) for row in rows) == [(d, k) for d in ("halves", "own") for k in kinds]
    before = out.read_text()
    assert tabular.main([*command, "--peers", "HalfSpaceTrees"]) == 0
    assert out.read_text().startswith(before)
    with pytest.raises(SystemExit, match="give another --out"):
        tabular.main([*command, "--max-test", "100"])
    added = rows_of(out)[len(rows) :]
    assert {row["method"] for row in added} == {"HalfSpaceTrees", "HalfSpaceTrees [5 % burst]"}
    shown = capsys.readouterr().out
    assert "2 in all / 2 with 1000 rows or more before resampling" in shown
    assert "| 5 % burst | 2 / 2 |" in shown


def test_what_fails_is_shown_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    def fails(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        raise RuntimeError("too hot")

    methods = {"fails": fails, "distance": distance}
    out = tmp_path / "r.csv"
    options = tabular.arguments(["--data", str(data), "--out", str(out), "--contamination", "0.3:burst"])
    troubles = tabular.compare(options.files, methods, options, Console(quiet=True))
    assert [row["method"] for row in rows_of(out)] == ["distance", "distance"]
    assert list(troubles.failed) == ["fails: RuntimeError: too hot"]
    assert len(troubles.failed["fails: RuntimeError: too hot"]) == 2
    assert all("more than half of the 60" in what for what in troubles.skipped)


def test_a_failure_is_the_exit_code(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: np.full(len(rows), np.nan)

    monkeypatch.setattr(tabular, "stream_ad", blind)
    assert tabular.main(["--data", str(data)]) == 1


def test_calibration_counts_alarms_on_fresh_inliers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stream_ad.detector.detector.Recipe", lambda: TINY)
    out = tmp_path / "c.csv"
    assert tabular.main(["--data", str(data), "--calibration", "--max-train", "300", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert [float(row["rows"]) for row in rows] == [500, 500]
    assert all(0 <= float(row["alarms_at_0.001"]) <= float(row["alarms_at_0.01"]) < 50 for row in rows)
    assert "| 0.01 | 2 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "KNNN"], "unknown: KNNN; there are KNN, DTE-NP"),
        (["--contamination", "0.02:flood"], "say 0.02:burst or 0.02:scattered"),
        (["--missing", "10"], "must lie between 0 and 1"),
        (["--calibration", "--missing", "0.1"], "--calibration stands alone"),
    ],
)
def test_wrong_arguments_say_what_is_right(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tabular.main(["--data", str(data), *arguments])
    assert message in capsys.readouterr().err


def test_a_folder_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tabular.main(["--data", str(tmp_path)])
    assert "there is no npz file in" in capsys.readouterr().err


def test_speed_is_measured_for_batches_of_each_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stream_ad.detector.detector.Recipe", lambda: TINY)
    assert speed.main(["--features", "3", "--window", "100", "--batches", "30", "100"]) == 0
    header, _, line = (row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines())
    assert header[2:4] == ["rows/s, batches of 30", "rows/s, batches of 100"]
    assert line[0] == "3"
    assert all(int(figure.replace(",", "")) > 0 for figure in line[2:5])
    assert line[5].endswith(" MB")
