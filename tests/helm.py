"""The real Helm for the tests: its lint and template as a shared library, from a Maven artifact.

Helm is no Python package and takes minutes to build; helm-java publishes it compiled, 28 MB, with a C interface.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.cache import fetching

VERSION = "0.0.21"
"""Of helm-java; it holds Helm 3.21."""
KUBERNETES = "1.37.0"
"""Version that Helm is told the cluster has, since there is none to ask."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class HelmError(Exception):
    """What Helm says when it refuses a chart or its values."""


class _Result(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_char_p) for name in ("out", "err", "stdout", "stderr"))


class _LintOptions(ctypes.Structure):
    _fields_ = (("path", ctypes.c_char_p), ("strict", ctypes.c_int), ("quiet", ctypes.c_int))


class _TemplateOptions(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_char_p),
        ("chart", ctypes.c_char_p),
        ("namespace", ctypes.c_char_p),
        ("kube_version", ctypes.c_char_p),
        ("dependency_update", ctypes.c_int),
        ("skip_crds", ctypes.c_int),
        ("values", ctypes.c_char_p),
        ("set_files", ctypes.c_char_p),
        ("values_files", ctypes.c_char_p),
        ("cert_file", ctypes.c_char_p),
        ("key_file", ctypes.c_char_p),
        ("ca_file", ctypes.c_char_p),
        ("insecure_skip_tls_verify", ctypes.c_int),
        ("plain_http", ctypes.c_int),
        ("keyring", ctypes.c_char_p),
        ("debug", ctypes.c_int),
        ("repository_config", ctypes.c_char_p),
    )


def lint(chart: Path) -> str:
    """`helm lint --strict`: what it says of the chart with its default values. Raises `HelmError`."""
    said = _call("Lint", _LintOptions(path=str(chart).encode(), strict=1))
    if "Failed: true" in said:
        raise HelmError(said)
    return said


def template(
    chart: Path, values: Mapping[str, Any] | None = None, files: Sequence[Path] = (), namespace: str = "stream-ad"
) -> str:
    """`helm template stream-ad CHART -f FILE...` with `values` on top: the manifests as YAML. Raises `HelmError`."""
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "values.yaml"
        last.write_text(yaml.safe_dump(dict(values or {})))
        options = _TemplateOptions(
            name=b"stream-ad",
            chart=str(chart).encode(),
            namespace=namespace.encode(),
            kube_version=KUBERNETES.encode(),
            values_files=",".join(map(str, [*files, last])).encode(),
        )
        return _call("Template", options)


def _call(function: str, options: ctypes.Structure) -> str:
    helm = _library()
    result = getattr(helm, function)(ctypes.byref(options))
    out, error = (result.out or b"").decode(), (result.err or b"").decode()
    helm.Free(result)
    if error:
        raise HelmError(error)
    return out


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(fetch()))
    library.Lint.restype = library.Template.restype = _Result
    library.Free.argtypes = [_Result]
    library.Free.restype = None
    return library


def fetch() -> Path:
    """Path of the library; fetches it by Maven the first time."""
    architecture = ARCHITECTURES[platform.machine()]
    name = f"helm-linux-{architecture}.so"
    with fetching() as cache_folder:
        library = cache_folder / f"helm-java-{VERSION}" / name
        if library.is_file():
            return library
        library.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder) as temporary:
            artifact = f"com.marcnuri.helm-java:linux-{architecture}:{VERSION}"
            command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", "-DoutputDirectory=."]
            subprocess.run(command, cwd=temporary, check=True, stdout=subprocess.DEVNULL, timeout=600)
            [jar] = Path(temporary).glob("*.jar")
            with zipfile.ZipFile(jar) as archive:
                Path(archive.extract(name, temporary)).rename(library)
    return library
