"""The configuration: what is read how, and that what is wrong stops the start with its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from stream_ad import config
from stream_ad.config import ConfigError, load, warnings

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "config.yaml"

SMALL = """
source:
  topics: [t]
schema:
  features: [a, b]
sink: {}
"""


def read(tmp_path: Path, text: str = SMALL, *overrides: str, **environ: str) -> config.Config:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load(path, overrides, environ)


def problems(tmp_path: Path, text: str = SMALL, *overrides: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text, *overrides, **environ)
    return str(error.value)


def test_the_shipped_configuration_is_good_and_is_the_defaults(tmp_path: Path) -> None:
    shipped = load(SHIPPED, environ={})
    small = read(tmp_path, SMALL, "source.topics=[plant]", f"schema.features={list(shipped.schema_.features)}")
    assert shipped == small


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    return {f"{prefix}{field.alias or name}" for name, field in model.model_fields.items()}


def test_the_shipped_configuration_shows_every_key() -> None:
    text = SHIPPED.read_text()
    models = [config.KafkaSource, config.FileSource, config.Schema, config.DetectorSettings, config.Training]
    models += [config.Alerts, config.KafkaSink, config.FileSink, config.Registry, config.Monitoring, config.Config]
    missing = {key for model in models for key in keys(model) if f"{key}:" not in text and f"({key}" not in text}
    assert missing - {"path"} == set()


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = SMALL + "alerts:\n  false_alarm_rate: 1e-3\n"
    assert read(tmp_path, text).alerts.false_alarm_rate == 0.001
    assert read(tmp_path, SMALL, "alerts.false_alarm_rate=1e-3").alerts.false_alarm_rate == 0.001
    environment = {"STREAM_AD__ALERTS__FALSE_ALARM_RATE": "1e-3"}
    assert read(tmp_path, SMALL, **environment).alerts.false_alarm_rate == 0.001


@pytest.mark.parametrize("name", ["0123", "12:30", "off", "no", "1e5", "0x1F"])
def test_names_that_yaml_takes_for_something_else_stay_names(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, SMALL.replace("[t]", f"[{name}]")).source.topics == [name]


def test_what_we_write_we_can_read(tmp_path: Path) -> None:
    first = read(tmp_path, SMALL, "alerts.false_alarm_rate=0.00001", "source.topics=[0123]")
    assert read(tmp_path, yaml.safe_dump(first.dump())) == first


def test_overrides_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    environ = {"STREAM_AD__SOURCE__GROUP": "from-environment", "STREAM_AD__REGISTRY__KEEP": "7"}
    found = read(tmp_path, SMALL + "registry: {keep: 5}\n", "source.group=from-command", **environ)
    assert found.source.group == "from-command"
    assert found.registry.keep == 7


@pytest.mark.parametrize(
    ("environ", "password", "brokers"),
    [
        ({}, "p$5w:rd", "a:9092,b:9093"),
        ({"PW": "", "BROKERS": "c:1"}, "", "c:1"),
        ({"PW": "0123"}, "0123", "a:9092,b:9093"),
        ({"PW": "${BROKERS}"}, "${BROKERS}", "a:9092,b:9093"),
    ],
)
def test_values_from_the_environment(tmp_path: Path, environ: dict[str, str], password: str, brokers: str) -> None:
    text = """
source:
  bootstrap_servers: "${BROKERS:a:9092,b:9093}"
  topics: ["costs $5, $${LITERALLY}"]
  security_protocol: SASL_SSL
  sasl_mechanism: PLAIN
  sasl_username: u
  sasl_password: "${PW:p$5w:rd}"
