"""`stream-ad init` on a real broker: the topic is looked at, and `run` scores it with what was written."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner, Result

from stream_ad.cli import app
from stream_ad.config import KafkaSource, load
from stream_ad.simulation import SENSORS, Plant
from stream_ad.worker import Worker
from tests.conftest import Kafka
from tests.running import SHORT, wait_until

pytestmark = pytest.mark.kafka

ROWS = 240
MORE = 40
SIX = SENSORS[:6]
START = 1_930_381_200_000


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def flat(row: list[float], i: int) -> bytes:
    return orjson.dumps({"id": f"r-{i}", "ts": "2031-03-04T09:00:00Z", **dict(zip(SIX, row, strict=True))})


def nested(row: list[float], i: int) -> bytes:
    names = dict(zip(("a", "b", "c"), row, strict=False))
    return orjson.dumps({"meta": {"seq": i, "at": START + 1000 * i}, "data": {"pump": names, "flow": row[3]}})


def array(row: list[float], i: int) -> bytes:
    return orjson.dumps({"time": (START + 1000 * i) / 1000, "reading": {"values": row}, "quality": 1})


def float32(row: list[float], i: int) -> bytes:
    return np.array(row, "<f4").tobytes()


def messy(row: list[float], i: int) -> bytes:
    """Texts, booleans, identifiers, a constant, a label, numbers as texts."""
    return orjson.dumps(
        {
            "event": str(uuid.UUID(int=i * 7919 + 2**100)),
            "device": f"press-{i % 3}",
            "firmware": "2.4.1",
            "batch_no": 880_000_000 + i * i % 1013,
            "temp": f"{row[0]:.3f}",
            "pressure": row[1],
            "flow": row[2],
            "heating": i % 5 < 2,
            "limit": 80,
            "is_anomaly": 0,
            "site.name": "north",
        }
    )


SHAPES: dict[str, tuple[Any, list[str]]] = {
    "flat": (flat, list(SIX)),
    "nested": (nested, ["data.pump.a", "data.pump.b", "data.pump.c", "data.flow"]),
    "array": (array, [f"values_{i}" for i in range(6)]),
    "float32": (float32, [f"f{i}" for i in range(6)]),
    "messy": (messy, ["temp", "pressure", "flow", "heating"]),
}


@pytest.fixture
def topic(kafka: Kafka) -> str:
    name = f"init-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name, partitions=2)
    return name


@contextmanager
def worker(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """What `stream-ad run` runs, with trainings that are short."""
    monkeypatch.setattr("stream_ad.learning.learner.Recipe", lambda: SHORT)
    monkeypatch.chdir(config.parent)
    running = Worker(load(config, ["monitoring.port=0", "monitoring.host=127.0.0.1"]))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(running.run()))
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join(40)
    assert codes == [0]


@pytest.mark.parametrize("shape", SHAPES)
def test_run_scores_a_topic_with_what_init_wrote(
    kafka: Kafka, topic: str, tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, features = SHAPES[shape]
    rows = Plant(seed=0, drift=False, fault_rate=0.0).rows(ROWS + MORE).values[:, :6].tolist()
    values = [encode(row, i) for i, row in enumerate(rows)]
    kafka.produce(topic, values[:ROWS])
    config = tmp_path / "config.yaml"

    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", config, "--create-topics")
    assert done.exit_code == 0, done.output
    assert load(config).schema_.features == features
    checked = run("lint", "-c", config, "--connect")
    assert checked.exit_code == 0, checked.output

    with worker(config, monkeypatch) as running:
        wait_until(lambda: running.status()["model"], 250)
        kafka.produce(topic, values[ROWS:])
        found = [json.loads(record.value or b"") for record in kafka.consume(f"{topic}.scores", ROWS + MORE, 30)]
        assert running.status()["dead_letters"] == 0
    assert len(found) == ROWS + MORE
    assert sum(one["status"] == "scored" for one in found) == MORE


def test_junk_in_the_topic_is_told_and_does_not_matter(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    rows = Plant(seed=1).rows(60).values[:, :6].tolist()
    good = [flat(row, i) for i, row in enumerate(rows)]
    kafka.produce(topic, [*good[:30], None, b"not json", b"\xff\xfe", *good[30:], None])
    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    assert "2 of 64 records (3.1%) cannot be read as json" in done.output
    assert "2 of 64 records have no value (tombstones)" in done.output
    assert load(tmp_path / "c.yaml").schema_.features == list(SIX)


def test_without_output_topics_the_next_command_creates_them(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    kafka.produce(topic, [flat(row, i) for i, row in enumerate(Plant(seed=1).rows(60).values[:, :6].tolist())])
    config = tmp_path / "c.yaml"
    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", config)
    assert f"does not start: {topic}.scores, {topic}.anomalies, {topic}.dead-letters" in done.output
    [command] = [line for line in done.output.splitlines() if line.startswith("next")]
    assert run("lint", "-c", config, "--connect").exit_code == 2

    done = run(*command.partition("stream-ad ")[2].split())
    assert done.exit_code == 0, done.output
    assert f"next: stream-ad lint -c {config} --connect" in done.output
    assert run("lint", "-c", config, "--connect").exit_code == 0


def test_looking_joins_no_group_and_commits_nothing(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    kafka.produce(topic, [flat(row, i) for i, row in enumerate(Plant(seed=1).rows(60).values[:, :6].tolist())])
    run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", tmp_path / "c.yaml")
    groups = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_consumer_groups().result().valid
    assert not [group for group in groups if topic in group.group_id]


def test_only_committed_records_count(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    producer = kafka.producer(transactional_id=f"tx-{topic}")
    producer.init_transactions()
    producer.begin_transaction()
    for i in range(50):
        producer.produce(topic, orjson.dumps({"aborted": i * 1.5}), partition=0)
    producer.flush()
    producer.abort_transaction()
    rows = Plant(seed=1).rows(60).values[:, :6].tolist()
    kafka.produce(topic, [flat(row, i) for i, row in enumerate(rows)], partition=0)
    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    assert "aborted" not in done.output


def test_the_rate_comes_from_the_records_times(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    rows = Plant(seed=1).rows(2000).values[:, :6].tolist()
    for partition in (0, 1):
        stamps = [int(1000 * time.time()) - 500 * (1000 - i) for i in range(1000)]
        values = [flat(row, i) for i, row in enumerate(rows[partition::2])]
        kafka.produce(topic, values, partition=partition, timestamps=stamps)
    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "-o", tmp_path / "c.yaml")
    assert "4 rows a second" in done.output
    training = load(tmp_path / "c.yaml").training
    assert (training.min_rows, training.window_rows) == (1000, 14_000)


@pytest.mark.parametrize("case", ["unknown", "empty", "no broker", "wrong protocol"])
def test_what_cannot_be_looked_at_ends_with_2_and_says_why(
    kafka: Kafka, topic: str, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_TEST", "wrong")
    arguments, expected = {
        "unknown": (["--topic", "nowhere"], "--topic: there is no topic 'nowhere'"),
        "empty": (["--topic", topic], "is empty: there is no record to look at"),
        "no broker": (["--topic", topic, "--bootstrap", "127.0.0.1:1"], "Check --bootstrap"),
        "wrong protocol": (
            [
                *("--topic", topic, "--security-protocol", "SASL_PLAINTEXT", "--sasl-mechanism", "PLAIN"),
                *("--sasl-username", "me", "--sasl-password-env", "SECRET_OF_TEST"),
            ],
            "--sasl-mechanism",
        ),
    }[case]
    done = run("init", "--bootstrap", kafka.bootstrap, *arguments, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 2
    assert expected in done.output
    assert "source." not in done.output
    assert not (tmp_path / "c.yaml").exists()


def test_several_topics_are_one_stream(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    other = f"{topic}-b"
    kafka.create_topic(other)
    rows = Plant(seed=1).rows(80).values[:, :6].tolist()
    for name, part in ((topic, rows[:40]), (other, rows[40:])):
        kafka.produce(name, [flat(row, i) for i, row in enumerate(part)])
    done = run("init", "--bootstrap", kafka.bootstrap, "--topic", topic, "--topic", other, "-o", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    source = load(tmp_path / "c.yaml").source
    assert isinstance(source, KafkaSource)
    assert (source.topics, source.group) == ([topic, other], f"stream-ad-{topic}")
    assert "looked at 80 of 80 records" in done.output
