"""Dashboards: taken by Grafana's own types, laid out without overlap, every query with data, and the story told."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import runpy
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_server import DEPLOY
from tests.watched_plant import BROKEN_SENSOR, WatchedPlant

Json = dict[str, Any]

FOLDER = DEPLOY / "grafana"
COLUMNS = 24
BINARIES = Path(__file__).parents[1] / ".venv" / "bin"
DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
WATCHING = [name for name in DASHBOARDS if name != "runbook"]
TARGET_KEYS = {"datasource", "editorMode", "expr", "format", "instant", "legendFormat", "range", "refId"}

every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)
every_watching = pytest.mark.parametrize("name", WATCHING)


def data_panels(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] not in ("row", "text")]


def panel(name: str, title: str) -> Json:
    (found,) = [one for one in data_panels(DASHBOARDS[name]) if one["title"] == title]
    return found


# --- As Grafana reads them --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grafana_check(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What Grafana's types find wrong in dashboards, as text; empty if nothing."""
    program = tmp_path_factory.mktemp("grafana") / "check"
    # Without optimisation it builds in half the time.
    build = ["go", "build", "-gcflags=all=-N -l", "-o", str(program), "."]
    environment = os.environ | {"PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}"}
    source = Path(__file__).parent / "grafana_check"
    built = subprocess.run(build, cwd=source, env=environment, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stderr

    def check(*paths: Path) -> str:
        done = subprocess.run([program, *paths], capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == (done.stdout == ""), done.stderr
        return done.stdout

    return check


def test_grafanas_types_take_every_dashboard(grafana_check: Callable[..., str]) -> None:
    assert grafana_check(*(FOLDER / "dashboards").glob("*.json")) == ""


BREAKAGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "a field that panels do not have": (lambda d: d["panels"][1].update(colour="red"), "unexpected field 'colour'"),
    "an option that the panel does not have": (
        lambda d: d["panels"][1]["options"].update(sparkle=True),
        "unexpected field 'sparkle'",
    ),
    "a number where a text belongs": (lambda d: d["panels"][1].update(title=7), "cannot unmarshal number"),
    "a kind of panel that nobody knows": (lambda d: d["panels"][1].update(type="oracle"), "oracle"),
    "a query without an expression": (lambda d: d["panels"][1]["targets"][0].pop("expr"), "expr: required field"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_grafanas_types_refuse_a_broken_dashboard(
    breakage: str, grafana_check: Callable[..., str], tmp_path: Path
) -> None:
    change, said = BREAKAGES[breakage]
    broken = copy.deepcopy(DASHBOARDS["overview"])
    change(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    assert said in grafana_check(path)


# --- What those types do not look at ----------------------------------------------------------------------------------


def problems(dashboard: Json) -> Iterator[str]:
    """What is wrong with a dashboard in places where Grafana's types are blind."""
    panels = dashboard["panels"]
    if len({one["id"] for one in panels}) != len(panels):
        yield "two panels with one id"
    for one in panels:
        at = one["gridPos"]
        if min(at["x"], at["y"]) < 0 or min(at["w"], at["h"]) < 1 or at["x"] + at["w"] > COLUMNS or at["h"] > 60:
            yield f"{one['title']}: off the grid"
    for a, b in combinations(panels, 2):
        if overlap(a["gridPos"], b["gridPos"]):
            yield f"{a['title']} lies over {b['title']}"
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([data_panels(dashboard), dashboard["annotations"]])))
    for name in sorted(used - known):
        if not name.startswith("__"):
            yield f"variable ${name} is not defined"
    for one in data_panels(dashboard):
        yield from panel_problems(one)


def overlap(a: Json, b: Json) -> bool:
    return bool(
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


def panel_problems(one: Json) -> Iterator[str]:
    title = one["title"]
    if len(one["description"]) < 20:
        yield f"{title}: no description"
    if not one["fieldConfig"]["defaults"].get("unit"):
        yield f"{title}: no unit"
    links = [link["url"] for link in one["links"]]
    numbers = {f"/d/stream-ad-runbook?viewPanel={runbook['id']}" for runbook in DASHBOARDS["runbook"]["panels"]}
    if len(links) != 1 or links[0] not in numbers:
        yield f"{title}: no link to the runbook"
    steps = one["fieldConfig"]["defaults"]["thresholds"]["steps"]
    limits = [step["value"] for step in steps[1:]]
    if steps[0]["value"] is not None or limits != sorted(limits):
        yield f"{title}: thresholds do not ascend"
    for target in one["targets"]:
        if unknown := set(target) - TARGET_KEYS:
            yield f"{title}: a query with unknown {sorted(unknown)}"
        if target["datasource"] != {"type": "prometheus", "uid": "$datasource"} or one["datasource"] is None:
            yield f"{title}: not from the chosen data source"


@every_dashboard
def test_a_dashboard_is_whole_where_grafanas_types_are_blind(name: str) -> None:
    assert list(problems(DASHBOARDS[name])) == []


BLIND_SPOTS: dict[str, tuple[Callable[[Json], Any], str]] = {
    "a panel beside the grid": (lambda d: d["panels"][1]["gridPos"].update(x=22), "off the grid"),
    "a panel over another": (lambda d: d["panels"][2]["gridPos"].update(x=1), "lies over"),
    "a bogus key in a query": (lambda d: d["panels"][1]["targets"][0].update(expression="up"), "unknown"),
    "a variable that is not there": (
        lambda d: d["panels"][1]["targets"][0].update(expr='up{job="$jobs"}'),
        "$jobs is not defined",
    ),
    "a fixed data source": (
        lambda d: d["panels"][1]["targets"][0].update(datasource={"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}),
        "not from the chosen data source",
    ),
    "no description": (lambda d: d["panels"][1].update(description=""), "no description"),
    "no unit": (lambda d: d["panels"][1]["fieldConfig"]["defaults"].pop("unit"), "no unit"),
    "a link to nowhere": (lambda d: d["panels"][1]["links"][0].update(url="/d/nowhere"), "no link to the runbook"),
}


@pytest.mark.parametrize("blind_spot", BLIND_SPOTS)
def test_what_grafanas_types_overlook_is_found_here(blind_spot: str) -> None:
    change, said = BLIND_SPOTS[blind_spot]
    broken = copy.deepcopy(DASHBOARDS["overview"])
    change(broken)
    assert said in "\n".join(problems(broken))


def test_links_within_the_runbook_lead_to_their_sections() -> None:
    panels = {one["id"]: one for one in DASHBOARDS["runbook"]["panels"]}
    links = [
        link for one in panels.values() for link in re.findall(r"\[([^]]+)\]\(([^)]+)\)", one["options"]["content"])
    ]
    assert len(links) > 5
    for title, url in links:
        assert panels[int(url.removeprefix("/d/stream-ad-runbook?viewPanel="))]["title"] == title


@every_dashboard
def test_a_dashboard_can_be_found_again(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert re.fullmatch(r"stream-ad-[a-z]+", dashboard["uid"])
    assert dashboard["title"].startswith("stream_ad: ") and dashboard["description"]
    assert dashboard["timezone"] == "browser"
    (to_others,) = dashboard["links"]
    assert (to_others["type"], to_others["tags"], dashboard["tags"]) == ("dashboards", ["stream-ad"], ["stream-ad"])
    assert to_others["includeVars"] and to_others["keepTime"]


def test_every_dashboard_has_a_uid_of_its_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 5


@every_watching
def test_a_dashboard_is_fresh_and_lets_one_choose(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["refresh"] == "30s"
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "job", "role", "instance"]
    for annotation in dashboard["annotations"]["list"]:
        # Grafana 11 reads the one, Grafana 12 the other.
        assert annotation["expr"] == annotation["target"]["expr"]


def test_the_json_is_what_the_generator_writes() -> None:
    written = runpy.run_path(str(FOLDER / "generate.py"))["dashboards"]()
    committed = {path.name: path.read_text() for path in (FOLDER / "dashboards").iterdir()}
    stale = sorted(name for name in committed | written if committed.get(name) != written.get(name))
    assert stale == [], "python deploy/grafana/generate.py writes them anew"


def test_provisioning_names_the_data_source_and_where_the_dashboards_lie() -> None:
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/stream-ad.yaml").read_text())["providers"]
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["jsonData"]["timeInterval"] == scrape, "else $__rate_interval is too short for a rate"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


# --- Against a Prometheus that scraped a worker -----------------------------------------------------------------------


def filled_in(expression: str, watched: WatchedPlant) -> str:
    """What Grafana makes of a query, with one scrape a second and all workers chosen."""
    values = {
        "$__rate_interval": "5s",
        "$__interval": "1s",
        "$__range": f"{watched.ended - watched.started:.0f}s",
        "$job": "(stream-ad)",
        "$role": "(all)",
        "$instance": ".+",
    }
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def without_data(dashboard: Json, watched: WatchedPlant) -> list[str]:
    """Panels of a dashboard with a query that has no data, or nothing but NaN."""
    silent = []
    for one in data_panels(dashboard):
        for target in one["targets"]:
            expression = filled_in(target["expr"], watched)
            if target.get("instant"):
                values = [value for _, value in watched.query(expression)]
            else:
                values = [value for _, series in watched.query_range(expression) for value in series.values()]
            if all(math.isnan(value) for value in values):
                silent.append(f"{one['title']}: {expression}")
    return silent


@pytest.mark.kafka
@every_watching
def test_every_query_has_data(name: str, watched_plant: WatchedPlant) -> None:
    assert without_data(DASHBOARDS[name], watched_plant) == []


@pytest.mark.kafka
@every_watching
def test_every_choice_has_values(name: str, watched_plant: WatchedPlant) -> None:
    for variable in DASHBOARDS[name]["templating"]["list"][1:]:
        ((selector, label),) = re.findall(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        found = watched_plant.query(filled_in(selector, watched_plant))
        assert found and all(label in labels for labels, _ in found), variable["name"]


@pytest.mark.kafka
def test_a_query_that_asks_for_nothing_is_found(watched_plant: WatchedPlant) -> None:
    broken = copy.deepcopy(DASHBOARDS["overview"])
    broken["panels"][2]["targets"][0]["expr"] = "rate(stream_ad_rows_total[$__rate_interval])"
    assert len(without_data(broken, watched_plant)) == 1
    broken["panels"][2]["targets"][0]["expr"] = "stream_ad_lost_records_total / stream_ad_lost_records_total"
    assert len(without_data(broken, watched_plant)) == 1
    broken["panels"][2]["targets"][0]["expr"] = "rate(stream_ad_records_total)"
    with pytest.raises(AssertionError, match="parse error"):
        without_data(broken, watched_plant)


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["overview", "model-quality"])
def test_the_broken_sensor_is_on_top(name: str, watched_plant: WatchedPlant) -> None:
    (target,) = panel(name, "Features behind the flagged rows")["targets"]
    ranked = watched_plant.query(filled_in(target["expr"], watched_plant))
    (first, flagged), (_, next_flagged) = ranked[:2]
    assert first["feature"] == BROKEN_SENSOR
    assert flagged > 3 * next_flagged


@pytest.mark.kafka
def test_the_broken_sensor_is_furthest_from_what_the_model_expects(watched_plant: WatchedPlant) -> None:
    (target,) = panel("model-quality", "Largest distance within the chosen time")["targets"]
    (first, _), *_ = watched_plant.query(filled_in(target["expr"], watched_plant))
    assert first["feature"] == BROKEN_SENSOR


@pytest.mark.kafka
def test_the_hill_of_flagged_rows_is_when_the_fault_was(watched_plant: WatchedPlant) -> None:
    flagged, budget = panel("overview", "Share of rows flagged, and the budget")["targets"]
    ((_, shares),) = watched_plant.query_range(filled_in(flagged["expr"], watched_plant))
    ((_, budgets),) = watched_plant.query_range(filled_in(budget["expr"], watched_plant))
    hill = [t for t, share in shares.items() if share > 10 * max(budgets.values())]
    # A rate looks back on five seconds, a scrape comes each second, and the worker may be a little behind.
    assert watched_plant.fault_began <= hill[0] <= watched_plant.fault_began + 5
    assert watched_plant.fault_ended <= hill[-1] <= watched_plant.fault_ended + 9


@pytest.mark.kafka
def test_whether_the_model_is_younger_than_the_fault_can_be_read_off(watched_plant: WatchedPlant) -> None:
    (target,) = panel("learning", "Trained at")["targets"]
    ((_, trained),) = watched_plant.query(filled_in(target["expr"], watched_plant))
    assert watched_plant.fault_ended < trained / 1000 < watched_plant.ended


@pytest.mark.kafka
def test_model_swaps_and_failed_trainings_are_marked_when_they_happened(watched_plant: WatchedPlant) -> None:
    for annotation in DASHBOARDS["overview"]["annotations"]["list"]:
        ((_, marks),) = watched_plant.query_range(filled_in(annotation["expr"], watched_plant))
        assert min(marks) > watched_plant.fault_began, annotation["name"]
