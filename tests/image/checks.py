"""The image as production runs it, against a real broker: `make test-image`.

Not named test_*.py: a plain pytest run leaves it out, for the build takes minutes and needs root.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_ad.simulation import Plant
from tests.conftest import Kafka
from tests.image.engine import LIMITS, LOCKED_DOWN, Container, build
from tests.kafka_broker import free_port
from tests.running import Topics, kafka_config, plant_json, wait_until

SHUTDOWN_SECONDS = 20
ROWS = 1500


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    """The built image's configuration."""
    return build()


class Worker:
    """A container that runs the image's own command against topics of its own."""

    def __init__(self, container: Container, topics: Topics, port: int) -> None:
        self.container, self.topics, self.port = container, topics, port

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of an answer of the monitoring port, 0 where there is none."""
        code = (
            "import sys, urllib.request as web, urllib.error as e\n"
            "try: a = web.urlopen(sys.argv[1], timeout=3)\n"
            "except e.HTTPError as error: a = error\n"
            "print(a.status); print(a.read().decode())"
        )
        done = self.container.exec("python", "-c", code, f"http://127.0.0.1:{self.port}{path}")
        status, _, body = done.stdout.partition("\n")
        return int(status or 0), body

    def metric(self, series: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(series + " ")), 0.0)

    def wait_for(self, what: Any, seconds: float = 120.0) -> Any:
        def look() -> Any:
            assert self.container.state()["Running"], self.container.logs()
            return what()

        return wait_until(look, seconds, every=0.5)


@pytest.fixture
def start(image: dict[str, Any], kafka: Kafka, tmp_path: Path) -> Any:
    """A context manager that runs a worker: `with start(options) as worker`."""

    @contextmanager
    def started(options: list[str], user: int = 10001, cold_start: str = "none") -> Iterator[Worker]:
        topics, port = Topics(), free_port()
        topics.create(kafka)
        training = {"training__min_rows": 1000, "training__cold_start": cold_start}
        settings = kafka_config(kafka.bootstrap, topics, Path("models"), **training)
        settings["monitoring"]["port"] = port
        settings["shutdown_timeout"] = SHUTDOWN_SECONDS
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(settings))
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        os.chown(models, user, 0)
        mounts = [f"--volume={config}:/etc/stream-ad/config.yaml:ro", f"--volume={models}:/models"]
        with Container(options=[*mounts, f"--env=STREAM_AD__MONITORING__PORT={port}", *options]) as container:
            yield Worker(container, topics, port)

    return started


def feed(kafka: Kafka, worker: Worker, rows: int = ROWS) -> None:
    kafka.produce(worker.topics.input, plant_json(Plant(seed=0, drift=False).rows(rows).values))


def test_image_is_what_a_cluster_expects(image: dict[str, Any]) -> None:
    assert image["User"] == "10001:10001"
    assert image["Entrypoint"] == ["stream-ad"]
    assert image["Cmd"] == ["run", "-c", "/etc/stream-ad/config.yaml", "--watch"]
    assert image["StopSignal"] == "SIGTERM"
    assert list(image["Volumes"]) == ["/models"]
    assert image["Healthcheck"]["Test"][0] == "CMD"


def test_image_carries_byte_code_and_no_tools(image: dict[str, Any]) -> None:
    look = (
        "import importlib.util as u, pathlib, shutil, stream_ad, torch, kafka, s3fs\n"
        "for m in (stream_ad, torch, kafka, s3fs): assert pathlib.Path(u.cache_from_source(m.__file__)).is_file(), m\n"
        "assert not [t for t in ('gcc', 'cc', 'make', 'curl', 'git') if shutil.which(t)]\n"
        "assert not pathlib.Path('/opt/stream-ad/bin/pip').exists()"
    )
    with Container("-c", look, options=[*LOCKED_DOWN, "--entrypoint=python"]) as container:
        assert container.wait(60) == 0, container.logs()


def test_locked_down_it_learns_scores_answers_and_ends_on_sigterm(image: Any, kafka: Kafka, start: Any) -> None:
    with start(LOCKED_DOWN) as worker:
        health = image["Healthcheck"]["Test"][1:]
        worker.wait_for(lambda: worker.container.exec(*health).returncode == 0)
        closed_port = ("--env", "STREAM_AD__MONITORING__PORT=1")
        assert worker.container.exec(*health, options=closed_port).returncode != 0
        feed(kafka, worker)
        accepted = 'stream_ad_trainings_total{result="accepted",trigger="first"}'
        worker.wait_for(lambda: worker.metric(accepted) == 1.0, 240)
        assert worker.wait_for(lambda: worker.ask("/readyz")[0] == 200)
        feed(kafka, worker, 200)
        worker.wait_for(lambda: worker.metric('stream_ad_records_total{result="scored"}') >= 200)
        outputs = [json.loads(record.value or b"") for record in kafka.consume(worker.topics.scores, ROWS + 200)]
        assert [output["status"] for output in outputs[-200:]] == ["scored"] * 200
        started = time.monotonic()
        assert worker.container.stop(SHUTDOWN_SECONDS + 5) == 0, worker.container.logs()
        assert time.monotonic() - started < SHUTDOWN_SECONDS


def test_any_user_of_group_0_will_do_and_nothing_is_written_but_tmp_and_models(kafka: Kafka, start: Any) -> None:
    # With a root that could be written, so that what is written shows.
    free = [*LIMITS, "--user=12345:0", "--env=HOME=/", "--cap-drop=all", "--security-opt=no-new-privileges"]
    with start([*free, "--entrypoint=/bin/true"], user=12345) as nothing:
        nothing.container.wait(60)
        mounted = set(nothing.container.changed_paths())
    with start(free, user=12345, cold_start="half_space_trees") as worker:
        feed(kafka, worker, 500)
        worker.wait_for(lambda: worker.ask("/readyz")[0] == 200)
        assert worker.container.exec("touch", "/var/tmp/seen").returncode == 0
        assert worker.container.stop(SHUTDOWN_SECONDS + 5) == 0, worker.container.logs()
        changed = set(worker.container.changed_paths()) - mounted
        assert {path for path in changed if not path.startswith("/tmp")} == {"/var", "/var/tmp", "/var/tmp/seen"}


def test_models_that_cannot_be_written_are_told_at_the_start(start: Any) -> None:
    with start(LOCKED_DOWN, user=0) as worker:
        assert worker.container.wait(60) == 2, worker.container.logs()
        assert "registry.path models cannot be written" in worker.container.logs()


def test_sigterm_during_a_training_ends_all_processes_and_leaves_no_half_model(
    kafka: Kafka, start: Any, tmp_path: Path
) -> None:
    with start(LOCKED_DOWN) as worker:
        feed(kafka, worker)
        worker.wait_for(lambda: worker.metric("stream_ad_training_running") == 1.0)
        processes = worker.container.processes()
        assert len(processes) >= 2
        assert worker.container.stop(SHUTDOWN_SECONDS + 5) == 0, worker.container.logs()
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert [path.name for path in (tmp_path / "models").iterdir() if path.name.startswith(".")] == []