schema: {features: [a]}
sink: {}
"""
    found = read(tmp_path, text, **environ)
    assert found.source.bootstrap_servers == brokers
    assert found.source.sasl_password.get_secret_value() == password
    assert found.source.topics == ["costs $5, ${LITERALLY}"]


def test_an_unset_variable_without_a_default_names_key_line_and_variable(tmp_path: Path) -> None:
    message = problems(tmp_path, SMALL.replace("[t]", '\n    - "${TOPIC}"'))
    assert "source.topics.0 (line 4)" in message
    assert "TOPIC is not set" in message


def test_a_value_from_the_environment_cannot_bring_structure(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL.replace("[t]", '["${X}"]'), X="a]\nsink: {type: memory}")
    assert found.source.topics == ["a]\nsink: {type: memory}"]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["alerts.fals_alarm_rate=1"], ["alerts.fals_alarm_rate", "did you mean false_alarm_rate?"]),
        (["source.topic=x"], ["source.topic:", "did you mean topics?"]),
        (["alert.false_alarm_rate=1"], ["alert:", "did you mean alerts?"]),
        (["alerts.false_alarm_rate=high"], ["alerts.false_alarm_rate", "valid number", "'high'"]),
        (["alerts.false_alarm_rate=0"], ["alerts.false_alarm_rate", "greater than 0"]),
        (["detector.device=gpu"], ["detector.device", "'auto', 'cpu' or 'cuda'"]),
        (["training.min_rows=1e4"], ["training.min_rows", "'1e4'"]),
        (["training.min_rows=30000"], ["training.min_rows", "never holds 30000"]),
        (["schema.features=[a, a]"], ["schema.features", "a stands there twice"]),
        (["schema.features=[]"], ["schema.features"]),
        (["schema.format=float32", "schema.id=x"], ["schema.id", "no fields"]),
        (["schema.timezone=Mars/Base"], ["schema.timezone", "Mars/Base"]),
        (["sink.topic=t"], ["sink.topic", "t is also read"]),
        (["sink.dead_letter_topic=t"], ["sink.dead_letter_topic"]),
        (["sink.dead_letter_topic=stream-ad.scores"], ["sink.dead_letter_topic"]),
        (["sink.anomalies_topic=stream-ad.scores"], ["sink.anomalies_topic"]),
        (["source.sasl_mechanism=PLAIN"], ["source.security_protocol"]),
        (["source.security_protocol=SASL_SSL"], ["source.sasl_mechanism"]),
        (["source.ssl_certfile=x"], ["source.ssl_keyfile"]),
        (["source.max_poll_interval=10"], ["source.max_poll_interval"]),
        (["source.type=carrier-pigeon"], ["source"]),
        (["no-equals-sign"], ["section.key=value"]),
        (["shutdown_timeout=-1"], ["shutdown_timeout"]),
    ],
)
def test_what_is_wrong_is_named_with_its_path(tmp_path: Path, overrides: list[str], wanted: list[str]) -> None:
    message = problems(tmp_path, SMALL, *overrides)
    for part in wanted:
        assert part in message


def test_problems_come_with_their_line_and_all_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, SMALL + "alerts:\n  false_alarm_rate: much\ntraining:\n  windowrows: 3\n")
    assert "alerts.false_alarm_rate (line 8)" in message
    assert "training.windowrows (line 10)" in message
    assert "2 problem(s)" in message


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    message = problems(tmp_path, SMALL + "registry:\n  path: a\n  path: b\n")
    assert "registry.path (line 9): stands here a second time" in message


@pytest.mark.parametrize("text", ["", "just a text", "- a\n- b\n", "source: [\n", "\t"])
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str) -> None:
    problems(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nowhere.yaml", environ={})


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    secret = "hunter2-0123"
    overrides = ["source.security_protocol=SASL_SSL", "source.sasl_mechanism=PLAIN", "source.sasl_username=u"]
    found = read(tmp_path, SMALL, *overrides, f"source.sasl_password={secret}")
    assert secret not in str(found.dump()) + repr(found) + str(found)
    assert found.sink.sasl_password.get_secret_value() == secret, "the sink uses the source's connection"
    message = problems(tmp_path, SMALL, *overrides, f"source.sasl_password=[{secret}]")
    assert secret not in message
    assert "source.sasl_password" in message


def test_connection_settings_left_out_of_the_sink_are_the_sources(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL, "source.bootstrap_servers=far:9092", "sink.ssl_check_hostname=false")
    assert found.sink.bootstrap_servers == "far:9092"
    assert not found.sink.ssl_check_hostname
    assert (
        read(tmp_path, SMALL, "source.bootstrap_servers=far:1", "sink.bootstrap_servers=near:2").sink.bootstrap_servers
        == "near:2"
    )


def test_a_file_source_needs_no_kafka(tmp_path: Path) -> None:
    text = "source: {type: file, path: x.csv}\nschema: {features: [a]}\nsink: {type: file, path: y.jsonl}\n"
    found: Any = read(tmp_path, text)
    assert (found.source.path, found.sink.path) == ("x.csv", "y.jsonl")


def test_a_window_too_small_for_the_budget_is_a_warning(tmp_path: Path) -> None:
    assert warnings(read(tmp_path)) == []
    (warning,) = warnings(read(tmp_path, SMALL, "alerts.false_alarm_rate=0.0001"))
    assert "training.window_rows" in warning
