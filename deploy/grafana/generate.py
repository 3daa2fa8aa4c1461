"""Writes dashboards/*.json: python deploy/grafana/generate.py

The panels are here, a few lines each; everything that Grafana wants besides is added by the functions below. The JSON
is committed, so that nobody needs this to use it; a test holds that it is what this writes. The runbook's dashboard
is made of docs/runbook.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNBOOK = HERE.parents[1] / "docs" / "runbook.md"

Json = dict[str, Any]

SCHEMA_VERSION = 41
"""Grafana 12's; Grafana 11 takes it, too."""
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
CHOSEN = 'job=~"$job", instance=~"$instance"'
"""The workers that are chosen at the top of a dashboard."""
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"


# --- Panels -----------------------------------------------------------------------------------------------------------


def query(expr: str, name: str = "", **more: Any) -> Json:
    """A PromQL query; `CHOSEN` stands in it as {..} or before other labels as {.., label="x"}."""
    target = {"datasource": DATASOURCE, "editorMode": "code", "expr": expr.replace("..", CHOSEN), "range": True}
    return target | {"legendFormat": name or "__auto"} | more


def panel(
    kind: str,
    title: str,
    description: str,
    queries: list[Json],
    *,
    alert: str,
    unit: str,
    size: tuple[int, int],
    options: Json,
    custom: Json | None = None,
    thresholds: list[tuple[float, str]] | None = None,
    mappings: list[Json] | None = None,
    **defaults: Any,
) -> Json:
    """A panel without its place. `alert` names the runbook's section; `thresholds` are (from, colour), the first green.

    `size` is width (of 24) and height.
    """
    steps = [{"color": colour, "value": value} for value, colour in [(None, GREEN), *(thresholds or [])]]
    field: Json = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}, "mappings": mappings or []}
    if custom is not None:
        field["custom"] = custom
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": [one | {"refId": chr(ord("A") + i)} for i, one in enumerate(queries)],
        "options": options,
        "fieldConfig": {"defaults": field | defaults, "overrides": []},
        "links": [runbook_link(alert)],
    }


def stat(title: str, description: str, expr: str, **more: Any) -> Json:
    """One number; behind it the way there, unless `graph` is none."""
    graph = more.pop("graph", "area")
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": graph,
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    target = query(expr, instant=graph == "none", range=graph != "none")
    return panel("stat", title, description, [target], size=(4, 4), options=options, **more)


def lines(title: str, description: str, *queries: Json, **more: Any) -> Json:
    """Values over time. `stack` adds the series up, `bars` draws bars, `limits` shows the thresholds in the plot."""
    stack, bars, limits = (more.pop(name, False) for name in ("stack", "bars", "limits"))
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 80 if bars else 20 if stack else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
    }
    options = {"legend": legend(), "tooltip": tooltip()}
    more = {"size": (12, 8), "min": 0} | more
    return panel("timeseries", title, description, list(queries), options=options, custom=custom, **more)


def states(title: str, description: str, *queries: Json, **more: Any) -> Json:
    """Which state each series is in over time."""
    options = {
        "showValue": "auto",
        "rowHeight": 0.8,
        "mergeValues": True,
        "alignValue": "left",
        "legend": legend(),
        "tooltip": tooltip("single"),
    }
    custom = {"lineWidth": 0, "fillOpacity": 70}
    more = {"size": (12, 6)} | more
    return panel("state-timeline", title, description, list(queries), options=options, custom=custom, **more)


def ranking(title: str, description: str, expr: str, name: str, **more: Any) -> Json:
    """Bars, one a series, the longest on top."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "gradient",
        "valueMode": "color",
        "namePlacement": "left",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "legend": legend(shown=False),
    }
    target = query(f"sort_desc({expr})", name, instant=True, range=False)
    more = {"size": (12, 8), "min": 0} | more
    return panel("bargauge", title, description, [target], options=options, **more)


def heatmap(title: str, description: str, metric: str, axis_unit: str, **more: Any) -> Json:
    """How a histogram's observations lie over time."""
    expr = f"sum by (le) (increase({metric}_bucket{{..}}[$__rate_interval]))"
    options = {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "fill": "dark-blue",
            "scale": "exponential",
            "exponent": 0.3,
            "steps": 64,
            "reverse": False,
        },
        "cellGap": 1,
        "filterValues": {"le": 0.5},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": axis_unit},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "exemplars": {"color": "orange"},
    }
    custom = {"scaleDistribution": {"type": "linear"}, "hideFrom": {"legend": False, "tooltip": False, "viz": False}}
    target = query(expr, "{{le}}", format="heatmap")
    more = {"size": (12, 8)} | more
    return panel("heatmap", title, description, [target], options=options, custom=custom, unit="short", **more)


