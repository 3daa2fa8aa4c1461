"""The whole way on a real broker: scored, committed, trained, swapped, restarted, rebalanced, stopped."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from stream_ad.simulation import Plant
from tests.conftest import Kafka
from tests.running import RunningWorker, Topics, kafka_config, plant_json, publish_model, wait_until

pytestmark = pytest.mark.kafka


def outputs(kafka: Kafka, topics: Topics, n: int, timeout: float = 30.0) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"") for record in kafka.consume(topics.scores, n, timeout)]


def committed(kafka: Kafka, topics: Topics) -> int:
    return sum(max(0, offset) for offset in kafka.committed(topics.group, topics.input).values())


def test_a_stream_is_scored_learned_from_and_taken_up_again(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    plant = Plant(seed=0, drift=False)
    settings = kafka_config(
        kafka.bootstrap,
        topics,
        tmp_path / "models",
        training__min_rows=2500,
        training__window_rows=5000,
        training__every_rows=3500,
        training__cold_start="half_space_trees",
    )
    kafka.produce(topics.input, plant_json(plant.rows(3000).values))
    with RunningWorker(tmp_path, settings) as worker:
        worker.wait_for_log("a model is live", 250)
        assert worker.get("/readyz")[0] == 200
        kafka.produce(topics.input, plant_json(plant.rows(4000).values, 3000))
        wait_until(lambda: worker.metric('stream_ad_trainings_total{result="accepted",trigger="rows"}') == 1.0, 250)
        second = wait_until(lambda: [x for x in worker.logs() if x["message"] == "a model is live"][1:], 60)[0]
        kafka.produce(topics.input, plant_json(plant.rows(1000).values, 7000))
        wait_until(lambda: committed(kafka, topics) == 8000, 30)
        metrics = worker.get("/metrics")[1]
        assert f'stream_ad_model_info{{version="{second["version"]}"}} 1.0' in metrics
        assert f'stream_ad_consumer_lag_records{{partition="0",topic="{topics.input}"}} 0.0' in metrics
        assert worker.stop() == 0
    found = outputs(kafka, topics, 8000)
    assert Counter(one["source"]["offset"] for one in found) == Counter(range(8000))
    assert [one["id"] for one in sorted(found, key=lambda one: one["source"]["offset"])][:2] == ["row-0", "row-1"]
    assert {one["status"] for one in found if one["source"]["offset"] < 3000} == {"warming_up"}
    assert {one["model"] for one in found if one["source"]["offset"] >= 7000} == {second["version"]}

    kafka.produce(topics.input, plant_json(plant.rows(500).values, 8000))
    with RunningWorker(tmp_path, settings, "again") as worker:
        assert worker.wait_for_log("the window of the last run is back")["rows"] == 5000
        wait_until(lambda: committed(kafka, topics) == 8500, 30)
        assert worker.stop() == 0
    found = outputs(kafka, topics, 8501, timeout=8)
    assert Counter(one["source"]["offset"] for one in found) == Counter(range(8500))
    assert {one["status"] for one in found if one["source"]["offset"] >= 8000} == {"scored"}


def test_faults_come_out_explained_and_once_more_in_the_anomalies_topic(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    rows = Plant(seed=0, drift=False).rows(200).values
    rows[50, 6] += 6.0
    kafka.produce(topics.input, plant_json(rows), keys=[b"pump-7"] * 200)
    with RunningWorker(tmp_path, kafka_config(kafka.bootstrap, topics, tmp_path / "models")) as worker:
        found = {one["id"]: one for one in outputs(kafka, topics, 200)}
        assert worker.stop() == 0
    fault = found["row-50"]
    assert fault["is_anomaly"]
    assert fault["score"] >= 1.0
    assert max(fault["attribution"], key=fault["attribution"].get) == "pump_current"
    assert fault["expected"]["pump_current"] == pytest.approx(rows[50, 6] - 6.0, abs=1.0)
    assert fault["key"] == "pump-7"
    assert "expected" not in found["row-3"]
    flagged = [one["id"] for one in found.values() if one["is_anomaly"]]
    anomalies = kafka.consume(topics.anomalies, len(flagged), timeout=10)
    assert [json.loads(one.value or b"")["id"] for one in anomalies] == flagged
    assert {one.key for one in anomalies} == {b"pump-7"}


@pytest.mark.parametrize("poll_records", [7, 1000])
def test_bad_records_go_to_the_dead_letters_and_hold_nothing_up(
    kafka: Kafka, tmp_path: Path, poll_records: int
) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    good = plant_json(Plant(seed=0).rows(10).values)
    values = [b"{"] * 10 + good + [b'{"feed_flow": "broken"}'] * 9 + [None]
    headers = [[("trace", b"1"), ("empty", None), ("trace", b"2")]] * 30
    kafka.produce(topics.input, values, keys=[b"\xff\x00"] * 30, headers=headers)
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models", source__max_poll_records=poll_records)
    with RunningWorker(tmp_path, settings) as worker:
        wait_until(lambda: committed(kafka, topics) == 30, 30)
        assert worker.metric('stream_ad_records_total{result="tombstone"}') == 1.0
        assert worker.metric('stream_ad_dead_letters_total{reason="parse"}') == 10.0
        assert worker.metric('stream_ad_dead_letters_total{reason="not_a_number"}') == 9.0
        warnings = [line for line in worker.logs() if "dead letters" in line["message"]]
        assert len(warnings) == 2, "one line a reason, not one a record"
        assert worker.stop() == 0
    assert len(outputs(kafka, topics, 11, timeout=3)) == 10
    letters = kafka.consume(topics.dead_letters, 20, timeout=5)
    assert [letter.value for letter in letters] == [b"{"] * 10 + [b'{"feed_flow": "broken"}'] * 9
    assert letters[0].headers[:3] == headers[0]
    names = dict(letters[0].headers[3:])
    assert names["__connect.errors.topic"] == topics.input.encode()
    assert names["__connect.errors.offset"] == b"0"
    assert names["stream_ad.errors.reason"] == b"parse"
    assert letters[0].key == b"\xff\x00"


def test_killed_in_the_middle_nothing_is_lost(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    values = plant_json(Plant(seed=0).rows(20_000).values)
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models", source__max_poll_records=200)
    settings["source"]["session_timeout"] = 6
    with RunningWorker(tmp_path, settings) as worker:
        worker.wait_for_log("connected")
        kafka.produce(topics.input, values)
        wait_until(lambda: committed(kafka, topics) > 0, 30)
        worker.process.kill()
        worker.process.wait()
    before = committed(kafka, topics)
    assert before < 20_000, "it was not killed in the middle"
    with RunningWorker(tmp_path, settings, "again") as worker:
        wait_until(lambda: committed(kafka, topics) == 20_000, 60)
        assert worker.stop() == 0
    found = Counter(one["source"]["offset"] for one in outputs(kafka, topics, 40_000, timeout=8))
    assert set(found) == set(range(20_000))
    assert max(found.values()) <= 2
    assert all(offset >= before for offset, times in found.items() if times == 2)


def test_two_workers_share_the_partitions_and_one_takes_over(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka, partitions=4)
    publish_model(tmp_path / "models")
    plant = Plant(seed=0)
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models")

    def assigned(worker: RunningWorker) -> int:
        return worker.get("/metrics")[1].count("stream_ad_consumer_lag_records{")

    def produce(first: int) -> None:
        for partition in range(4):
            rows = plant_json(plant.rows(250).values, first + 250 * partition)
            kafka.produce(topics.input, rows, partition=partition)

    with RunningWorker(tmp_path, settings, "one") as one:
        wait_until(lambda: assigned(one) == 4, 30)
        produce(0)
        with RunningWorker(tmp_path, settings, "two") as two:
            wait_until(lambda: (assigned(one), assigned(two)) == (2, 2), 40)
            produce(1000)
            wait_until(lambda: committed(kafka, topics) == 2000, 30)
            assert min(one.metric('stream_ad_records_total{result="scored"}'), 500) == 500
            assert two.metric('stream_ad_records_total{result="scored"}') == 500
            assert one.stop() == 0
            wait_until(lambda: assigned(two) == 4, 40)
            produce(2000)
            wait_until(lambda: committed(kafka, topics) == 3000, 30)
            assert two.stop() == 0
    ids = Counter(one["id"] for one in outputs(kafka, topics, 3001, timeout=5))
    assert ids == Counter(f"row-{i}" for i in range(3000))


def test_a_training_longer_than_the_poll_interval_costs_no_partition(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    plant = Plant(seed=0, drift=False)
    settings = kafka_config(
        kafka.bootstrap,
        topics,
        tmp_path / "models",
        source__max_poll_interval=6,
        source__session_timeout=6,
        training__min_rows=1000,
        training__cold_start="half_space_trees",
    )
    kafka.produce(topics.input, plant_json(plant.rows(1200).values))
    with RunningWorker(tmp_path, settings) as worker:
        worker.wait_for_log("training started")
        (trainer,) = wait_until(lambda: psutil.Process(worker.process.pid).children(), 10)
        trainer.send_signal(signal.SIGSTOP)
        rebalances = worker.metric("stream_ad_rebalances_total")
        held = time.monotonic()
        sent = 1200
        while time.monotonic() - held < 9.0:
            kafka.produce(topics.input, plant_json(plant.rows(50).values, sent))
            sent += 50
            wait_until(lambda sent=sent: committed(kafka, topics) == sent, 5)
        trainer.send_signal(signal.SIGCONT)
        assert worker.metric("stream_ad_rebalances_total") == rebalances
        assert psutil.Process(trainer.pid).nice() == 10
        worker.wait_for_log("a model is live", 250)
        kafka.produce(topics.input, plant_json(plant.rows(50).values, sent))
        wait_until(lambda: committed(kafka, topics) == sent + 50, 10)
        assert worker.metric("stream_ad_rebalances_total") == rebalances
        assert worker.stop() == 0


def test_stopping_during_a_training_leaves_no_process_behind(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    kafka.produce(topics.input, plant_json(Plant(seed=0).rows(1200).values))
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models", training__min_rows=1000)
    with RunningWorker(tmp_path, settings) as worker:
        worker.wait_for_log("training started")
        (trainer,) = wait_until(lambda: psutil.Process(worker.process.pid).children(), 10)
        assert worker.stop() == 0
        assert not trainer.is_running()
    assert committed(kafka, topics) == 1200
    assert not list((tmp_path / "models").glob(".training-*"))


def test_a_broker_that_does_not_answer_is_waited_for_then_given_up(tmp_path: Path) -> None:
    settings = kafka_config("127.0.0.1:9", Topics(), tmp_path / "models", source__connect_timeout=12)
    with RunningWorker(tmp_path, settings) as worker:
        line = worker.wait_for_log("trying again")
        assert "127.0.0.1:9" in line["message"]
        assert worker.get("/livez")[0] == 200
        code, reasons = worker.get("/readyz")
        assert code == 503
        assert "not connected" in reasons
        assert worker.process.wait(timeout=30) == 1


def test_sigterm_before_the_broker_answers_ends_well(tmp_path: Path) -> None:
    settings = kafka_config("127.0.0.1:9", Topics(), tmp_path / "models")
    with RunningWorker(tmp_path, settings) as worker:
        worker.wait_for_log("trying again")
        assert worker.stop(seconds=15) == 0


@pytest.mark.parametrize("missing", ["input", "scores", "dead_letters"])
def test_a_topic_that_is_not_there_stops_the_start(kafka: Kafka, tmp_path: Path, missing: str) -> None:
    topics = Topics()
    topics.create(kafka)
    name = f"nowhere-{topics.group}"
    setattr(topics, missing, name)
    with RunningWorker(tmp_path, kafka_config(kafka.bootstrap, topics, tmp_path / "models")) as worker:
        assert worker.process.wait(timeout=40) == 2
        assert name in worker.text()


def test_a_model_of_another_schema_stops_the_start(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models", schema__features=["feed_flow", "oil_level"])
    with RunningWorker(tmp_path, settings) as worker:
        assert worker.process.wait(timeout=40) == 2
        assert "new: oil_level" in worker.text()
        assert "registry.path" in worker.text()


def test_raw_float32_vectors_many_to_a_record(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    rows = Plant(seed=0).rows(30).values.astype("<f4")
    values = [rows[:1].tobytes(), rows[1:30].tobytes(), b"\x00" * 7]
    kafka.produce(topics.input, values)
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models", schema__format="float32", schema__id=None)
    with RunningWorker(tmp_path, settings) as worker:
        found = outputs(kafka, topics, 30)
        wait_until(lambda: committed(kafka, topics) == 3, 20)
        assert worker.stop() == 0
    assert [one["id"] for one in found[:3]] == [f"{topics.input}-0-0", f"{topics.input}-0-1-0", f"{topics.input}-0-1-1"]
    assert np.isfinite([one["score"] for one in found]).all()
    assert len(kafka.consume(topics.dead_letters, 1, timeout=5)) == 1
