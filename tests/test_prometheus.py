"""Alert and recording rules, held against promtool, a real Prometheus and the runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_server import DEPLOY, need_prometheus, prometheus_tool
from tests.watched_plant import WatchedPlant

FOLDER = DEPLOY / "prometheus"
RUNBOOK = DEPLOY.parent / "docs" / "runbook.md"
UNIT_TESTS = sorted((FOLDER / "tests").glob("*.yaml"))


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules("alerts.yaml")
NAMES = [alert["alert"] for alert in ALERTS]


def promtool(*arguments: str) -> str:
    """What promtool says; AssertionError if it finds fault."""
    need_prometheus()
    command = [prometheus_tool("promtool"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    said = promtool("check", "config", str(FOLDER / "prometheus.yaml"))
    assert f"alerts.yaml\n  SUCCESS: {len(ALERTS)} rules found" in said


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_keep_quiet_as_their_unit_tests_say(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_each_alert_is_shown_to_fire_and_to_keep_quiet() -> None:
    tests = [test for path in UNIT_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(NAMES)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(NAMES)


def test_an_alert_that_does_not_fire_fails_its_unit_test(tmp_path: Path) -> None:
    """The checks above can fail: a threshold moved out of reach is found."""
    broken = (FOLDER / "alerts.yaml").read_text().replace("ratio_rate15m > 0.5", "ratio_rate15m > 5")
    (tmp_path / "alerts.yaml").write_text(broken)
    (tmp_path / "recording.yaml").write_text((FOLDER / "recording.yaml").read_text())
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "page.yaml").write_text((FOLDER / "tests" / "page.yaml").read_text())
    with pytest.raises(AssertionError, match="StreamAdMostRecordsBad"):
        promtool("test", "rules", str(tmp_path / "tests" / "page.yaml"))


def test_severities_are_the_two_that_the_runbook_knows() -> None:
    assert {alert["labels"]["severity"] for alert in ALERTS} == {"page", "ticket"}


def test_each_alert_says_what_and_where_to_read_on() -> None:
    for alert in ALERTS:
        annotations = alert["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}, alert["alert"]
        assert annotations["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() -> None:
    sections = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == NAMES


def test_each_section_says_what_it_means_how_to_look_and_what_to_do() -> None:
    for section in re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        name = section.split("\n", 1)[0]
        for part in ("**What it means.**", "**What users feel.**", "**Look.**", "**Do.**"):
            assert section.count(part) == 1, (name, part)


def test_the_runbook_gives_the_severity_of_the_rule() -> None:
    sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    for severity, title in (("page", "Pages"), ("ticket", "Tickets")):
        (section,) = [section for section in sections if section.startswith(title)]
        assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == [
            alert["alert"] for alert in ALERTS if alert["labels"]["severity"] == severity
        ]


def test_recording_rules_have_a_level_a_metric_and_operations() -> None:
    for rule in rules("recording.yaml"):
        assert re.fullmatch(r"namespace_job:stream_ad_\w+:\w+", rule["record"])


@pytest.mark.kafka
def test_prometheus_evaluates_all_rules_on_a_running_worker(watched_plant: WatchedPlant) -> None:
    groups = watched_plant.prometheus.get("rules")["groups"]
    seen = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(seen) == {*NAMES, *(rule["record"] for rule in rules("recording.yaml"))}
    assert {name: rule.get("lastError") for name, rule in seen.items() if rule["health"] != "ok"} == {}


@pytest.mark.kafka
def test_every_recording_rule_has_a_value_on_a_running_worker(watched_plant: WatchedPlant) -> None:
    for rule in rules("recording.yaml"):
        assert watched_plant.query(rule["record"]), rule["record"]


@pytest.mark.kafka
def test_every_metric_that_a_rule_names_is_there_on_a_running_worker(watched_plant: WatchedPlant) -> None:
    text = " ".join(rule["expr"] for rule in ALERTS + rules("recording.yaml"))
    names = set(re.findall(r"(?<!:)\b(?:stream_ad|process)_\w+\b(?!:)", text))
    assert len(names) > 10
    assert {name for name in names if not watched_plant.query(name)} == set()


@pytest.mark.kafka
def test_the_alerts_that_fire_are_those_of_the_story(watched_plant: WatchedPlant) -> None:
    firing = watched_plant.query('ALERTS{alertstate="firing"}')
    assert {labels["alertname"] for labels, _ in firing} == {"StreamAdDeadLetters"}
    assert {labels["reason"] for labels, _ in firing} == {"parse", "not_an_object", "not_a_number"}


@pytest.mark.kafka
def test_a_query_that_is_wrong_is_refused(watched_plant: WatchedPlant) -> None:
    with pytest.raises(AssertionError, match="parse error"):
        watched_plant.query("rate(stream_ad_records_total)")