def table(title: str, description: str, expr: str, **more: Any) -> Json:
    """Labels of series as rows."""
    target = query(expr, instant=True, range=False, format="table")
    hidden = {"Time": True, "Value": True, "__name__": True}
    made = panel(
        "table",
        title,
        description,
        [target],
        options={"frameIndex": 0, "showHeader": True, "cellHeight": "sm"},
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        unit="none",
        **({"size": (12, 6)} | more),
    )
    transformation = {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": {}}}
    return made | {"transformations": [transformation]}


def text(title: str, content: str, height: int) -> Json:
    """Words, in Markdown."""
    return {
        "type": "text",
        "title": title,
        "description": "",
        "gridPos": {"w": 24, "h": height},
        "options": {"mode": "markdown", "content": content},
        "links": [],
    }


def legend(shown: bool = True) -> Json:
    return {"displayMode": "list", "placement": "bottom", "showLegend": shown, "calcs": []}


def tooltip(mode: str = "multi") -> Json:
    return {"mode": mode, "sort": "desc"}


def values(**colours: tuple[int, str]) -> list[Json]:
    """Words for numbers: values(ready=(1, GREEN))."""
    options = {
        str(value): {"text": word.replace("_", " "), "color": colour, "index": i}
        for i, (word, (value, colour)) in enumerate(colours.items())
    }
    return [{"type": "value", "options": options}]


# --- Dashboards -------------------------------------------------------------------------------------------------------


def runbook_sections() -> dict[str, str]:
    """Text of the runbook by alert; what comes before the first one under the empty name."""
    first, *rest = re.split(r"^### ", re.sub(r"^## .*\n", "", RUNBOOK.read_text(), flags=re.MULTILINE), flags=re.M)
    return {"": first.split("\n", 1)[1].strip()} | {
        name: body.strip() for name, body in (section.split("\n", 1) for section in rest)
    }


def runbook_link(alert: str) -> Json:
    return link(f"Runbook: {alert}", runbook_url(alert))


def runbook_url(alert: str) -> str:
    # Panel 1 of the runbook's dashboard is its introduction.
    return f"/d/stream-ad-runbook?viewPanel={list(runbook_sections()).index(alert) + 1}"


def with_links_for_grafana(markdown: str) -> str:
    """Links to other sections lead to their panels; those to files of the repository become words."""
    markdown = re.sub(r"\[(\w+)\]\(#\w+\)", lambda found: f"[{found[1]}]({runbook_url(found[1])})", markdown)
    return re.sub(r"\[([^]]+)\]\((?:\.\./|[\w-]+\.md)[^)]*\)", r"\1", markdown)


def link(title: str, url: str, **more: Any) -> Json:
    made = {"title": title, "type": "link", "icon": "doc", "tooltip": "", "url": url, "tags": [], "asDropdown": False}
    return made | {"targetBlank": False, "includeVars": False, "keepTime": False} | more


def variable(name: str, label: str, description: str, labels_of: str) -> Json:
    """A choice of label values, all of them at first."""
    expr = f"label_values({labels_of}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": expr, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "definition": expr,
        "current": {"text": ["All"], "value": ["$__all"], "selected": True},
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "options": [],
        "hide": 0,
    }


VARIABLES = [
    {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that scrapes the workers.",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "options": [],
        "hide": 0,
    },
    variable("job", "Deployment", "Prometheus job of the workers.", "stream_ad_build_info"),
    variable("role", "Role", "all, scorer or trainer.", 'stream_ad_build_info{job=~"$job"}'),
    variable("instance", "Worker", "Address of a worker.", 'stream_ad_build_info{job=~"$job", role=~"$role"}'),
]


def annotation(name: str, expr: str, colour: str, title: str) -> Json:
    """A mark in all plots wherever the expression has a value above 0."""
    expr = expr.replace("..", CHOSEN)
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "expr": expr,
        "titleFormat": title,
        "target": {"expr": expr, "refId": "Anno"},
    }


ANNOTATIONS = [
    annotation(
        "Model swaps",
        "sum by (job) (increase(stream_ad_model_swaps_total{..}[$__rate_interval])) > 0",
        BLUE,
        "Another model took over: {{job}}",
    ),
    annotation(
        "Failed trainings",
        'sum by (job, result) (increase(stream_ad_trainings_total{.., result=~"error|killed|timeout"}'
        "[$__rate_interval])) > 0",
        RED,
        "A training failed: {{result}}",
    ),
]


