"""Labels: what people say of rows, found again, put into effect, and kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import feedback as benchmark
from benchmarks.protocols import Protocol
from stream_ad.config import Config
from stream_ad.config.checks import check
from stream_ad.detector import Detector, Recipe
from stream_ad.learning import Learner, feedback
from stream_ad.learning.feedback import Feedback, Label, read_label, read_labels
from stream_ad.learning.window import InlierWindow
from stream_ad.records import NO_TIMESTAMP, Batch, RawBatch, RecordSchema
from stream_ad.registry import ModelRegistry
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports import ConfigurationError, make_label_source
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.conftest import Kafka
from tests.running import Topics, kafka_config, plant_json, publish_model, wait_until

WIDTH = 2


class Loop:
    """A window with feedback, and rows whose values are their numbers."""

    def __init__(self, capacity: int = 1000) -> None:
        self.window = InlierWindow(capacity, WIDTH, 0.01)
        self.feedback = Feedback(self.window, WIDTH)
        self.offset = 0

    def send(self, scores: list[float], rows_per_record: int = 1, skip: int = 0) -> None:
        """One row a score; the first `skip` are not learnable."""
        n = len(scores)
        numbers = self.offset + np.arange(n)
        values = np.repeat(numbers[:, None], WIDTH, axis=1).astype(np.float64)
        none: list[bytes | None] = [b""] * n
        raw = RawBatch(none, none, [()] * n, np.full(n, NO_TIMESTAMP), ["t"] * n, np.zeros(n, np.int32), numbers)
        record = np.arange(n) // rows_per_record
        ids: list[str | int] = [f"row-{number}" for number in numbers]
        batch = Batch(raw, values, record, np.full(n, -1), ids, none, raw.timestamps, np.zeros(n, np.bool_))
        self.offset += n
        rows = np.arange(skip, n)
        score = np.array(scores)[rows]
        self.window.add(values[rows], score)
        self.feedback.remember(batch, rows, values[rows], score)

    def inliers(self) -> list[int]:
        return [int(value) for value in self.window.inliers.ordered().values[:, 0]]

    def quarantined(self) -> list[int]:
        return [int(value) for value in self.window.quarantine.ordered().values[:, 0]]

    def anomalies(self) -> list[int]:
        return sorted(int(value) for value in self.feedback.anomalies[:, 0])


def by_id(kind: Any, number: int) -> Label:
    return Label(kind, None, f"row-{number}")


def by_place(kind: Any, offset: int, row_id: str | None = None) -> Label:
    return Label(kind, ("t", 0, offset), row_id)


def test_a_false_alarm_labelled_normal_goes_among_the_inliers_of_its_time() -> None:
    loop = Loop()
    loop.send([0.1, 3.0, 0.1, 2.0, 0.1])
    assert loop.feedback.take([by_id("normal", 1)]) == [True]
    assert (loop.inliers(), loop.quarantined(), loop.anomalies()) == ([0, 1, 2, 4], [3], [])
    training = loop.window.training_rows()
    assert training.rows[:, 0].tolist() == [0.0, 1.0, 2.0, 4.0]


def test_what_a_person_called_normal_stays_whatever_an_earlier_model_says_of_it() -> None:
    loop = Loop()
    loop.send([0.1, 2.0, 0.1])
    loop.feedback.take([by_id("normal", 1)])
    loop.window.judge_anew(np.full(3, 5.0))
    assert (loop.inliers(), loop.quarantined()) == ([1], [0, 2])


def test_an_anomaly_that_was_missed_leaves_the_window_and_is_kept_for_training() -> None:
    loop = Loop()
    loop.send([0.1, 3.0, 0.1, 2.0, 0.1])
    assert loop.feedback.take([by_place("anomaly", 2), by_place("anomaly", 3)]) == [True, True]
    assert (loop.inliers(), loop.quarantined(), loop.anomalies()) == ([0, 4], [1], [2, 3])


def test_the_last_word_counts_and_saying_it_again_changes_nothing() -> None:
    loop = Loop()
    loop.send([0.1, 3.0, 0.1])
    for _ in range(2):
        assert loop.feedback.take([by_id("normal", 1), by_id("anomaly", 1)]) == [True, True]
        assert (loop.inliers(), loop.anomalies()) == ([0, 2], [1])
    for _ in range(2):
        loop.feedback.take([by_id("normal", 1)])
        assert (loop.inliers(), loop.anomalies()) == ([0, 1, 2], [])


def test_a_labelled_anomaly_is_known_longer_than_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "RECENT_ROWS", 3)
    loop = Loop()
    loop.send([0.1, 0.1, 3.0])
    loop.feedback.take([by_id("anomaly", 0), by_id("anomaly", 1), by_id("anomaly", 2)])
    loop.send([0.1, 0.1, 0.1, 3.0])
    labels = [by_id("anomaly", 4), by_id("normal", 1), by_id("normal", 6), by_id("normal", 2)]
    assert loop.feedback.take(labels) == [True] * 4
    assert (loop.inliers(), loop.quarantined(), loop.anomalies()) == ([1, 2, 3, 5, 6], [], [0, 4])


def test_a_label_by_place_is_for_all_rows_of_the_record_unless_it_names_one() -> None:
    loop = Loop()
    loop.send([0.1] * 6, rows_per_record=3)
    assert loop.feedback.take([by_place("anomaly", 0), by_place("anomaly", 1, "row-4")]) == [True, True]
    assert loop.anomalies() == [0, 1, 2, 4]


def test_rows_that_are_not_known_or_not_learnable_are_not_labelled() -> None:
    loop = Loop()
    loop.send([0.1, 0.1], skip=1)
    labels = [
        by_id("normal", 0),
        by_id("normal", 77),
        by_place("anomaly", 1, "row-0"),
        Label("normal", ("x", 0, 1), None),
    ]
    assert loop.feedback.take(labels) == [False] * 4
    assert (loop.inliers(), loop.anomalies()) == ([1], [])


def test_flagged_rows_are_remembered_when_many_normal_ones_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "RECENT_ROWS", 10)
    loop = Loop(capacity=50)
    loop.send([3.0])
    for _ in range(8):
        loop.send([0.1] * 5)
    assert loop.feedback.take([by_id("anomaly", 0), by_id("anomaly", 3), by_id("anomaly", 38)]) == [True, False, True]


def test_a_row_fades_from_when_it_is_labelled_however_old_it_is() -> None:
    loop = Loop(capacity=20)
    loop.send([3.0] + [0.1] * 600)
    assert loop.feedback.take([by_id("normal", 0)]) == [True]
    assert 0 in loop.inliers() and len(loop.inliers()) == 20
    loop.send([0.1] * 5000)
    assert 0 not in loop.inliers()


def test_labels_survive_a_restart_and_so_do_the_rows_that_can_still_be_labelled() -> None:
    loop = Loop()
    loop.send([0.1, 3.0, 0.1, 2.0, 0.1])
    loop.feedback.take([by_id("anomaly", 2), by_id("normal", 1)])
    again = Loop()
    again.window.restore(loop.window.state())
    again.feedback.restore(loop.feedback.state())
    assert (again.inliers(), again.quarantined(), again.anomalies()) == ([0, 1, 4], [3], [2])
    assert again.feedback.take([by_place("anomaly", 3), by_id("normal", 2)]) == [True, True]
    assert (again.inliers(), again.quarantined(), again.anomalies()) == ([0, 1, 2, 4], [], [3])


def test_labelled_anomalies_come_back_with_a_model_alone() -> None:
    loop = Loop()
    loop.send([0.1, 3.0])
    loop.feedback.take([by_id("anomaly", 1)])
    again = Loop()
    again.feedback.restore(loop.feedback.for_training())
    assert again.anomalies() == [1]


def test_ids_of_any_kind_survive_a_restart() -> None:
    loop = Loop()
    columns = {
        "values": np.zeros((3, WIDTH)),
        "position": np.arange(3),
        "partition": np.zeros(3, np.int64),
        "offset": np.arange(3),
        "topic": feedback.as_objects(["t"] * 3),
        "id": feedback.as_objects([10**30, "\ud800", "10"]),
    }
    loop.feedback._flagged.add(columns)
    again = feedback.RecentRows(10, WIDTH)
    again.restore("x", loop.feedback._flagged.state("x"))
    assert again.column("id").tolist() == [10**30, "\ud800", "10"]


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "plant", "partition": 3, "offset": 7},
        {"source": {"topic": "plant", "partition": 3, "offset": 7}, "id": None, "score": 2.5},
    ],
)
def test_a_label_names_its_record_as_output_records_do(fields: dict[str, Any]) -> None:
    assert read_label(json.dumps(fields | {"label": "normal"}).encode()) == Label("normal", ("plant", 3, 7), None)


def test_the_record_of_an_episode_labels_its_highest_row() -> None:
    episode = {"id": "plant-3-7", "status": "ended", "peak_id": "row-9", "source": {"topic": "plant", "partition": 3}}
    assert read_label(json.dumps(episode | {"label": "normal"}).encode()) == Label("normal", None, "row-9")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "not JSON"),
        (None, "an object is wanted"),
        (b"[1]", "an object is wanted"),
        (b'{"id": "x"}', "label must be normal or anomaly"),
        (b'{"id": "x", "label": "fine"}', "label must be normal or anomaly"),
        (b'{"label": "normal"}', "which row"),
        (b'{"label": "normal", "id": true}', "which row"),
        (b'{"label": "normal", "topic": "t", "partition": 0, "offset": "7"}', "which row"),
        (b'{"label": ["normal"], "id": 1}', "label must be"),
    ],
)
def test_what_is_no_label_says_why(value: bytes | None, reason: str) -> None:
    n = 1
    raw = RawBatch([value], [None], [()], np.zeros(n, np.int64), ["labels"], np.zeros(n, np.int32), np.array([5]))
    labels, [wrong] = read_labels(raw)
    assert not labels
    assert wrong.startswith("labels-0-5: ")
    assert reason in wrong


def test_a_worker_takes_labels_from_a_file_that_grows_and_keeps_what_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_model(tmp_path / "models")
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"id": "row-0", "label": "anomaly"}\n')
    config = Config.model_validate(
        {
            "source": {"type": "memory"},
            "sink": {"type": "memory"},
            "schema": {"features": list(SENSORS), "id": "id"},
            "training": {
                "every_rows": None,
                "every_seconds": None,
                "drift": "none",
                "labels": {"type": "file", "path": str(labels)},
            },
            "alerts": {"false_alarm_rate": 0.005},
            "registry": {"path": str(tmp_path / "models")},
            "monitoring": {"host": "127.0.0.1", "port": 0},
            "detector": {"threads": 1},
        }
    )
    source, sink = MemorySource(), MemorySink()
    worker = Worker(config, source=source, sink=sink)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    rows = Plant(0, drift=False).rows(20).values
    rows[5, SENSORS.index("pump_current")] += 8.0
    source.append(plant_json(rows))
    wait_until(lambda: source.committed == 20)
    with labels.open("a") as file:
        file.write('{"source": {"topic": "memory", "partition": 0, "offset": 3}, "label": "anomaly"}\n')
        file.write('{"id": "row-5", "label": "normal"}\n{"id": "row-5"}\n{"id": "row-99", "label": "normal"}\n')

    def taken(label: str, result: str) -> float:
        return (
            worker.metrics.registry.get_sample_value("stream_ad_labels_total", {"label": label, "result": result}) or 0
        )

    wait_until(lambda: taken("normal", "unknown_record"))
    assert taken("anomaly", "used") + taken("anomaly", "unknown_record") == 2, "the first came before its row, or after"
    assert (taken("normal", "used"), taken("unreadable", "invalid")) == (1, 1)
    assert "label must be normal or anomaly" in caplog.text
    assert "normal for row-99 is none of the last 20000 flagged rows" in caplog.text

    def kept() -> bool:
        saved = ModelRegistry(str(tmp_path / "models"), 10).load_window()
        return saved is not None and np.allclose(saved["anomalies.values"][-1:], rows[3:4])

    wait_until(kept, 30)  # soon: a crash loses no label
    source.close_input()
    thread.join(timeout=30)

    again = Learner(worker._learning_settings(), worker.registry)
    again.restore()
    assert again.feedback is not None
    assert np.allclose(again.feedback.anomalies[-1], rows[3])
    assert 5 in again.window.inliers.ordered().position


def with_labels(settings: dict[str, Any], topic: str) -> dict[str, Any]:
    return settings | {
        "source": {"type": "kafka", **settings["source"]},
        "sink": {"type": "kafka", **settings["sink"]},
        "training": settings["training"] | {"labels": {"type": "kafka", "topic": topic}},
    }


def test_labels_of_a_topic_are_read_from_the_beginning_by_every_worker(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    name = f"{topics.input}.labels"
    config = Config.model_validate(with_labels(kafka_config(kafka.bootstrap, topics, tmp_path), name))
    missing = make_label_source(config, RecordSchema(list(SENSORS)))
    assert missing is not None
    with pytest.raises(ConfigurationError, match=r"training\.labels\.topic"):
        missing.open()
    kafka.create_topic(name)
    kafka.produce(name, [b'{"id": "a", "label": "normal"}', b'{"id": "b", "label": "anomaly"}'])
    for _ in range(2):
        source = make_label_source(config, RecordSchema(list(SENSORS)))
        assert source is not None
        source.open()
        read: list[Label] = []
        try:
            wait_until(lambda source=source, read=read: read.extend(read_labels(source.poll(0.0))[0]) or len(read) == 2)
        finally:
            source.close()
        assert read == [Label("normal", None, "a"), Label("anomaly", None, "b")]


def test_a_scorer_reads_no_labels_and_a_topic_needs_a_cluster(tmp_path: Path) -> None:
    settings = with_labels(kafka_config("localhost:1", Topics(), tmp_path), "labels")
    assert make_label_source(Config.model_validate(settings | {"role": "scorer"}), RecordSchema(["a"])) is None
    of_a_file = Config.model_validate(settings | {"source": {"type": "file", "path": "x.csv"}})
    assert [path for path, _ in check(of_a_file)] == ["training.labels"]
    read_twice = settings | {"source": settings["source"] | {"topics": ["labels"]}}
    assert [path for path, _ in check(Config.model_validate(read_twice))] == ["training.labels.topic"]


def test_rows_like_labelled_anomalies_stand_out_and_others_raise_no_more_alarms() -> None:
    recipe = Recipe(
        autoencoder_steps=60,
        rarity_steps=40,
        vae_steps=30,
        classifier_steps=60,
        synthetic_outliers=1000,
        cross_fit_below=0,
    )
    rng = np.random.default_rng(0)
    normal, fresh = rng.normal(size=(3000, 4)), rng.normal(size=(4000, 4))
    alike = np.array([1.2, 1.2, -1.2, 0.0]) + 0.1 * rng.normal(size=(40, 4))
    plain = Detector(0.01, "cpu", recipe=recipe).fit(normal)
    taught = Detector(0.01, "cpu", recipe=recipe).fit(normal, anomalies=alike[:20])
    assert (plain.score(alike[20:]) < 1.0).all(), "each value is an ordinary one"
    assert (taught.score(alike[20:]) > 1.0).all()
    assert (taught.score(fresh) >= 1.0).mean() < 0.02
    again = Detector.restore(taught.description(), taught.tensors(), "cpu")
    assert np.array_equal(again.score(alike), taught.score(alike))
    assert np.allclose(taught.score_eager(alike), taught.score(alike))


def test_the_benchmark_labels_the_highest_rows_and_some_others_with_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[np.ndarray, np.ndarray | None]] = []

    class FirstColumn:
        """A detector whose score is the first column."""

        def __init__(self, **settings: object) -> None: ...

        def fit(self, x: np.ndarray, anomalies: np.ndarray | None = None) -> FirstColumn:
            fits.append((x, anomalies))
            return self

        def score(self, x: np.ndarray) -> np.ndarray:
            return x[:, 0]

    monkeypatch.setattr(benchmark, "Detector", FirstColumn)
    number = np.arange(400.0)
    anomalous = number >= 360
    np.savez(tmp_path / "set.npz", train=np.zeros((50, 2)), test=np.stack([number, number], 1), test_labels=anomalous)
    results = [
        result for count in (0, 20, 1000) for result in benchmark.measure(tmp_path / "set.npz", 0, Protocol(), count)
    ]
    (plain, none), (few, anomalies), (many, all_anomalies) = fits
    assert (len(plain), none) == (50, None)
    assert anomalies is not None
    assert len(few) - 50 + len(anomalies) == 20
    seen = np.random.default_rng(0).permutation(400)[:200]
    assert set(np.sort(seen)[-10:]) <= set(anomalies[:, 0]), "the ten highest are anomalies, and labelled as such"
    assert (anomalies[:, 0] >= 360).all()
    assert few.max() < 360
    assert all_anomalies is not None
    assert len(many) - 50 + len(all_anomalies) == 200, "there are no more"
    assert [result.figures["auroc"] for result in results] == [1.0, 1.0, 1.0]
    assert "| set | 100.0 | +0.0 | +0.0 | 100.0 | +0.0 | +0.0 |" in benchmark.table(results, [20, 1000])
