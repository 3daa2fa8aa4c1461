"""A configuration that changes while the worker runs: by content, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from stream_ad.config import ConfigError, ConfigWatcher
from stream_ad.simulation import SENSORS, Plant
from stream_ad.transports import PartitionLag
from stream_ad.transports.memory import MemorySink, MemorySource
from stream_ad.worker import Worker
from tests.conftest import Kafka
from tests.running import RunningWorker, Topics, kafka_config, plant_json, publish_model, wait_until


def config_text(registry: Path = Path("models"), rate: float = 0.005, **training: object) -> str:
    return yaml.safe_dump(
        {
            "source": {"type": "memory"},
            "sink": {"type": "memory"},
            "schema": {"features": list(SENSORS), "id": "id"},
            "training": {"every_rows": None, "every_seconds": None, "cold_start": "none"} | training,
            "alerts": {"false_alarm_rate": rate},
            "registry": {"path": str(registry)},
            "monitoring": {"host": "127.0.0.1", "port": 0},
            "detector": {"threads": 1},
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(config_text())
    return path


def second_look(watcher: ConfigWatcher) -> list[str] | None:
    """A change counts once it stands still."""
    assert watcher.look() is None
    return watcher.look()


def test_nothing_happens_while_the_content_is_the_same(path: Path) -> None:
    watcher = ConfigWatcher(path)
    path.write_text(config_text())
    assert [watcher.look() for _ in range(3)] == [None] * 3


def test_what_changed_is_named_once(path: Path) -> None:
    watcher = ConfigWatcher(path)
    path.write_text(config_text(rate=0.01, min_rows=500))
    assert second_look(watcher) == ["training.min_rows", "alerts.false_alarm_rate"]
    assert (watcher.config.alerts.false_alarm_rate, watcher.config.training.min_rows) == (0.01, 500)
    assert watcher.look() is None


def test_half_a_file_is_waited_for(path: Path) -> None:
    watcher = ConfigWatcher(path)
    path.write_text(config_text(rate=0.01)[:90])
    assert watcher.look() is None
    path.write_text(config_text(rate=0.01))
    assert second_look(watcher) == ["alerts.false_alarm_rate"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: [", "no YAML"),
        (config_text(rate=7.0), r"alerts.false_alarm_rate \(line \d+\): input should be less than or equal to 0.2"),
        (config_text(Path("elsewhere"), rate=0.01), "registry.path: takes a restart to change"),
        (config_text(window_rows=9000), "training.window_rows: takes a restart to change"),
        (config_text().replace("type: memory", "type: file\n  path: a.csv"), "source: takes a restart to change"),
    ],
)
def test_what_cannot_be_used_is_refused_once_and_the_old_one_holds(path: Path, text: str, message: str) -> None:
    watcher = ConfigWatcher(path)
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        second_look(watcher)
    assert watcher.config.alerts.false_alarm_rate == 0.005
    assert watcher.look() is None
    path.write_text(config_text())
    assert second_look(watcher) == [], "the old one is back"


def test_a_config_map_changes_by_a_swapped_link(tmp_path: Path) -> None:
    for name, rate in (("..2031_a", 0.005), ("..2031_b", 0.01)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config_text(rate=rate))
    (tmp_path / "..data").symlink_to("..2031_a")
    (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
    watcher = ConfigWatcher(tmp_path / "config.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2031_b")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert second_look(watcher) == ["alerts.false_alarm_rate"]


def test_a_file_that_is_gone_for_a_moment_changes_nothing(path: Path) -> None:
    watcher = ConfigWatcher(path)
    text = path.read_text()
    path.unlink()
    assert watcher.look() is None
    path.write_text(text)
    assert [watcher.look() for _ in range(3)] == [None] * 3


def test_overrides_go_on_overriding(path: Path) -> None:
    watcher = ConfigWatcher(path, ["alerts.false_alarm_rate=0.1"])
    path.write_text(config_text(rate=0.01, min_rows=500))
    assert second_look(watcher) == ["training.min_rows"]


def look(worker: Worker, reached: Callable[[], bool]) -> None:
    def turn() -> bool:
        worker._next_statistics = 0.0
        worker._look_around(MemorySource())
        worker._learn()
        return reached()

    wait_until(turn)


def test_another_budget_holds_for_model_window_and_metrics(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    version = publish_model(tmp_path / "models")
    path.write_text(config_text(tmp_path / "models", rate=0.0001))
    watcher = ConfigWatcher(path)
    source, sink = MemorySource(), MemorySink()
    worker = Worker(watcher.config, source=source, sink=sink, watcher=watcher)
    model = worker._learner.restore()
    assert model is not None
    worker._swap(model)
    rows = Plant(seed=0, drift=False).rows(2000).values
    strict = model.detector.score(rows)
    path.write_text(config_text(tmp_path / "models", rate=0.1, min_rows=700))
    look(worker, lambda: worker._scorer.model is not model)
    now = worker._scorer.model
    assert now is not None
    assert now.version == version
    assert (now.detector.score(rows) >= 1.0).mean() > 0.02 > (strict >= 1.0).mean()
    page = worker.server.answer("/metrics", "")[2].decode()
    assert "stream_ad_false_alarm_rate 0.1" in page
    assert 'stream_ad_config_reloads_total{result="applied"} 1.0' in page
    assert "stream_ad_model_swaps_total 1.0" in page, "it is the same model"
    assert worker._learner.triggers.min_rows == 700  # type: ignore[union-attr]  # role all has them


def test_alarms_a_day_follow_the_rows_that_arrive_not_those_of_a_backlog(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_text(tmp_path / "models").replace("false_alarm_rate: 0.005", "per_day: 864.0"))
    worker = Worker(ConfigWatcher(path).config, source=MemorySource(), sink=MemorySink())
    assert "stream_ad_false_alarm_rate 0.01" in worker.server.answer("/metrics", "")[2].decode(), "assumed"
    backlog, arriving, read = 90_000, 10, 1000  # rows, a second
    for second in range(0, 310, 10):
        worker._counts["rows"] = worker._counts["records"] = second * read if second <= 90 else 90_000 + second * 10
        left = max(0, backlog + second * arriving - worker._counts["rows"])
        worker._measure_rate(float(second), [PartitionLag("memory", 0, left)])
    assert worker._learning_settings().false_alarm_rate == pytest.approx(0.001, rel=0.25)
    page = worker.server.answer("/metrics", "")[2].decode()
    assert "stream_ad_false_alarm_rate 0.001" in page


def test_a_refused_one_shows_in_log_and_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_text(tmp_path / "models"))
    watcher = ConfigWatcher(path)
    worker = Worker(watcher.config, source=MemorySource(), sink=MemorySink(), watcher=watcher)
    path.write_text(config_text(tmp_path / "models", rate=7.0))
    refused = 'stream_ad_config_reloads_total{result="refused"} 1.0'
    look(worker, lambda: refused in worker.server.answer("/metrics", "")[2].decode())
    assert "the one before still holds" in caplog.text
    assert "alerts.false_alarm_rate" in caplog.text
    assert "stream_ad_config_last_reload_successful 0.0" in worker.server.answer("/metrics", "")[2].decode()
    path.write_text(config_text(tmp_path / "models"))
    good = "stream_ad_config_last_reload_successful 1.0"
    look(worker, lambda: good in worker.server.answer("/metrics", "")[2].decode())


@pytest.mark.kafka
def test_the_command_watches(kafka: Kafka, tmp_path: Path) -> None:
    topics = Topics()
    topics.create(kafka)
    publish_model(tmp_path / "models")
    settings = kafka_config(kafka.bootstrap, topics, tmp_path / "models")
    with RunningWorker(tmp_path, settings, options=["--watch"]) as worker:
        worker.wait_for_log("connected")
        settings["alerts"]["false_alarm_rate"] = 0.2
        worker.config.write_text(yaml.safe_dump(settings))
        assert worker.wait_for_log("the changed configuration holds")["changed"] == ["alerts.false_alarm_rate"]
        wait_until(lambda: sum(line["message"] == "a model is live" for line in worker.logs()) == 2)
        plant = Plant(seed=0, drift=False)
        plant.rows(6000)  # those that the model has learned
        kafka.produce(topics.input, plant_json(plant.rows(1000).values))
        wait_until(lambda: worker.metric("stream_ad_anomalies_total") > 100)
        assert worker.stop() == 0
