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
    shipped = yaml.safe_load(SHIPPED.read_text())
    sections = {"source": config.KafkaSource, "schema": config.Schema, "detector": config.DetectorSettings}
    sections |= {"training": config.Training, "alerts": config.Alerts, "sink": config.KafkaSink}
    sections |= {"registry": config.Registry, "monitoring": config.Monitoring}
    shown = set(shipped) | {f"{section}.{key}" for section in sections for key in shipped[section]}
    wanted = keys(config.Config) | {key for section, model in sections.items() for key in keys(model, f"{section}.")}
    inherited = keys(config.KafkaConnection, "sink.")
    assert shown == wanted - inherited


def test_the_shipped_configuration_shows_every_key_of_a_file(tmp_path: Path) -> None:
    _, _, commented = SHIPPED.read_text().partition("# source:\n")
    lines = [line.removeprefix("#   ") for line in commented.partition("\n\n")[0].splitlines()]
    assert set(yaml.safe_load("\n".join(lines))) == keys(config.FileSource)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = SMALL + "alerts:\n  false_alarm_rate: 1e-3\n"
    assert read(tmp_path, text).alerts.false_alarm_rate == 0.001
    assert read(tmp_path, SMALL, "alerts.false_alarm_rate=1e-3").alerts.false_alarm_rate == 0.001
    environment = {"STREAM_AD__ALERTS__FALSE_ALARM_RATE": "1e-3"}
    assert read(tmp_path, SMALL, **environment).alerts.false_alarm_rate == 0.001


def test_a_section_with_all_its_keys_commented_out_is_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, SMALL.replace("sink: {}", "sink:") + "training:\n  # min_rows: 3\n") == read(tmp_path)


@pytest.mark.parametrize("name", ["0123", "12:30", "off", "no", "1e5", "0x1F"])
def test_names_that_yaml_takes_for_something_else_stay_names(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, SMALL.replace("[t]", f"[{name}]")).source.topics == [name]


def test_what_we_write_we_can_read(tmp_path: Path) -> None:
    first = read(tmp_path, SMALL, "alerts.false_alarm_rate=0.00001", "source.topics=[0123]")
    assert read(tmp_path, yaml.safe_dump(first.dump())) == first


@pytest.mark.parametrize("name", ["a$b", "a$$b", "${HOME}", "null", "~", "", "1e-05", "[x]"])
def test_any_text_that_we_write_we_can_read(tmp_path: Path, name: str) -> None:
    first = read(tmp_path)
    first.registry.path = name
    assert read(tmp_path, yaml.safe_dump(first.dump()), HOME="/root").registry.path == name


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


@pytest.mark.parametrize("text", ["${A-B}", "${}", "a${", "${1}"])
def test_half_an_expansion_is_an_error_and_not_kept_silently(tmp_path: Path, text: str) -> None:
    assert "source.topics.0 (line 3): after ${ comes" in problems(tmp_path, SMALL.replace("[t]", f'["{text}"]'))


def test_a_password_from_the_environment_is_never_read_as_yaml(tmp_path: Path) -> None:
    overrides = ["source.security_protocol=SASL_SSL", "source.sasl_mechanism=PLAIN", "source.sasl_username=u"]
    found: Any = read(tmp_path, SMALL, *overrides, STREAM_AD__SOURCE__SASL_PASSWORD="[0123, {a: b}]")
    assert found.source.sasl_password.get_secret_value() == "[0123, {a: b}]"


def test_a_value_from_the_environment_cannot_bring_structure(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL.replace("[t]", '["${X}"]'), X="a]\nsink: {type: memory}")
    assert found.source.topics == ["a]\nsink: {type: memory}"]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["alerts.fals_alarm_rate=1"], ["alerts.fals_alarm_rate", "did you mean false_alarm_rate?"]),
        (["source.topic=x"], ["source.topic (--set)", "did you mean topics?"]),
        (["alert.false_alarm_rate=1"], ["alert (--set)", "did you mean alerts?"]),
        (["alerts.false_alarm_rate=high"], ["alerts.false_alarm_rate", "valid number", "'high'"]),
        (["alerts.false_alarm_rate=0"], ["alerts.false_alarm_rate", "greater than 0"]),
        (["alerts.per_day=0"], ["alerts.per_day", "greater than 0"]),
        (["alerts.per_day=5", "alerts.false_alarm_rate=0.01"], ["alerts.per_day", "take one out"]),
        (["detector.device=gpu"], ["detector.device", "'auto', 'cpu' or 'cuda'"]),
        (["training.min_rows=1e4"], ["training.min_rows", "'1e4'"]),
        (["training.min_rows=30000"], ["training.min_rows", "never holds 30000"]),
        (["training.reference=latest"], ["training.reference", "'latest' is neither first nor none nor a version"]),
        (["training.rollback_after=50"], ["training.rollback_after", "greater than or equal to 100"]),
        (["schema.features=[a, a]"], ["schema.features", "a stands there twice"]),
        (["schema.features=[]"], ["schema.features"]),
        (["schema.format=float32", "schema.id=x"], ["schema.id", "no fields"]),
        (["schema.timezone=Mars/Base"], ["schema.timezone", "Mars/Base"]),
        (["sink.topic=t"], ["sink.topic", "t is also read"]),
        (["sink.dead_letter_topic=t"], ["sink.dead_letter_topic"]),
        (["sink.dead_letter_topic=stream-ad.scores"], ["sink.dead_letter_topic"]),
        (["sink.anomalies_topic=stream-ad.scores"], ["sink.anomalies_topic"]),
        (["source.sasl_mechanism=PLAIN"], ["source.security_protocol"]),
        (["source.security_protocol=SASL_SSL"], ["source.sasl_mechanism", "1 problem(s)"]),
        (["sink.security_protocol=SASL_SSL"], ["sink.sasl_mechanism", "1 problem(s)"]),
        (["source.ssl_certfile=x"], ["source.ssl_keyfile"]),
        (["source.max_poll_interval=10"], ["source.max_poll_interval"]),
        (["source.type=carrier-pigeon"], ["source.type (--set)", "'kafka', 'file', 'memory'", "'carrier-pigeon'"]),
        (["source.security_protocol=ssl"], ["source.security_protocol", "'PLAINTEXT', 'SSL'", "1 problem(s)"]),
        (["source.topics=a,b"], ["source.topics", "a list is written [a,b]"]),
        (["shutdown_timeout=inf"], ["shutdown_timeout", "finite"]),
        (["schema.missing_values=[nan]"], ["schema.missing_values.0", "finite"]),
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


