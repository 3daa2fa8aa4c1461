"""What `make manifests` writes: the chart's copies of other folders' files, and the plain manifests of the chart."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests import helm

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "helm" / "stream-ad"
PLAIN = DEPLOY / "kubernetes"
MADE_BY = (
    "# The chart deploy/helm/stream-ad as plain manifests, made by `make manifests`: change the chart, not this.\n"
)
MONITORING = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}


def copies() -> dict[Path, str]:
    """Files that the chart needs a copy of, since Helm reads nothing outside the chart."""
    rules = [DEPLOY / "prometheus" / name for name in ("alerts.yaml", "recording.yaml")]
    dashboards = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    return {
        CHART / "files" / folder / original.name: original.read_text()
        for folder, originals in (("prometheus", rules), ("dashboards", dashboards))
        for original in originals
    }


def manifests() -> dict[Path, str]:
    """The chart with its default values, as the one pod of roles: all, and what the Prometheus operator takes up."""
    operator = (
        text for text in rendered(MONITORING) if "\nkind: PodMonitor\n" in text or "\nkind: PrometheusRule\n" in text
    )
    return {
        PLAIN / "scorers-and-trainer.yaml": MADE_BY + "".join(rendered({})),
        PLAIN / "all-in-one.yaml": MADE_BY + "".join(rendered({"roles": "all"})),
        PLAIN / "monitoring.yaml": MADE_BY + "".join(operator),
    }


def rendered(values: Mapping[str, object]) -> Iterator[str]:
    """The documents of the chart, each with the line that parts it from the one before."""
    for document in helm.template(CHART, values).split("---\n"):
        if document:
            yield "---\n" + document


def write(files: dict[Path, str]) -> None:
    """Write the files; others that lie beside them go."""
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
        for path in set(folder.iterdir()) - files.keys():
            path.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    write(copies())
    write(manifests())
    sys.stdout.write(f"written: {CHART / 'files'} and {PLAIN}\n")
