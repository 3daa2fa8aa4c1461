"""The benchmark on streams: VUS-PR, both kinds of folder, results that are taken up again, tables."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import series
from benchmarks.results import Result
from benchmarks.vus import soften, vus_pr

Float64 = NDArray[np.float64]


# VUS-PR


def test_vus_pr_of_a_small_case_is_what_one_computes_by_hand() -> None:
    labels, score = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.2, 0.8])
    # Recall 1/2, 1/2, 1, 1 at precision 1, 1/2, 2/3, 1/2, from precision 1 at recall 0.
    assert vus_pr(labels, score, window=0) == pytest.approx(1 / 2 * 1 + 1 / 2 * (1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("window", "reference"), [(0, 0.5083827827980443), (30, 0.6473907845040439), (100, 0.7114897156910357)]
)
def test_vus_pr_is_that_of_the_reference(window: int, reference: float) -> None:
    """Means of `metricor().RangeAUC` of the package vus 0.0.6 over all windows up to this one."""
    row = np.arange(600)
    labels = (((row >= 100) & (row < 140)) | ((row >= 150) & (row < 152)) | ((row >= 400) & (row < 500))).astype(int)
    score = np.round(np.sin(row * 0.7) + np.cos(row * 0.11) + 1.5 * np.roll(labels, 5), 2)
    assert vus_pr(labels, score, window) == pytest.approx(reference, abs=1e-9)


def test_slopes_fall_off_on_both_sides_and_end_with_the_stream() -> None:
    soft = soften(np.array([0, 0, 0, 0, 1, 0]), width=4)
    np.testing.assert_allclose(soft, [0, 0, np.sqrt(1 / 2), np.sqrt(3 / 4), 1, np.sqrt(3 / 4)])


def test_a_perfect_score_reaches_one_and_a_late_one_is_forgiven_by_slopes_only() -> None:
    labels = np.zeros(500, dtype=int)
    labels[200:260] = 1
    late = np.roll(labels, 10).astype(float)
    assert vus_pr(labels, labels.astype(float), window=0) == pytest.approx(1.0)
    assert vus_pr(labels, late, window=0) < vus_pr(labels, late, window=60) < 1.0


def test_finding_one_of_two_stretches_counts_half_of_what_finding_some_of_both_does() -> None:
    labels, one, both = (np.zeros(400, dtype=int) for _ in range(3))
    labels[100:120] = labels[300:320] = 1
    one[100:120] = 1
    both[100:110] = both[300:310] = 1
    missed = np.arange(400) / 1e6  # the rest in an order that finds the other half late
    assert vus_pr(labels, one - missed * labels, 0) < vus_pr(labels, both - missed * labels, 0)


def test_vus_pr_needs_an_anomaly() -> None:
    with pytest.raises(ValueError, match="no row is anomalous"):
        vus_pr(np.zeros(10, dtype=int), np.arange(10.0))


# The command


def largest(train: Float64, seed: int) -> series.Scorer:
    """A method without any cost: the largest distance of a feature from its mean in training, in deviations."""
    mean, spread = np.nanmean(train, axis=0), np.nanstd(train, axis=0) + 1e-9
    return lambda rows: np.nanmax(np.abs(rows - mean) / spread, axis=1)


def refuses(train: Float64, seed: int) -> series.Scorer:
    raise ValueError("cannot learn this")


@pytest.fixture(autouse=True)
def cheap_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "METHODS", {"stream_ad": largest, "KNN": largest})


def stream(seed: int, n: int = 800) -> tuple[Float64, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(n, 3)), np.zeros(n, dtype=np.int64)
    labels[500:550] = 1
    rows[500:550, 1] += 8.0
    return rows, labels


@pytest.fixture
def npz_folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("tep-01", "smd-machine-1-7", "smd-machine-2-1")):
        rows, labels = stream(seed)
        np.savez(tmp_path / f"{name}.npz", train=rows[:400], test=rows[400:], test_labels=labels[400:])
    return tmp_path


@pytest.fixture
def csv_folder(tmp_path: Path) -> Path:
    for seed in range(2):
        rows, labels = stream(seed)
        lines = ["datetime;a;b;c;anomaly;changepoint"]
        lines += [f"t;{a};{b};{c};{label:.1f};0.0" for (a, b, c), label in zip(rows, labels, strict=True)]
        (tmp_path / f"valve-{seed}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "anomaly-free.csv").write_text("datetime;a;b;c\nt;1;2;3\n")
    return tmp_path


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_streams_are_judged_by_three_figures_and_shown_by_family(
    npz_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.csv"
    assert series.main(["--data", str(npz_folder), "--seeds", "0", "1", "--out", str(out)]) == 0
    rows = read(out)
    assert list(rows[0]) == ["dataset", "method", "seed", "auroc", "average_precision", "vus_pr"]
    assert len(rows) == 3 * 2 * 2
    assert all(float(row["auroc"]) > 0.99 for row in rows)
    shown = capsys.readouterr().out
    for title in ("| smd (2 sets) |", "| tep (1 set) |", "| all (3 sets) |"):
        assert title in shown


def test_a_run_goes_on_where_it_stood(
    npz_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.csv"
    series.main(["--data", str(npz_folder), "--out", str(out)])
    before = out.read_text()
    monkeypatch.setattr(series, "METHODS", {"stream_ad": refuses, "KNN": refuses})
    assert series.main(["--data", str(npz_folder), "--out", str(out)]) == 0
    assert out.read_text() == before
    assert series.main(["--data", str(npz_folder), "--seeds", "1", "--out", str(out)]) == 1
    assert "cannot learn this" in capsys.readouterr().err
    assert out.read_text() == before


def test_skab_files_are_judged_over_all_their_rows_after_the_first_400(
    csv_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.csv"
    monkeypatch.setattr(series, "OURS", {})
    assert series.main(["--data", str(csv_folder), "--out", str(out)]) == 0
    rows = read(out)
    assert [row["dataset"] for row in rows if row["method"] == "KNN"] == ["valve-0", "valve-1"]
    counts = [sum(float(row[name]) for row in rows if row["method"] == "KNN") for name in series.SKAB_FIGURES[3:]]
    assert sum(counts) == 2 * 400
    hits, false_alarms, misses, quiet = counts
    expected = [2 * hits / (2 * hits + false_alarms + misses), false_alarms / 700, misses / 100]
    assert hits + misses == 100 and false_alarms + quiet == 700
    assert f"| KNN | {' | '.join(f'{100 * value:.1f}' for value in expected)} |" in capsys.readouterr().out


def test_a_threshold_of_a_peer_is_exceeded_by_held_out_rows_at_the_false_alarm_rate() -> None:
    train = np.arange(1000.0)[:, None]
    assert series.held_out_quantile(lambda rows, seed: lambda rows: rows[:, 0], train, 0) == pytest.approx(949.05)


def test_means_are_over_sets_and_not_over_results() -> None:
    figures = {"a": (0.2, 0.4), "b": (0.9,)}
    results = [
        Result(name, "KNN", seed, dict.fromkeys(series.STREAM_FIGURES, value))
        for name, values in figures.items()
        for seed, value in enumerate(values)
    ]
    assert series.percents(results, ("auroc",)) == ["60.0"]


def test_a_folder_without_streams_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        series.main(["--data", str(tmp_path)])
    assert "neither an npz file nor a csv file with a column 'anomaly'" in capsys.readouterr().err


def test_the_ablation_stands_the_detector_beside_itself(
    npz_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"whole": partial(series.on_context, largest), "without all": partial(series.on_context, largest)}
    monkeypatch.setattr(series, "ABLATION", variants)
    assert series.main(["--data", str(npz_folder), "--ablate"]) == 0
    table = capsys.readouterr().out
    assert "| whole |" in table and "| without all |" in table and "| KNN |" not in table


def test_an_ablation_of_alarms_is_refused(csv_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        series.main(["--data", str(csv_folder), "--ablate"])
    assert "npz files only" in capsys.readouterr().err


def test_a_variant_sees_rows_with_their_past() -> None:
    shapes = []

    def remember(train: Float64, seed: int) -> series.Scorer:
        shapes.append(train.shape)
        return lambda rows: rows[:, -1]

    rows = np.random.default_rng(0).normal(size=(50, 2))
    assert series.on_context(remember, rows, 0)(rows).shape == (50,)
    assert shapes[0][0] == 50 and shapes[0][1] > 2
