"""The prequential benchmark: its arithmetic, its streams and worlds, the loop, and what a run writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import prequential, worlds
from benchmarks.loop import Loop, Schedule
from benchmarks.online import METHODS, OURS, Latest, Peer, RetrainedForest, RobustZ
from benchmarks.prequential import delays, judge, settled_rows
from benchmarks.results import Result
from benchmarks.streams import Stream, depends_on_time, files_in, in_file, of_table
from stream_ad.detector import Recipe
from stream_ad.detector.detector import Findings
from stream_ad.learning import gate

SHORTEST = Recipe(autoencoder_steps=30, rarity_steps=20, vae_steps=20, classifier_steps=30, synthetic_outliers=400)
JSON_COLUMNS = {"stream", "method", *prequential.IN_JSON}


def a_stream(labels: list[int], changes: tuple[int, ...] = ()) -> Stream:
    rows = np.zeros((len(labels), 1))
    return Stream("a", rows, rows, np.array(labels, dtype=bool), in_time=True, changes=changes)


def bits(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def some(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 2))


def tables(folder: Path, n: int = 300) -> Path:
    """A table of rows without an order, a few of them far off."""
    rng = np.random.default_rng(0)
    y = np.zeros(n)
    y[rng.choice(n, n // 20, replace=False)] = 1
    np.savez(folder / "table.npz", X=rng.normal(size=(n, 2)) + 6 * y[:, None], y=y)
    return folder


# Arithmetic


def test_delay_counts_from_the_first_row_of_a_stretch_and_a_miss_is_its_length() -> None:
    labels = bits("0111011110011")
    alerts = bits("1001000000010")
    assert delays(labels, alerts).tolist() == [2, 4, 0]


def test_a_stretch_that_runs_to_the_end_without_an_alert_counts_with_its_length() -> None:
    assert delays(bits("00111"), bits("11000")).tolist() == [3]


def test_alert_rate_is_that_of_normal_rows_and_recall_that_of_anomalies() -> None:
    stream = a_stream([0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    alert = bits("1000011001")
    found = judge(stream, alert.astype(float), alert, budget=0.01)
    assert found["alert_rate"] == pytest.approx(2 / 7)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["delay_rows"] == 1.0


def test_the_delay_at_equal_alerts_does_not_know_the_methods_own_threshold() -> None:
    stream = a_stream([0] * 100 + [1] * 10)
    score = np.concatenate([np.linspace(0.0, 1.0, 100), np.linspace(0.9, 1.8, 10)])
    silent, loud = np.zeros(110, dtype=bool), np.ones(110, dtype=bool)
    quiet, noisy = (judge(stream, score, alert, budget=0.01) for alert in (silent, loud))
    assert (quiet["delay_rows"], noisy["delay_rows"]) == (10.0, 0.0)
    assert quiet["equal_delay_rows"] == noisy["equal_delay_rows"] == 1.0


def test_a_change_is_settled_after_the_last_batch_with_a_storm() -> None:
    stream = a_stream([0] * 60, changes=(20, 40))
    alert = np.zeros(60, dtype=bool)
    alert[[0, 1, 2, 3, 22, 23, 24, 35, 36, 37]] = True
    # After the first change storms in its rows 0 to 9 and 10 to 19, after the second none.
    assert settled_rows(stream, alert, budget=0.04, batch=10) == (20 + 0) / 2
    assert np.isnan(settled_rows(a_stream([0] * 60), alert, budget=0.04, batch=10))


def test_alerts_on_faults_are_no_storm() -> None:
    stream = a_stream([0] * 20 + [1] * 20, changes=(20,))
    assert settled_rows(stream, np.ones(40, dtype=bool), budget=0.04, batch=10) == 0


# Peers


def test_a_peers_threshold_is_the_quantile_of_scores_before_the_batch() -> None:
    class Given:
        def start(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, 0]

        step = start

    peer = Peer(Given(), 0.1, Schedule(window_rows=100))
    peer.start(np.arange(100.0)[:, None])
    score, alert = peer.step(np.array([[89.0], [90.0], [1000.0]]))
    assert alert.tolist() == [False, True, True]
    assert score.tolist() == [89.0, 90.0, 1000.0]
    # The three scores pushed the three oldest out and moved the quantile.
    assert peer.step(np.array([[90.0], [92.0]]))[1].tolist() == [False, True]


def test_latest_keeps_the_last_rows_in_order() -> None:
    latest = Latest(3)
    latest.add(np.array([1.0, 2.0]))
    assert latest.add(np.array([3.0, 4.0])).tolist() == [2.0, 3.0, 4.0]


def test_the_robust_score_bears_a_constant_feature_and_gaps_and_scores_before_it_learns() -> None:
    robust = RobustZ(window_rows=1000)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=200), np.full(200, 7.0)])
    robust.start(rows)
    score = robust.step(np.array([[10.0, 7.0], [np.nan, 7.0], [0.0, 9.0]]))
    assert score[0] > 5.0
    assert score[1] == 0.0
    assert score[2] == pytest.approx(2.0, abs=0.2)


def test_the_forest_is_trained_anew_by_the_schedule_on_rows_that_it_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def forest(train: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        trained.append(len(train))
        return lambda rows: np.full(len(rows), float(len(trained)))

    monkeypatch.setattr("benchmarks.online.isolation_forest", forest)
    method = RetrainedForest(Schedule(every_rows=50, window_rows=120), seed=0)
    method.start(some(100))
    scores = [method.step(some(30))[0] for _ in range(5)]
    assert scores == [1.0, 1.0, 2.0, 2.0, 3.0]
    assert trained == [100, 120, 120]


# Streams and worlds


def test_rows_that_resemble_their_neighbours_are_known() -> None:
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(500, 3)).cumsum(axis=0)
    assert depends_on_time(walk)
    assert not depends_on_time(rng.permuted(walk, axis=0))
    assert not depends_on_time(np.ones((500, 3)))


def test_a_file_with_its_own_training_part_keeps_it_and_another_gives_its_first_third(tmp_path: Path) -> None:
    x = np.arange(90.0)[:, None]
    np.savez(tmp_path / "own.npz", train=x[:50], test=x[50:], test_labels=np.arange(40) > 30)
    np.savez(tmp_path / "rows.npz", X=x, y=np.arange(90) > 70)
    own, rows = (source.make(0, 20) for source in files_in(tmp_path))
    assert (own.train[0, 0], own.train[-1, 0], own.rows[0, 0], len(own.rows)) == (30.0, 49.0, 50.0, 20)
    assert (len(rows.train), rows.rows[0, 0]) == (20, 30.0)
    assert in_file(tmp_path / "rows.npz", 0, 1000).labels.sum() == 19


@pytest.mark.parametrize("drift", ["still", "sudden", "gradual", "recurring"])
def test_a_table_becomes_a_stream_with_few_anomalies_and_its_normal_rows_in_order(tmp_path: Path, drift: str) -> None:
    n = 6000
    x = np.column_stack([np.arange(n), -np.arange(n)]).astype(float)
    np.savez(tmp_path / "t.npz", X=x, y=(np.arange(n) % 3 == 0))
    stream = of_table(tmp_path / "t.npz", drift, 3, 10_000)
    assert 0.03 < stream.labels.mean() <= 0.05
    assert (np.diff(np.abs(stream.rows[~stream.labels, 0])) > 0).all()
    swapped = stream.rows[:, 0] < 0
    row = np.arange(len(swapped))
    expected = {"still": 0.0, "sudden": 0.5, "gradual": 0.5, "recurring": 0.25}[drift]
    assert len(stream.changes) == {"sudden": 1, "recurring": len(row) // 1500}.get(drift, 0)
    if swapped.any():  # a seed may draw the identity
        assert swapped.mean() == pytest.approx(expected, abs=0.1)
        assert not swapped[row < len(row) / 3].any() or drift == "recurring"


@pytest.mark.parametrize("source", worlds.WORLDS, ids=lambda source: source.name)
def test_worlds_are_the_same_for_a_seed_and_have_anomalies_to_find(source: worlds.Source) -> None:
    one, again = source.make(1, 2500), source.make(1, 2500)
    np.testing.assert_array_equal(one.rows, again.rows)
    assert one.name == source.name
    assert np.isfinite(one.rows).all()
    assert one.labels.any() == (one.name not in ("attacker-0.5", "attacker-1", "attacker-2"))
    assert one.labels.mean() < 0.5


def test_poison_is_a_share_of_the_training_rows_and_comes_again_later() -> None:
    clean, poisoned = (worlds.poisoned("burst", percent, 0, 4000) for percent in (0, 10))
    touched = (clean.train != poisoned.train).any(axis=1)
    assert touched.sum() == 200
    assert np.diff(np.flatnonzero(touched)).max() == 1
    np.testing.assert_array_equal(clean.rows, poisoned.rows)
    assert len(delays(clean.labels, clean.labels)) == 10


# The loop


class Distance:
    """Instead of the detector: how far a row is from the mean of the rows that it was fitted on, 1 at ten."""

    left_out = np.empty(0, np.int64)
    seed = 0

    def __init__(self, alpha: float, *_: object) -> None:
        self.false_alarm_rate = alpha
        self.spread = np.ones(2)

    def fit(self, x: np.ndarray, **_: object) -> Distance:
        self.n, self.mean = len(x), x.mean(axis=0)
        return self

    def judge(self, x: np.ndarray, sequence: np.ndarray | None = None) -> Findings:
        score = np.abs(x - self.mean).max(axis=1) / 10.0
        return Findings(score, np.exp(-score), np.broadcast_to(self.mean, x.shape))

    def score(self, x: np.ndarray, sequence: np.ndarray | None = None) -> np.ndarray:
        return self.judge(x).score


class Alarmist(Distance):
    """To which every row is strange."""

    def judge(self, x: np.ndarray, sequence: np.ndarray | None = None) -> Findings:
        return Findings(np.full(len(x), 3.0), np.full(len(x), 1e-4), x)


@pytest.fixture
def a_loop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loop]:
    """Makes loops on two features with a stub for a detector, and a gate that lets all through but the given."""

    def make(refused: Sequence[int] = (), context: int = 0, rollback_after: int = 5000) -> Loop:
        trainings = iter(range(100))

        def judge(*_: object, **__: bool) -> gate.Verdict:
            return gate.Verdict({"constant": "it is"} if next(trainings) in refused else {})

        monkeypatch.setattr(gate, "judge", judge)
        monkeypatch.setattr("benchmarks.loop.Detector", Distance)
        schedule = Schedule(100, every_rows=64, least_rows=1, rollback_after=rollback_after, window_rows=2000)
        return Loop(2, 0.05, schedule, context=context)

    return make


def test_the_loop_scores_with_the_model_that_was_live_and_learns_by_the_schedule(a_loop: Callable[..., Loop]) -> None:
    loop = a_loop()
    loop.start(some(100))
    first = loop.models.live
    loop.step(some(32))
    assert loop.models.live is first
    score, alert = loop.step(np.concatenate([some(31), [[50.0, 0.0]]]))
    assert loop.models.live is not first
    assert [(training.row, training.trigger) for training in loop.trainings] == [(100, "first"), (164, "rows")]
    assert alert.tolist() == [False] * 31 + [True]
    assert score[-1] > 4.0
    assert (len(loop.window), len(loop.window.quarantine)) == (163, 1)


def test_a_model_that_the_gate_refuses_does_not_go_live(a_loop: Callable[..., Loop]) -> None:
    loop = a_loop(refused=[1])
    loop.start(some(100))
    first = loop.models.live
    loop.step(some(64))
    assert loop.trainings[1].refusals == {"constant": "it is"}
    assert loop.models.live is first


def test_a_model_that_flags_what_the_one_before_did_not_is_rolled_back(
    a_loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = a_loop(rollback_after=60)
    loop.start(some(100))
    first = loop.models.live
    monkeypatch.setattr("benchmarks.loop.Detector", Alarmist)
    for _ in range(2):
        loop.step(some(32))
    assert isinstance(loop.models.live.detector, Alarmist)
    loop.step(some(32))
    assert loop.models.live is first
    assert loop.rolled_back == [196]


def test_without_a_first_model_the_cold_start_scores_and_raises_no_alert(a_loop: Callable[..., Loop]) -> None:
    loop = a_loop(refused=[0])
    loop.start(some(100))
    score, alert = loop.step(some(32))
    assert np.isfinite(score).all()
    assert not alert.any()
    assert [training.trigger for training in loop.trainings] == ["first", "first"]
    assert loop.models.live is not None


def test_the_loop_judges_rows_with_their_past_whatever_the_batches(a_loop: Callable[..., Loop]) -> None:
    whole, parts = a_loop(context=4), a_loop(context=4)
    rows = some(150).cumsum(axis=0)
    for loop in (whole, parts):
        loop.start(rows[:100])
    expected = whole.step(rows[100:])[0]
    np.testing.assert_allclose(np.concatenate([parts.step(rows[100:120])[0], parts.step(rows[120:])[0]]), expected)
    assert whole.window.inliers.ordered().values.shape[1] == 6


# A run


def test_a_run_writes_one_object_a_stream_and_method_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.loop.Detector", Distance)
    monkeypatch.setattr(gate, "judge", lambda *_, **__: gate.Verdict())
    monkeypatch.setattr("benchmarks.online.isolation_forest", lambda train, seed: lambda rows: np.abs(rows).sum(axis=1))
    out, written = tmp_path / "kept" / "results.csv", tmp_path / "results.json"
    common = ["--data", str(tables(tmp_path)), "--quick", "--out", str(out), "--json", str(written)]
    assert prequential.main([*common, "--methods", "stream_ad", "RobustZ"]) == 0
    assert prequential.main(common) == 0
    objects = json.loads(written.read_text())
    assert all(set(one) == JSON_COLUMNS for one in objects)
    assert sorted(one["method"] for one in objects) == sorted(METHODS)
    ours = next(one for one in objects if one["method"] == OURS)
    assert ours["stream"] == "table"
    assert ours["auroc"] > 0.95
    assert ours["budget"] == 0.01
    assert ours["rows_per_second"] > 0
    with out.open() as lines:
        assert len(list(csv.DictReader(lines))) == len(METHODS)
    assert "| stream_ad |" in capsys.readouterr().out


def test_json_holds_the_mean_over_seeds() -> None:
    figures = dict.fromkeys(prequential.FIGURES, 0.0)
    results = [Result("a", "m", seed, figures | {"auroc": value}) for seed, value in ((0, 0.5), (1, 1.0))]
    assert [one["auroc"] for one in prequential.as_objects(results)] == [0.75]


def test_tables_compare_on_streams_that_all_methods_have() -> None:
    def result(stream: str, method: str, auroc: float) -> Result:
        return Result(stream, method, 0, dict.fromkeys(prequential.FIGURES, 0.5) | {"auroc": auroc})

    ours = [result("a", OURS, 0.9), result("b", OURS, 0.1)]
    assert "all methods yet" in prequential.tables([*ours, result("c", "IForest", 0.8)])
    text = prequential.tables([*ours, result("a", "IForest", 0.8)])
    assert "| 1 stream |" in text
    assert "| stream_ad | 90.0 |" in text
    assert "| b |" not in text


def test_a_stream_that_cannot_be_judged_is_named_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "quiet.npz", X=np.random.default_rng(0).normal(size=(90, 2)), y=np.zeros(90))
    assert prequential.main(["--data", str(tmp_path), "--methods", "RobustZ"]) == 0
    assert "of 60 rows 0 are anomalies" in capsys.readouterr().err.replace("\n", " ")


def test_an_unknown_stream_is_an_error_that_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prequential.main(["--streams", "nowhere"])
    assert "lasting-change" in capsys.readouterr().err
