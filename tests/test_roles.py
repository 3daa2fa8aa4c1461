"""Workers of one role each: scorers that never train, a trainer that never writes, one registry between them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stream_ad.learning import gate, training_job
from stream_ad.registry import ModelRegistry
from stream_ad.simulation import Plant
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.conftest import Kafka
from tests.object_store import object_store
from tests.running import RunningWorker, Topics, kafka_config, plant_json, publish_model, wait_until
from tests.test_registry import a_snapshot
from tests.test_trainer import a_job, a_window
from tests.test_worker import score_all, settings


@pytest.fixture(params=["folder", "object store"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a model registry may be."""
    if request.param == "folder":
        yield str(tmp_path / "models")
    else:
        with object_store() as url:
            yield f"{url}/plant"


@pytest.mark.kafka
def test_two_scorers_follow_what_one_trainer_learns(kafka: Kafka, tmp_path: Path, registry: str) -> None:
    topics, plant = Topics(), Plant(seed=0, drift=False)
    topics.create(kafka, partitions=2)
    config = kafka_config(
        kafka.bootstrap, topics, Path("models"), training__min_rows=4000, training__cold_start="half_space_trees"
    )
    config["registry"]["path"] = registry

    def started(role: str, name: str) -> RunningWorker:
        return RunningWorker(tmp_path, config | {"role": role}, name)

    def produce(n: int, first: int) -> None:
        for partition in range(2):
            rows = plant_json(plant.rows(n // 2).values, first + partition * n // 2)
            kafka.produce(topics.input, rows, partition=partition)

    produce(4000, 0)
    with started("trainer", "trainer") as trainer, started("scorer", "one") as one, started("scorer", "two") as two:
        accepted = 'stream_ad_trainings_total{result="accepted",trigger="first"}'
        wait_until(lambda: trainer.metric(accepted) == 1.0, 250)
        versions = [scorer.wait_for_log("a model is live", 60)["version"] for scorer in (one, two)]
        assert ModelRegistry(registry, 10).live() == versions[0] == versions[1]
        assert trainer.metric("stream_ad_sampled_rows_total") == 4000.0
        # Both scorers are members by now: each takes a partition.
        produce(1000, 4000)
        found = [json.loads(record.value or b"") for record in kafka.consume(topics.scores, 5000, 60)]
        assert Counter(row["id"] for row in found) == Counter(f"row-{i}" for i in range(5000)), (
            "the trainer writes nothing"
        )
        late = [row for row in found if int(row["id"][4:]) >= 4000]
        assert {(row["status"], row["model"]) for row in late} == {("scored", versions[0])}
        scored = 'stream_ad_records_total{result="scored"}'
        assert [worker.metric(scored) for worker in (trainer, one, two)] == [0.0, 500.0, 500.0]
        assert "stream_ad_trainings_total{" not in one.get("/metrics")[1]
        assert 'role="scorer"' in one.get("/metrics")[1]
        assert [worker.stop() for worker in (trainer, one, two)] == [0, 0, 0]
    assert sum(kafka.committed(f"{topics.group}-trainer", topics.input).values()) == 5000
    assert sum(kafka.committed(topics.group, topics.input).values()) == 5000
    assert ModelRegistry(registry, 10).load_window() is not None, "the trainer keeps its window"


@pytest.mark.kafka
def test_a_trainer_passes_over_a_long_backlog(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    kafka.produce(topics.input, plant_json(Plant(seed=0, drift=False).rows(6000).values))
    config = kafka_config(
        kafka.bootstrap,
        topics,
        tmp_path / "models",
        training__min_rows=500,
        training__window_rows=500,
        source__max_poll_records=200,
    )
    with RunningWorker(tmp_path, config | {"role": "trainer"}) as trainer:
        wait_until(lambda: kafka.committed(f"{topics.group}-trainer", topics.input).get(0) == 6000, 60)
        assert 500 <= trainer.metric("stream_ad_sampled_rows_total") <= 2000
        assert "stream_ad_consumer_lag_records{" not in trainer.get("/metrics")[1], "its lag would mean nothing"
        assert trainer.stop() == 0


def test_a_trainer_looks_at_a_sample_and_writes_nothing(tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    config = settings(tmp_path / "models", training__sample=0.25).model_copy(update={"role": "trainer"})
    source, sink = MemorySource(), MemorySink()
    worker = Worker(config, source=source, sink=sink)
    assert score_all(worker, source, [*plant_json(Plant(0, drift=False).rows(4000).values), b"{"]) == 0
    assert 900 <= worker.status()["rows"] <= 1100
    assert worker.status()["window_rows"] > 850, "what it scores as normal enters the window"
    assert (sink.values, sink.dead_letters) == ([], [])
    assert source.committed == 4001


def test_a_scorer_needs_no_right_to_write(tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    before = sorted(path.name for path in (tmp_path / "models").iterdir())
    config = settings(tmp_path / "models", training__every_rows=100).model_copy(update={"role": "scorer"})
    source, sink = MemorySource(), MemorySink()
    worker = Worker(config, source=source, sink=sink)
    assert score_all(worker, source, plant_json(Plant(0).rows(3000).values)) == 0
    assert len(sink.values) == 3000
    assert worker.status()["trainings"] == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == before


def test_a_scorer_without_a_model_says_what_it_waits_for(tmp_path: Path) -> None:
    config = settings(tmp_path / "models").model_copy(update={"role": "scorer"})
    worker = Worker(config, source=MemorySource(), sink=MemorySink())
    assert any("a trainer publishes the first one" in reason for reason in worker.not_ready())


def test_of_two_trainings_the_one_that_was_overtaken_stays_out(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one publishes between this one's start and its end."""
    models = ModelRegistry(registry, 5)
    models.check_writable()
    judge = gate.judge

    def overtaken(*rows: Any, **kind: bool) -> gate.Verdict:
        models.set_live(models.save(a_snapshot()))
        return judge(*rows, **kind)

    monkeypatch.setattr(gate, "judge", overtaken)
    result = train_here(tmp_path / "job", registry)
    assert not result.accepted
    assert "while this one trained" in result.reasons[0]
    assert models.live() not in (None, result.version)
    monkeypatch.setattr(gate, "judge", judge)
    assert train_here(tmp_path / "next", registry).version == models.live()


def train_here(folder: Path, registry: str) -> training_job.Result:
    """What the trainer's process does, in this one."""
    folder.mkdir()
    job = replace(a_job(folder), registry=registry, live=ModelRegistry(registry, 5).live(), parent=os.getppid())
    (folder / training_job.JOB_FILE).write_text(json.dumps(asdict(job)))
    window = {name: np.ascontiguousarray(array) for name, array in a_window().state().items()}
    save_file(window, folder / training_job.WINDOW_FILE)
    return training_job.run(folder)