def test_a_problem_of_an_override_names_the_override_and_no_line(tmp_path: Path) -> None:
    text = SMALL + "alerts:\n  false_alarm_rate: 0.1\n"
    assert "alerts.false_alarm_rate (--set): " in problems(tmp_path, text, "alerts.false_alarm_rate=x")
    environ = {"STREAM_AD__ALERTS__RATE": "1"}
    assert "alerts.rate (STREAM_AD__ALERTS__RATE): there is no such key" in problems(tmp_path, text, **environ)


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    message = problems(tmp_path, SMALL + "registry:\n  path: a\n  path: b\n")
    assert "registry.path (line 9): stands here a second time" in message


@pytest.mark.parametrize(
    "text", ["", "just a text", "- a\n- b\n", "source: [\n", "\t", "source: &a {x: *a}", "[a]: 1", "\0"]
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str) -> None:
    problems(tmp_path, text)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(SMALL.encode() + "# Größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"line 7.*UTF-8"):
        load(path, environ={})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nowhere.yaml", environ={})


@pytest.mark.parametrize(
    "override", ["source={type: kafka, topics: [t], sasl_password: hunter2", "source=sasl_password=hunter2"]
)
def test_a_section_that_is_written_wrongly_does_not_show_its_secrets(tmp_path: Path, override: str) -> None:
    message = problems(tmp_path, SMALL, override)
    assert "source" in message
    assert "hunter2" not in message


def test_a_default_that_asks_for_another_variable_is_a_problem(tmp_path: Path) -> None:
    text = SMALL + "registry: {path: '${ONE:${TWO:models}}'}\n"
    assert "a default holds no other variable" in problems(tmp_path, text)


def test_a_file_nested_without_end_is_a_problem(tmp_path: Path) -> None:
    assert "nested too deeply" in problems(tmp_path, "source: " + "[" * 5000)


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    secret = "hunter2-0123"
    overrides = ["source.security_protocol=SASL_SSL", "source.sasl_mechanism=PLAIN", "source.sasl_username=u"]
    found = read(tmp_path, SMALL, *overrides, f"source.sasl_password={secret}")
    assert secret not in str(found.dump()) + repr(found) + str(found)
    assert found.sink.sasl_password.get_secret_value() == secret, "the sink uses the source's connection"
    for wrong in (f"sasl_password: [{secret}]", f"sasl_password: {secret}, type: pigeon", f"sasl_pasword: {secret}"):
        message = problems(tmp_path, SMALL.replace("  topics: [t]", f"  {{topics: [t], {wrong}}}"))
        assert secret not in message
        assert "source." in message
    assert secret not in problems(tmp_path, SMALL, f"source.sasl_password:{secret}")


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
    assert "set alerts.false_alarm_rate" in problems(tmp_path, text, "alerts.per_day=5"), "a file has no rows a day"


def test_alarms_a_day_are_a_share_of_the_rows_of_a_day_within_bounds(tmp_path: Path) -> None:
    alerts = read(tmp_path, SMALL, "alerts.per_day=8.64").alerts
    assert alerts.rate() == pytest.approx(1e-4), "one row a second is assumed"
    assert alerts.rate(100.0) == pytest.approx(1e-6)
    assert alerts.rate(1e9) == 1e-6
    assert alerts.rate(0.0) == 0.2
    assert read(tmp_path).alerts.rate(100.0) == 0.001, "a share stays a share"


def test_a_configuration_with_alarms_a_day_is_read_back_from_its_dump(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL, "alerts.per_day=8")
    assert read(tmp_path, yaml.safe_dump(found.dump())).dump() == found.dump()


def test_a_window_too_small_for_the_budget_is_a_warning(tmp_path: Path) -> None:
    assert warnings(read(tmp_path)) == []
    (warning,) = warnings(read(tmp_path, SMALL, "alerts.false_alarm_rate=0.0001"))
    assert "training.window_rows" in warning


def test_more_rows_in_time_than_the_first_model_can_learn_is_a_warning(tmp_path: Path) -> None:
    assert warnings(read(tmp_path, SMALL, "schema.window=64")) == []
    (warning,) = warnings(read(tmp_path, SMALL, "schema.window=64", "training.min_rows=500"))
    assert "schema.window" in warning and "1600 rows" in warning
