"""The commands as people type them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from stream_ad.cli import app
from stream_ad.detector import Recipe
from stream_ad.records import RecordSchema
from stream_ad.registry import ModelRegistry
from stream_ad.simulation import SENSORS, Plant
from tests.conftest import Kafka
from tests.running import SHORT, Topics, kafka_config, publish_model
from tests.test_registry import a_snapshot

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def quick_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands train in this process: a short recipe will do."""
    monkeypatch.setattr("stream_ad.detector.detector.Recipe", lambda **sizes: Recipe(**sizes) if sizes else SHORT)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"""
source: {{type: file, path: {tmp_path}/in.csv}}
schema: {{features: [{", ".join(SENSORS)}]}}
training: {{min_rows: 300}}
alerts: {{false_alarm_rate: 0.01}}
sink: {{type: file, path: {tmp_path}/out.jsonl}}
registry: {{path: {tmp_path}/models}}
monitoring: {{host: 127.0.0.1, port: 0}}
"""
    )
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def write_csv(path: Path, rows: np.ndarray) -> Path:
    lines = [",".join(SENSORS), *(",".join(f"{value:.4f}" for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_help_teaches() -> None:
    text = run("--help").output
    for command in ("run", "demo", "lint", "train", "score", "produce", "models"):
        assert command in text
    assert "no broker needed" in text
    assert "Exit codes" in run("run", "--help").output


def test_lint_of_the_shipped_configuration() -> None:
    done = run("lint", "-c", ROOT / "config.yaml")
    assert done.exit_code == 0
    assert "12 features" in done.output
    assert "next: stream-ad run" in done.output


def test_lint_names_the_wrong_key_and_ends_with_2(config: Path) -> None:
    done = run("lint", "-c", config, "--set", "alerts.false_alarm_rte=0.1")
    assert done.exit_code == 2
    assert "alerts.false_alarm_rte" in done.output
    assert "did you mean false_alarm_rate?" in done.output


def test_run_with_a_wrong_configuration_ends_with_2(config: Path) -> None:
    assert run("run", "-c", config, "--set", "training.min_rows=many").exit_code == 2
    assert run("run", "-c", config.with_name("nowhere.yaml")).exit_code == 2


def test_train_then_score_then_look_at_the_models(config: Path, tmp_path: Path) -> None:
    plant = Plant(seed=0, drift=False)
    history = write_csv(tmp_path / "history.csv", plant.rows(1500).values)
    rows = plant.rows(300).values
    rows[100, 6] += 8.0
    today = write_csv(tmp_path / "today.csv", rows)
    with today.open("a") as file:
        file.write(",".join(["Bad"] * 12) + "\n")

    done = run("train", "-c", config, "--input", history)
    assert done.exit_code == 0, done.output
    version = re.search(r"model (\S+) is live", done.output)[1]  # type: ignore[index]  # asserted by use

    done = run("score", today, "-o", tmp_path / "scores.jsonl", "-c", config)
    assert done.exit_code == 0, done.output
    assert "300 rows scored" in done.output
    assert "1 bad records" in done.output
    assert "row 300: feed_flow is no number: 'Bad'" in done.output
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 300
    assert scores[100]["is_anomaly"]
    assert max(scores[100]["attribution"], key=scores[100]["attribution"].get) == "pump_current"
    assert sum(one["is_anomaly"] for one in scores) < 15
    assert len((tmp_path / "scores.dead-letters.jsonl").read_text().splitlines()) == 1
    assert run("score", today, "-o", tmp_path / "scores.jsonl", "-c", config, "--strict").exit_code == 1

    assert version in run("models", "list", "-c", config).output
    shown = json.loads(run("models", "show", "-c", config).output)
    assert shown["features"] == list(SENSORS)
    assert run("models", "rollback", "-c", config).exit_code == 2, "there is nothing before it"
    run("train", "-c", config, "--input", history)
    assert run("models", "rollback", "-c", config).output == f"model {version} is live\n"


def test_train_learns_from_a_history_longer_than_the_window(config: Path, tmp_path: Path) -> None:
    plant = Plant(seed=0, drift=False)
    former = np.where(np.arange(len(SENSORS)) < 4, 8.0 * plant.rows(500).values.std(axis=0), 0.0)
    rows = plant.rows(4500).values
    rows[:1500] += former
    history = write_csv(tmp_path / "history.csv", rows)
    done = run("train", "-c", config, "--input", history, "--set", "training.window_rows=600")
    assert done.exit_code == 0, done.output

    today = write_csv(tmp_path / "today.csv", plant.rows(300).values + former)
    run("score", today, "-o", tmp_path / "scores.jsonl", "-c", config)
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert sum(one["is_anomaly"] for one in scores) < 30, "what it did at first, 3,000 rows ago, is known"


def test_models_list_and_show_name_the_reference_and_what_was_rolled_back(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_ad.cli.out", Console(width=160))
    models = ModelRegistry(str(tmp_path / "models"), 5)
    ours = RecordSchema(SENSORS).fingerprint
    first, live, bad = sorted(models.save(a_snapshot(schema_fingerprint=ours)) for _ in range(3))
    models.set_live(live)
    models.reject_rolled_back(bad, "rolled back: it flagged 900 rows")
    lines = {line.split()[1]: line for line in run("models", "list", "-c", config).output.splitlines() if "T" in line}
    assert "accepted, reference" in lines[first]
    assert " live " in lines[live]
    assert "│ rolled back: it flagged 900 rows" in lines[bad]
    shown = {version: json.loads(run("models", "show", version, "-c", config).output) for version in (first, live)}
    assert [(model["live"], model["reference"]) for model in shown.values()] == [(False, True), (True, False)]


def test_run_on_a_file_ends_at_its_end(config: Path, tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    write_csv(tmp_path / "in.csv", Plant(seed=0).rows(6500).values)
    from stream_ad.config import load
    from stream_ad.worker import Worker

    assert Worker(load(config)).run() == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6500


def test_score_without_a_model_says_how_to_get_one(config: Path, tmp_path: Path) -> None:
    done = run("score", write_csv(tmp_path / "x.csv", np.ones((3, 12))), "-o", tmp_path / "o.jsonl", "-c", config)
    assert done.exit_code == 2
    assert "stream-ad train" in done.output


@pytest.mark.parametrize("content", ["", ",".join(SENSORS) + "\n"])
def test_nothing_in_the_file(config: Path, tmp_path: Path, content: str) -> None:
    publish_model(tmp_path / "models")
    path = tmp_path / "x.csv"
    path.write_text(content)
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config)
    assert done.exit_code == 0
    assert "0 rows scored" in done.output
    assert (tmp_path / "o.jsonl").read_text() == ""
    done = run("train", "-c", config, "--input", path)
    assert done.exit_code == 2
    assert "0 usable rows, but training.min_rows = 300" in done.output


def test_a_file_of_another_dialect_ends_with_2_and_the_option(config: Path, tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    path = tmp_path / "x.csv"
    path.write_text(";".join(SENSORS) + "\n" + ";".join(["1,5"] * 12) + "\n")
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config)
    assert done.exit_code == 2
    assert "--delimiter ';'" in done.output
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config, "--delimiter", ";", "--decimal-comma")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "o.jsonl").read_text())["status"] == "scored"


def test_other_files_are_written_as_the_configured_one_unless_the_command_line_says_otherwise(
    config: Path, tmp_path: Path
) -> None:
    publish_model(tmp_path / "models")
    written = config.read_text().replace("in.csv}", "in.csv, delimiter: ;, decimal_comma: true, header_line: 2}")
    config.write_text(written.replace("delimiter: ;", 'delimiter: ";"'))
    path, today = tmp_path / "x.csv", tmp_path / "o.jsonl"
    path.write_text("of today\n" + ";".join(SENSORS) + "\n" + ";".join(["1,5"] * 12) + "\n")
    done = run("score", path, "-o", today, "-c", config)
    assert done.exit_code == 0, done.output
    assert json.loads(today.read_text())["status"] == "scored"
    path.write_text("\t".join(SENSORS) + "\n" + "\t".join(["1.5"] * 12) + "\n")
    done = run(
        *("score", path, "-o", today, "-c", config), "--delimiter", r"\t", "--decimal-point", "--header-line", "1"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(today.read_text())["status"] == "scored"


def test_options_for_files_apply_to_the_configured_file_and_need_one(config: Path, tmp_path: Path) -> None:
    rows = Plant(0).rows(400).values
    lines = [";".join(SENSORS), *(";".join(f"{value:.4f}" for value in row) for row in rows)]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    assert "--delimiter ';'" in run("train", "-c", config).output
    done = run("train", "-c", config, "--delimiter", ";")
    assert done.exit_code == 0, done.output
    done = run("train", "-c", ROOT / "config.yaml", "--delimiter", ";")
    assert (done.exit_code, "--delimiter is for a file" in done.output) == (2, True)
    done = run("train", "-c", config, "--delimiter", "ab")
    assert (done.exit_code, "--delimiter 'ab'" in done.output) == (2, True)


def test_a_file_of_which_nothing_can_be_read_ends_with_2_and_the_first_reason(config: Path, tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    path = tmp_path / "x.csv"
    path.write_text(",".join(SENSORS) + "\n" + "\n".join([",".join(["60.5 C", *["1.5"] * 11])] * 5) + "\n")
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config)
    assert done.exit_code == 2
    assert "none of 5 records could be read" in done.output
    assert "60.5 C" in done.output
    done = run("train", "-c", config, "--input", path)
    assert done.exit_code == 2
    assert "5 records could not be read, the first" in done.output
    assert "60.5 C" in done.output


def test_times_that_cannot_be_read_are_counted(config: Path, tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    path = tmp_path / "x.csv"
    path.write_text(",".join(["when", *SENSORS]) + "\n" + ",".join(["27.11.2026", *["1.5"] * 12]) + "\n")
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config, "--set", "schema.timestamp=when")
    assert done.exit_code == 0, done.output
    assert "1 rows have no time that could be read from when" in done.output.replace("\n", " ")


def test_a_budget_by_the_day_is_told_to_mean_little_for_a_file(config: Path, tmp_path: Path) -> None:
    publish_model(tmp_path / "models")
    by_the_day = (
        (ROOT / "config.yaml").read_text().replace("  false_alarm_rate:", "  #").replace("per_day: null", "per_day: 5")
    )
    config.write_text(by_the_day)
    path = write_csv(tmp_path / "x.csv", np.ones((3, 12)))
    done = run("score", path, "-o", tmp_path / "o.jsonl", "-c", config, "--set", f"registry.path={tmp_path}/models")
    assert "alerts.per_day: a file has no rows a day" in done.output


@pytest.mark.parametrize("command", ["train", "score"])
def test_a_full_disk_is_a_message(config: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device", "models/weights")

    monkeypatch.setattr(f"stream_ad.offline.{command}", full)
    path = write_csv(tmp_path / "x.csv", np.ones((3, 12)))
    more = ["-o", tmp_path / "o.jsonl", path] if command == "score" else ["-i", path]
    done = run(command, "-c", config, *more)
    assert done.exit_code == 2
    assert "No space left on device: 'models/weights'" in done.output


@pytest.mark.kafka
def test_produce_lint_and_train_against_a_broker(kafka: Kafka, tmp_path: Path) -> None:
    import yaml

    topics = Topics()
    topics.create(kafka)
    path = tmp_path / "k.yaml"
    path.write_text(yaml.safe_dump(kafka_config(kafka.bootstrap, topics, tmp_path / "models")))
    done = run("lint", "-c", path, "--connect")
    assert done.exit_code == 0, done.output
    done = run("produce", "-c", path, "--rows", "3000", "--fault-rate", "0")
    assert (done.exit_code, "3000 records sent" in done.output) == (0, True), done.output
    first = json.loads(kafka.consume(topics.input, 1)[0].value or b"")
    assert set(SENSORS) < first.keys()
    done = run("train", "-c", path)
    assert done.exit_code == 0, done.output
    assert "learned from 3000 rows" in done.output
    assert kafka.committed(topics.group, topics.input) == {}, "the worker's group is not touched"
    done = run("produce", "-c", path, "--input", write_csv(tmp_path / "x.csv", np.ones((5, 12))))
    assert "5 records sent" in done.output
    done = run("lint", "-c", path, "--connect", "--set", "sink.topic=nowhere")
    assert done.exit_code == 2
    assert "nowhere" in done.output
