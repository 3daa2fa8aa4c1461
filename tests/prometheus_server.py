"""A real Prometheus for the tests, and its promtool.

Taken from the PATH, else from Debian's package, which is unpacked into a cache outside the tree rather than installed:
so no service is started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cache import fetching
from tests.kafka_broker import free_port
from tests.running import wait_until

DEPLOY = Path(__file__).parents[1] / "deploy"


class NoPrometheus(Exception):
    """There is no Prometheus here, and none can be had."""


@dataclass(frozen=True)
class Prometheus:
    """A running server, asked by its HTTP API."""

    port: int

    def get(self, path: str, **parameters: Any) -> Any:
        """The field `data` of an answer; AssertionError with Prometheus's words if it refuses."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read().decode()} to {parameters}") from error

    def query(self, expression: str, **parameters: Any) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        data = self.get("query", query=expression, **parameters)
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def query_range(self, expression: str, start: float, end: float) -> list[tuple[dict[str, str], dict[float, float]]]:
        """Labels and values by time of each series, a value a second."""
        data = self.get("query_range", query=expression, start=start, end=end, step=1)
        return [(one["metric"], {float(t): float(v) for t, v in one["values"]}) for one in data["result"]]


def prometheus_tool(name: str) -> str:
    """Path of `prometheus` or `promtool`. Raises `NoPrometheus`."""
    return shutil.which(name) or str(_unpacked() / "usr" / "bin" / name)


@contextmanager
def prometheus(folder: Path, workers: list[str]) -> Iterator[Prometheus]:
    """Run the server with what deploy/prometheus holds, on these addresses instead, and every second."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": workers}]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    server = Prometheus(free_port())
    command = [prometheus_tool("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{server.port}"], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: _answers(server, process, log), 30)
        yield server
    finally:
        process.kill()
        process.wait()


def _answers(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"prometheus ended with {process.returncode}:\n{log.read_text()}"
    try:
        return bool(server.get("targets")["activeTargets"])
    except (OSError, AssertionError):
        return False


def _unpacked() -> Path:
    """Folder of Debian's package, fetched the first time (19 MB)."""
    with fetching() as cache:
        folder = cache / "prometheus"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                _download(temporary)
                (package,) = Path(temporary).glob("*.deb")
                subprocess.run(["dpkg-deb", "-x", str(package), f"{temporary}/unpacked"], check=True)
                Path(temporary, "unpacked").rename(folder)
        return folder


def _download(folder: str) -> None:
    download = ["apt-get", "download", "prometheus"]
    # The lists of packages may be missing or old.
    attempts = [[download], [["apt-get", "update"], download]] if os.geteuid() == 0 else [[download]]
    said = ""
    for commands in attempts:
        try:
            for command in commands:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
            return
        except FileNotFoundError as error:
            said = str(error)
        except subprocess.CalledProcessError as error:
            said = error.stderr
    raise NoPrometheus(
        "no prometheus and promtool on the PATH, and Debian's package cannot be had by apt-get download prometheus: "
        f"install Prometheus 2.42 or newer. {said.strip()}"
    )


def need_prometheus() -> None:
    """Fail the test without a Prometheus; skip it where only root could get one, and on nobody's CI."""
    try:
        prometheus_tool("prometheus"), prometheus_tool("promtool")
    except NoPrometheus as reason:
        if os.geteuid() == 0 or os.environ.get("CI") == "true":
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))