def dashboard(uid: str, title: str, description: str, rows: dict[str, list[Json]], watches: bool = True) -> Json:
    """A dashboard of titled rows of panels; `watches` says whether it shows data at all."""
    to_others = link("stream_ad", "", type="dashboards", icon="external link", tags=["stream-ad"])
    return {
        "uid": f"stream-ad-{uid}",
        "title": f"stream_ad: {title}",
        "description": description,
        "tags": ["stream-ad"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s" if watches else "",
        "graphTooltip": 1,
        "links": [to_others | {"includeVars": True, "keepTime": True}],
        "templating": {"list": VARIABLES if watches else []},
        "annotations": {"list": ANNOTATIONS if watches else []},
        "panels": placed(rows),
    }


def placed(rows: dict[str, list[Json]]) -> list[Json]:
    """The panels with numbers and places: from left to right, below each other where a line is full."""
    panels: list[Json] = []
    y = 0
    for title, row in rows.items():
        if title:
            panels.append(
                {"type": "row", "title": title, "collapsed": False, "panels": []}
                | {"gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
            )
            y += 1
        x = height = 0
        for one in row:
            if x + one["gridPos"]["w"] > 24:
                x, y, height = 0, y + height, 0
            panels.append(one | {"gridPos": {"x": x, "y": y} | one["gridPos"]})
            x += one["gridPos"]["w"]
            height = max(height, one["gridPos"]["h"])
        y += height
    return [{"id": i} | one for i, one in enumerate(panels, 1)]


# --- What is shown ----------------------------------------------------------------------------------------------------

SHARE_FLAGGED = (
    "sum(rate(stream_ad_anomalies_total{..}[$__rate_interval]))"
    ' / (sum(rate(stream_ad_records_total{.., result="scored"}[$__rate_interval])) > 0)'
)
BUDGET = "max(stream_ad_false_alarm_rate{..})"
MODEL_AGE = "time() - max(stream_ad_model_created_timestamp_seconds{..} > 0)"
FAILED = 'stream_ad_trainings_total{.., result=~"error|killed|timeout"}'


def share_flagged() -> Json:
    return lines(
        "Share of rows flagged, and the budget",
        "A sound plant stays near the budget, alerts.false_alarm_rate. A fault stands out as a hill, and the"
        " hill is when it was. A level that stays high is a plant that has changed, until a model swap (blue mark)"
        " brings it down. Nothing where no rows are scored.",
        query(SHARE_FLAGGED, "flagged"),
        query(BUDGET, "budget"),
        alert="StreamAdAlertsOverBudget",
        unit="percentunit",
    )


def flagged_by_sensor() -> Json:
    return lines(
        "Flagged rows by feature",
        "Each flagged row counts for the feature with the largest share in the finding. A fault of one sensor is one"
        " colour; many colours at once are a plant that has changed, or a model that does not fit.",
        query("sum by (feature) (increase(stream_ad_feature_anomalies_total{..}[$__rate_interval]))", "{{feature}}"),
        alert="StreamAdAlertsOverBudget",
        unit="short",
        stack=True,
        bars=True,
    )


def threshold_level() -> Json:
    return lines(
        "Level of the threshold, and the budget",
        "The false-alarm rate that each worker's threshold stands at now. It is adapted between trainings: below the"
        " budget where too many rows would be flagged, above it where too few.",
        query("stream_ad_adapted_false_alarm_rate{..}", "{{instance}}"),
        query(BUDGET, "budget"),
        alert="StreamAdBudgetNotHeld",
        unit="percentunit",
    )


def model_age() -> Json:
    return stat(
        "Age of the model",
        "Since the newest model that scores was trained.",
        MODEL_AGE,
        alert="StreamAdModelOld",
        unit="s",
        noValue="no model yet",
        thresholds=[(43200, YELLOW), (86400, RED)],
    )


def sensors_ranked() -> Json:
    return ranking(
        "Features behind the flagged rows",
        "Flagged rows within the chosen time, by the feature with the largest share. The one on top is where to look"
        " first.",
        "sum by (feature) (increase(stream_ad_feature_anomalies_total{..}[$__range]))",
        "{{feature}}",
        alert="StreamAdAlertsOverBudget",
        unit="short",
        decimals=0,
        thresholds=[(1, YELLOW), (10, RED)],
    )


def live_models(height: int) -> Json:
    return states(
        "Model that scores",
        "Workers that score with each model. One line ends where the next begins: that is a swap. Two lines for long"
        " are workers that do not agree.",
        query("count by (version) (stream_ad_model_info{..})", "{{version}}"),
        alert="StreamAdModelsDiffer",
        unit="none",
        decimals=0,
        size=(12, height),
    )


def latency() -> Json:
    quantile = "histogram_quantile({}, sum by (le) (rate(stream_ad_record_latency_seconds_bucket{{..}}[{}])))"
    return lines(
        "Time from a row's stamp to its score",
        "Half, 95 % and 99 % of the rows are quicker. Rows that come late are late here as well.",
        *(query(quantile.format(q, "$__rate_interval"), f"{100 * q:g} %") for q in (0.5, 0.95, 0.99)),
        alert="StreamAdLatencyHigh",
        unit="s",
        thresholds=[(60, RED)],
    )


def records() -> Json:
    return lines(
        "Rows by what became of them",
        "scored: by a model. warming_up: before the first model, no alerts. unscored: nothing in the row. dead_letter:"
        " could not be read. tombstone: null values, skipped.",
        query("sum by (result) (rate(stream_ad_records_total{..}[$__rate_interval]))", "{{result}}"),
        alert="StreamAdNoRecords",
        unit="rowsps",
        stack=True,
    )


def overview() -> Json:
    numbers = [
        stat(
            "Workers ready",
            "Workers whose /readyz says yes, scorers and trainers alike.",
            "sum(stream_ad_ready{..}) or vector(0)",
            alert="StreamAdNotReady",
            unit="none",
            thresholds=[(0, RED), (1, GREEN)],
        ),
        stat(
            "Rows scored a second",
            "All workers together.",
            'sum(rate(stream_ad_records_total{.., result="scored"}[$__rate_interval])) or vector(0)',
            alert="StreamAdNoRecords",
            unit="rowsps",
            decimals=1,
        ),
        stat(
            "Flagged rows",
            "Within the chosen time.",
            "sum(increase(stream_ad_anomalies_total{..}[$__range])) or vector(0)",
            alert="StreamAdAlertsOverBudget",
            unit="short",
            decimals=0,
            graph="none",
        ),
        stat(
            "Flagged, in budgets",
            "Share flagged within the chosen time over the share that alerts.false_alarm_rate allows. About 1 on a"
            " sound plant.",
            "(sum(increase(stream_ad_anomalies_total{..}[$__range]))"
            ' / (sum(increase(stream_ad_records_total{.., result="scored"}[$__range])) > 0)'
            f" / {BUDGET}) or vector(0)",
            alert="StreamAdAlertsOverBudget",
            unit="none",
            decimals=1,
            graph="none",
            thresholds=[(3, YELLOW), (10, RED)],
        ),
        model_age(),
        stat(
            "Alerts of Prometheus",
            "Alerts on stream_ad that fire, in all deployments.",
            'sum(ALERTS{alertname=~"StreamAd.+", alertstate="firing"}) or vector(0)',
            alert="StreamAdDown",
            unit="none",
            thresholds=[(1, RED)],
        ),
    ]
    rows = {
        "Is it well?": numbers,
        "When was the fault, which sensor?": [
            share_flagged(),
            flagged_by_sensor(),
            sensors_ranked(),
            live_models(height=8),
        ],
        "Does it keep up?": [records(), lag(), latency(), firing()],
    }
    return dashboard(
        "overview",
        "overview",
        "Start here. Is the plant being watched, when was a fault, which sensor was it, and has the model been trained"
        " since? Blue marks are model swaps, red ones failed trainings.",
        rows,
    )


def lag() -> Json:
    return lines(
        "Records not read yet",
        "Lag of the consumer group. A hill after a restart goes down by itself; a ramp does not.",
        query("sum by (topic) (stream_ad_consumer_lag_records{..})", "{{topic}}"),
        alert="StreamAdLagGrowing",
        unit="short",
    )


def firing() -> Json:
    return states(
        "Alerts of Prometheus over time",
        "Alerts on stream_ad in all deployments, and how often each fires. The line none is always there: without it,"
        " there is no answer from Prometheus at all.",
        query(
            'count by (alertname) (ALERTS{alertname=~"StreamAd.+", alertstate="firing"})'
            ' or label_replace(vector(0), "alertname", "none", "", "")',
            "{{alertname}}",
        ),
        alert="StreamAdDown",
        unit="none",
        size=(12, 8),
        mappings=values(none=(0, GREEN)),
        thresholds=[(1, RED)],
    )


def model_quality() -> Json:
    quantile = "histogram_quantile({}, sum by (le) (rate(stream_ad_score_bucket{{..}}[$__rate_interval])))"
    rows = {
        "Alerts against the budget": [
            share_flagged(),
            lines(
                "Alert ratio of each worker",
                "Share flagged of the last 10,000 rows, and the budget. Smoother than the plot beside it: here a model"
                " that does not fit shows, rather than a short fault.",
                query("stream_ad_alert_ratio{..}", "{{instance}}"),
                query(BUDGET, "budget"),
                alert="StreamAdAlertsOverBudget",
                unit="percentunit",
            ),
            threshold_level(),
            lines(
                "Budgets flagged over an hour",
                "1 is what alerts.false_alarm_rate allows on a sound plant. Lasting values above 3, with no fault to"
                " blame, are a budget that does not hold.",
                query('namespace_job:stream_ad_alerts:budgets_rate1h{job=~"$job"}', "{{job}}"),
                alert="StreamAdBudgetNotHeld",
                unit="none",
                decimals=1,
                thresholds=[(3, YELLOW), (10, RED)],
            ),
        ],
        "Episodes": [
            lines(
                "Open episodes",
                "Keys whose last rows are flagged, by worker.",
                query("stream_ad_open_episodes{..}", "{{instance}}"),
                alert="StreamAdEpisodeOpen",
                unit="none",
                size=(8, 8),
            ),
            lines(
                "Longest open episode",
                "A line that climbs for hours is a fault that lasts, or a key that the model does not know.",
                query("max by (job) (stream_ad_longest_open_episode_seconds{..})", "{{job}}"),
                alert="StreamAdEpisodeOpen",
                unit="s",
                size=(8, 8),
                thresholds=[(21600, RED)],
            ),
            lines(
                "Episodes begun, and alerts kept back",
                "begun: episodes are what people are told of. kept back: alerts that alerts.cooldown suppressed.",
                query("sum(increase(stream_ad_episodes_total{..}[$__rate_interval]))", "begun"),
                query("sum(increase(stream_ad_alerts_suppressed_total{..}[$__rate_interval]))", "kept back"),
                alert="StreamAdEpisodeOpen",
                unit="none",
                size=(8, 8),
                bars=True,
            ),
        ],
        "Scores": [
            heatmap(
                "Scores over time",
                "Rows in each range of the score; 1 is the alert threshold. A cloud that climbs towards 1 is a plant"
                " that moves away from what the model knows.",
                "stream_ad_score",
                "none",
                alert="StreamAdAlertsOverBudget",
            ),
            lines(
                "Quantiles of the score",
                "Half, 99 % and 99.9 % of the rows score less. Above 1 a row is flagged.",
                *(query(quantile.format(q), f"{100 * q:g} %") for q in (0.5, 0.99, 0.999)),
                alert="StreamAdNoAlerts",
                unit="none",
                thresholds=[(1, RED)],
                limits=True,
            ),
        ],
        "Which sensor?": [
            flagged_by_sensor(),
            sensors_ranked(),
            lines(
                "Distance from what the model expects",
                "Mean distance of the last batch from its reconstruction, by feature, in spreads of the feature. It"
                " moves before rows are flagged: a sensor that drifts climbs alone.",
                query("max by (feature) (stream_ad_feature_residual{..})", "{{feature}}"),
                alert="StreamAdAlertsOverBudget",
                unit="none",
            ),
            ranking(
                "Largest distance within the chosen time",
                "The peak of the plot beside it, by feature.",
                "max by (feature) (max_over_time(stream_ad_feature_residual{..}[$__range]))",
                "{{feature}}",
                alert="StreamAdAlertsOverBudget",
                unit="none",
                decimals=2,
                thresholds=[(1, YELLOW), (3, RED)],
            ),
        ],
        "What cannot be judged": [
            lines(
                "Missing values by feature",
                "Share of the last batch that lacks the feature. It is filled in from the others, and its own faults"
                " cannot be seen.",
                query("avg by (feature) (stream_ad_feature_missing_ratio{..})", "{{feature}}"),
                alert="StreamAdFeatureMissing",
                unit="percentunit",
                thresholds=[(0.9, RED)],
            ),
            lines(
                "Rows that raise no alert",
                "warming_up: there is no model yet. unscored: there is nothing in the row. dead_letter: the record"
                " could not be read.",
                query(
                    'sum by (result) (rate(stream_ad_records_total{.., result=~"warming_up|unscored|dead_letter"}'
                    "[$__rate_interval]))",
                    "{{result}}",
                ),
                alert="StreamAdNoModel",
                unit="rowsps",
            ),
        ],
    }
    return dashboard(
        "quality",
        "model quality",
        "Does the model fit the plant? Alerts against the budget, scores, and how far each feature is from what the"
        " model expects.",
        rows,
    )


def learning() -> Json:
    rows = {
        "The live model": [
            model_age(),
            stat(
                "Trained at",
                "When the newest model that scores was trained. Later than the fault: it knows the plant since.",
                "max(stream_ad_model_created_timestamp_seconds{..} > 0) * 1000",
                alert="StreamAdModelOld",
                unit="dateTimeAsIso",
                noValue="no model yet",
                graph="none",
            ),
            stat(
                "Model swaps",
                "Within the chosen time, in the worker that swapped most.",
                "max(increase(stream_ad_model_swaps_total{..}[$__range]))",
                alert="StreamAdModelsDiffer",
                unit="none",
                decimals=0,
                graph="none",
            ),
            stat(
                "Models that score now",
                "More than one for longer than a moment: a worker does not take the live one up.",
                "count(count by (version) (stream_ad_model_info{..})) or vector(0)",
                alert="StreamAdModelsDiffer",
                unit="none",
                thresholds=[(2, RED)],
            ),
            stat(
                "Trainings accepted",
                "Within the chosen time.",
                'sum(increase(stream_ad_trainings_total{.., result="accepted"}[$__range])) or vector(0)',
                alert="StreamAdTrainingFailing",
                unit="none",
                decimals=0,
                graph="none",
            ),
            stat(
                "Trainings failed",
                "Crashed, killed or out of time within the chosen time. Scoring goes on with the model that is there.",
                f"sum(increase({FAILED}[$__range])) or vector(0)",
                alert="StreamAdTrainingFailing",
                unit="none",
                decimals=0,
                graph="none",
                thresholds=[(1, YELLOW), (3, RED)],
            ),
            live_models(height=6),
            lines(
                "Age of the model by worker",
                "A saw: each swap brings it down. All workers of a deployment go together.",
                query("time() - (stream_ad_model_created_timestamp_seconds{..} > 0)", "{{instance}}"),
                alert="StreamAdModelOld",
                unit="s",
                thresholds=[(86400, RED)],
                size=(12, 6),
            ),
        ],
        "Trainings": [
            lines(
                "Trainings by how they ended",
                "accepted: went live. rejected: the gate found it worse than the live one. error, killed, timeout: it"
                " failed and is tried again, later each time.",
                query(
                    "sum by (result) (increase(stream_ad_trainings_total{..}[$__rate_interval]))",
                    "{{result}}",
                ),
                alert="StreamAdTrainingFailing",
                unit="none",
                stack=True,
                bars=True,
            ),
            lines(
                "Trainings by what asked for them",
                "first: there was no model. rows and time: training.every_rows and every_seconds. drift and regime:"
                " what was measured on the stream. manual: by hand.",
                query("sum by (trigger) (increase(stream_ad_trainings_total{..}[$__rate_interval]))", "{{trigger}}"),
                alert="StreamAdModelOld",
                unit="none",
                stack=True,
                bars=True,
            ),
            lines(
                "Duration of a training",
                "The mean of those that ended within the chosen time. Beyond training.timeout_seconds it is stopped.",
                query(
                    "sum(increase(stream_ad_training_seconds_sum{..}[$__range]))"
                    " / (sum(increase(stream_ad_training_seconds_count{..}[$__range])) > 0) or vector(0)",
                    "mean",
                ),
                alert="StreamAdTrainingFailing",
                unit="s",
            ),
            states(
                "A training runs",
                "By worker. One that runs for ever is stopped after training.timeout_seconds.",
                query("stream_ad_training_running{..}", "{{instance}}"),
                alert="StreamAdTrainingFailing",
                unit="none",
                size=(12, 8),
                mappings=values(idle=(0, "text"), training=(1, BLUE)),
            ),
        ],
        "What it learns from": [
            lines(
                "Rows in the window",
                "Normal rows that the next model learns from; a training needs training.min_rows.",
                query("stream_ad_window_rows{..}", "{{instance}}"),
                alert="StreamAdNoModel",
                unit="short",
            ),
            lines(
                "Rows that a trainer samples",
                "Read from the stream to learn from only. 0 where one worker does all.",
                query("sum by (instance) (rate(stream_ad_sampled_rows_total{..}[$__rate_interval]))", "{{instance}}"),
                alert="StreamAdModelOld",
                unit="rowsps",
            ),
            lines(
                "Flagged rows kept aside",
                "They help to calibrate and are never learned from, unless the regime has changed: then the next model"
                " is made from them.",
                query("stream_ad_quarantine_rows{..}", "{{instance}}"),
                alert="StreamAdRegimeChange",
                unit="short",
            ),
            lines(
                "Labels by what became of them",
                "What people said of rows. unknown_record: it came too late, or for rows of others. invalid: it could"
                " not be read.",
                query("sum by (result) (increase(stream_ad_labels_total{..}[$__rate_interval]))", "{{result}}"),
                alert="StreamAdLabelsUnusable",
                unit="none",
                stack=True,
                bars=True,
            ),
        ],
        "Drift and regimes": [
            lines(
                "Drifts by what has drifted",
                "score: all a little. flagged: the share above the threshold. residual: one feature's distance from"
                " what the model expects. Each asks for a training; bars without an end are a model that does not"
                " catch up.",
                query(
                    "sum by (signal, feature) (increase(stream_ad_drift_total{..}[$__rate_interval]))",
                    "{{signal}} {{feature}}",
                ),
                alert="StreamAdDriftKeepsComing",
                unit="none",
                stack=True,
                bars=True,
            ),
            states(
                "Regime",
                "By worker. changed: most rows are not what the model knows, and no model that fits is live yet.",
                query("stream_ad_regime_change{..}", "{{instance}}"),
                alert="StreamAdRegimeChange",
                unit="none",
                size=(12, 8),
                mappings=values(as_known=(0, "text"), changed=(1, ORANGE)),
            ),
            rare(
                "Regime changes",
                "By what was done: adapt, the new regime is learned; hold, it stays flagged.",
                "sum by (action) (increase(stream_ad_regime_changes_total{..}[$__rate_interval]))",
                "{{action}}",
                "StreamAdRegimeChange",
            ),
            rare(
                "Models refused, by check",
                "Checks of the gate that new models failed; one model may fail several.",
                "sum by (check) (increase(stream_ad_gate_refusals_total{..}[$__rate_interval]))",
                "{{check}}",
                "StreamAdTrainingRefused",
            ),
            rare(
                "Roll-backs",
                "Models that passed the gate, flagged too much of the stream, and were taken back.",
                "sum(increase(stream_ad_rollbacks_total{..}[$__rate_interval]))",
                "rolled back",
                "StreamAdRolledBack",
            ),
            lines(
                "Distance from the reference model",
                "What the reference model flags of the rows that the live one finds normal, in budgets. About 1: they"
                " agree. It climbs with a drift that is too slow for all else to see.",
                query("max by (job) (stream_ad_reference_distance{..})", "{{job}}"),
                alert="StreamAdFarFromReference",
                unit="none",
                decimals=1,
                size=(24, 6),
                thresholds=[(3, YELLOW), (10, RED)],
            ),
        ],
    }
    return dashboard(
        "learning",
        "learning",
        "Is the model fresh, do trainings go well, and has the plant moved? Blue marks are model swaps, red ones failed"
        " trainings.",
        rows,
    )


def rare(title: str, description: str, expr: str, name: str, alert: str, red_from: float = 1) -> Json:
    """Events that should not be: 0 all the time, then a bar."""
    return lines(
        title,
        description,
        query(expr, name),
        alert=alert,
        unit="short",
        decimals=0,
        bars=True,
        stack=True,
        thresholds=[(red_from, RED)],
        size=(8, 6),
    )


def operations() -> Json:
    rows = {
        "Workers": [
            states(
                "Ready",
                "Each worker's /readyz over time. A gap is a worker that did not answer.",
                query("stream_ad_ready{..}", "{{instance}}"),
                alert="StreamAdNotReady",
                unit="none",
                mappings=values(not_ready=(0, RED), ready=(1, GREEN)),
            ),
            table(
                "Versions and roles",
                "Workers that answer now.",
                'max by (job, instance, role, version) (stream_ad_build_info{.., role=~"$role"})',
                alert="StreamAdWorkerDown",
            ),
            lines(
                "CPU",
                "Cores that each worker uses; its trainings run in a process of their own and are not in it.",
                query("rate(process_cpu_seconds_total{..}[$__rate_interval])", "{{instance}}"),
                alert="StreamAdLagGrowing",
                unit="none",
                size=(8, 6),
            ),
            lines(
                "Memory",
                "Resident memory of each worker, without its trainings.",
                query("process_resident_memory_bytes{..}", "{{instance}}"),
                alert="StreamAdRestarting",
                unit="bytes",
                size=(8, 6),
            ),
            rare(
                "Starts",
                "Times that a worker started again.",
                "changes(process_start_time_seconds{..}[$__rate_interval])",
                "{{instance}}",
                "StreamAdRestarting",
            ),
        ],
        "Throughput and delay": [
            lines(
                "Rows and records by worker",
                "What each worker reads. A worker without partitions reads nothing.",
                query("sum by (instance) (rate(stream_ad_records_total{..}[$__rate_interval]))", "{{instance}}"),
                alert="StreamAdNoRecords",
                unit="rowsps",
                stack=True,
            ),
            lines(
                "Time in each stage",
                "Share of the loop's time. poll is waiting for Kafka: as long as there is much of it, there is room.",
                query(
                    "sum by (stage) (rate(stream_ad_stage_seconds_sum{..}[$__rate_interval]))"
                    " / on () group_left () sum(rate(stream_ad_stage_seconds_sum{..}[$__rate_interval]))",
                    "{{stage}}",
                ),
                alert="StreamAdLagGrowing",
                unit="percentunit",
                stack=True,
                max=1,
            ),
            lines(
                "Records not read yet, by partition",
                "Of partitions that a worker has now. One that stands out has a key that comes too often.",
                query("sum by (topic, partition) (stream_ad_consumer_lag_records{..})", "{{topic}}-{{partition}}"),
                alert="StreamAdLagGrowing",
                unit="short",
            ),
            lines(
                "Age of the newest row scored, while there is lag",
                "0 at the end of the partition.",
                query("max by (topic, partition) (stream_ad_consumer_lag_seconds{..})", "{{topic}}-{{partition}}"),
                alert="StreamAdLagGrowing",
                unit="s",
            ),
            latency(),
            heatmap(
                "Time from a row's stamp to its score: all rows",
                "Rows in each range. Two clouds are two kinds of rows, such as those of a logger that sends at night.",
                "stream_ad_record_latency_seconds",
                "s",
                alert="StreamAdLatencyHigh",
            ),
        ],
        "What should not be": [
            rare(
                "Dead letters by reason",
                "Records that could not be read. They lie in the dead-letter topic as they came.",
                "sum by (reason) (increase(stream_ad_dead_letters_total{..}[$__rate_interval]))",
                "{{reason}}",
                "StreamAdDeadLetters",
            ),
            rare(
                "Records lost to retention",
                "Deleted by Kafka before they were read: never scored. A trainer's do not count, others score them.",
                "sum(increase(stream_ad_lost_records_total{..}[$__rate_interval])"
                ' unless on (job, instance) stream_ad_build_info{role="trainer"}) or vector(0)',
                "lost",
                "StreamAdRecordsLost",
            ),
            rare(
                "Time stamps that could not be read",
                "These rows carry the time of their record instead.",
                "sum(increase(stream_ad_bad_timestamps_total{..}[$__rate_interval])) or vector(0)",
                "rows",
                "StreamAdLatencyHigh",
            ),
            rare(
                "Commits refused",
                "What was not committed is read and scored again.",
                "sum by (instance) (increase(stream_ad_commit_failures_total{..}[$__rate_interval]))",
                "{{instance}}",
                "StreamAdRestarting",
            ),
            rare(
                "Rebalances, and topics made again",
                "Partitions change hands when workers come and go. Often, without that: a worker is too slow between"
                " two polls.",
                "sum(increase(stream_ad_rebalances_total{..}[$__rate_interval]))"
                " + sum(increase(stream_ad_topic_resets_total{..}[$__rate_interval])) or vector(0)",
                "rebalances and resets",
                "StreamAdLagGrowing",
                red_from=10,
            ),
            rare(
                "Changes of the configuration file",
                "Seen by run --watch: applied, or refused with a line in the log.",
                "sum by (result) (increase(stream_ad_config_reloads_total{..}[$__rate_interval]))",
                "{{result}}",
                "StreamAdConfigRefused",
            ),
        ],
    }
    return dashboard(
        "operations",
        "operations",
        "Do the workers run, do they keep up, and what goes wrong that should not?",
        rows,
    )


def runbook() -> Json:
    panels = [
        text(name or "What to do when an alert comes", with_links_for_grafana(body), 6 + body.count("\n") // 2)
        for name, body in runbook_sections().items()
    ]
    return dashboard("runbook", "runbook", "docs/runbook.md: a section an alert.", {"": panels}, watches=False)


def dashboards() -> dict[str, str]:
    """File name and content of each dashboard."""
    made = {
        "overview": overview(),
        "model-quality": model_quality(),
        "learning": learning(),
        "operations": operations(),
        "runbook": runbook(),
    }
    return {f"{name}.json": json.dumps(one, indent=2, ensure_ascii=False) + "\n" for name, one in made.items()}


if __name__ == "__main__":
    for name, content in dashboards().items():
        (HERE / "dashboards" / name).write_text(content)
