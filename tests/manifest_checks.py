"""What must hold of every set of Kubernetes manifests of ours; each check returns what is wrong, one text a finding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from kubernetes_validate.utils import SchemaNotFoundError
from pydantic import ValidationError

from stream_ad.config import ConfigError, load

Document = dict[str, Any]
Documents = list[Document]

KUBERNETES_VERSIONS = ("1.27.0", "1.37.0")
"""The oldest that Chart.yaml allows, and the newest known here."""
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): keda.TriggerAuthentication,
    ("monitoring.coreos.com/v1", "PodMonitor"): prometheus_operator.PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus_operator.PrometheusRule,
}
KEDA_SECRETS = ("username", "password", "ca", "cert", "key")


def problems(documents: Documents, folder: Path) -> list[str]:
    """All findings; `folder` is where a configuration may be written to be loaded."""
    return [
        *(finding for document in documents for finding in _schema(json.dumps(document))),
        *_pods(documents),
        *_deployments(documents),
        *_selectors(documents),
        *_disruption(documents),
        *_network(documents),
        *_references(documents),
        *_configuration(documents, folder),
    ]


def of_kind(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: Documents) -> list[tuple[str, Document]]:
    """Name of the object and its pod: metadata and spec."""
    templates = [(one["metadata"]["name"], one["spec"]["template"]) for one in of_kind(documents, "Deployment")]
    return templates + [(one["metadata"]["name"], one) for one in of_kind(documents, "Pod")]


def configuration(documents: Documents) -> Document:
    """The config.yaml that the pods mount, as plain data."""
    [text] = [one["data"]["config.yaml"] for one in of_kind(documents, "ConfigMap") if "config.yaml" in one["data"]]
    return dict(yaml.safe_load(text))


def environment(documents: Documents, pod: Document) -> dict[str, str]:
    """The variables of the container; what comes from a Secret that is not ours is a placeholder."""
    [container] = pod["spec"]["containers"]
    found = {one["name"]: one.get("value", "from-elsewhere") for one in container["env"]}
    ours = {one["metadata"]["name"]: one["data"] for one in of_kind(documents, "Secret")}
    for source in container.get("envFrom", []):
        theirs = {"KAFKA_USERNAME": "", "KAFKA_PASSWORD": ""}
        found |= dict.fromkeys(ours.get(source["secretRef"]["name"], theirs), "from-a-secret")
    return found


@cache
def _schema(text: str) -> tuple[str, ...]:
    """What the API server would refuse: unknown fields, wrong types, missing ones."""
    document = json.loads(text)
    name = f"{document['kind']}/{document['metadata']['name']}"
    if model := CUSTOM.get((document["apiVersion"], document["kind"])):
        try:
            # Left to themselves these models let unknown fields, names of Python's and "3" for 3 pass.
            model.model_validate(document, extra="forbid", strict=True, by_name=False, by_alias=True)
        except ValidationError as error:
            return tuple(f"{name}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return ()
    found = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{name}: {'.'.join(map(str, error.path))}: {error.message} ({version})")
        except SchemaNotFoundError as error:
            found.append(f"{name}: {error.message}")
    return tuple(found)


def _pods(documents: Documents) -> Iterator[str]:
    for name, pod in pods(documents):
        spec = pod["spec"]
        rights = spec.get("securityContext", {})
        if not (rights.get("runAsNonRoot") and rights.get("runAsUser", 0) > 0):
            yield f"{name}: may run as root"
        if rights.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: mounts a token that it does not need"
        for container in spec["containers"]:
            inner = container.get("securityContext", {})
            if inner.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: can write to its root file system"
            if inner.get("allowPrivilegeEscalation") is not False or inner.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: keeps rights that it does not need"
            resources = container.get("resources", {})
            for place in ("requests", "limits"):
                if not {"cpu", "memory"} <= resources.get(place, {}).keys():
                    yield f"{name}: no {place} of CPU and memory"
            if any("subPath" in mount for mount in container["volumeMounts"]):
                yield f"{name}: a subPath mount never sees an update"
            if {mount["name"] for mount in container["volumeMounts"]} != {one["name"] for one in spec["volumes"]}:
                yield f"{name}: volumes and mounts differ"
            if not any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]):
                yield f"{name}: nowhere to write temporary files"
        if any("emptyDir" in one and "sizeLimit" not in one["emptyDir"] for one in spec["volumes"]):
            yield f"{name}: a temporary volume without a limit"


def _deployments(documents: Documents) -> Iterator[str]:
    for deployment in of_kind(documents, "Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        [container] = spec["template"]["spec"]["containers"]
        for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
            if container.get(f"{probe}Probe", {}).get("httpGet") != {"path": path, "port": "metrics"}:
                yield f"{name}: the {probe} probe does not ask {path}"
        patience = configuration(documents).get("shutdown_timeout", 30)
        if spec["template"]["spec"].get("terminationGracePeriodSeconds", 30) <= patience:
            yield f"{name}: is killed before shutdown_timeout is over"
        publishes = deployment["metadata"]["labels"]["app.kubernetes.io/component"] != "scorer"
        if publishes and (spec.get("replicas") != 1 or spec.get("strategy", {}).get("type") != "Recreate"):
            yield f"{name}: two pods could publish models at once"
        scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(documents, "ScaledObject")}
        if ("replicas" in spec) == (name in scaled):
            yield f"{name}: replicas are set by exactly one of Deployment and ScaledObject"


def _selectors(documents: Documents) -> Iterator[str]:
    labels = [pod["metadata"]["labels"] for _, pod in pods(documents)]
    for document in documents:
        spec = document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if not isinstance(selector, dict):
            continue
        wanted = selector["matchLabels"].items()
        name = f"{document['kind']}/{document['metadata']['name']}"
        if not wanted or not any(wanted <= one.items() for one in labels):
            yield f"{name}: its selector matches no pod"
        if document["kind"] == "Deployment" and not wanted <= spec["template"]["metadata"]["labels"].items():
            yield f"{name}: its selector does not match its own pods"
        if document["kind"] == "Deployment" and sum(wanted <= one.items() for one in labels) > 1:
            yield f"{name}: its selector matches another's pods"


def _disruption(documents: Documents) -> Iterator[str]:
    for budget in of_kind(documents, "PodDisruptionBudget"):
        if budget["spec"].get("maxUnavailable") in (None, 0, "0%"):
            yield f"{budget['metadata']['name']}: blocks the drain of a node while there is one pod"


def _network(documents: Documents) -> Iterator[str]:
    ports = {
        port["name"]: port["containerPort"]
        for _, pod in pods(documents)
        for port in pod["spec"]["containers"][0].get("ports", [])
    }
    for monitor in of_kind(documents, "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in ports:
                yield f"{monitor['metadata']['name']}: no pod has a port {endpoint['port']}"
    for policy in of_kind(documents, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        allowed = [port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", [{"port": None}])]
        if allowed != ["metrics"] or "metrics" not in ports:
            yield f"{name}: lets in something else than the metrics port"
        if not all(rule.get("ports") or rule.get("to") for rule in policy["spec"]["egress"]):
            yield f"{name}: an egress rule lets everything out"
        out = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
        brokers = configuration(documents)["source"]["bootstrap_servers"]
        if not {53, *(int(one.rsplit(":", 1)[1]) for one in brokers.split(","))} <= out:
            yield f"{name}: DNS or a broker cannot be reached"


def _references(documents: Documents) -> Iterator[str]:
    """What is named must be there, unless it is said to be somebody else's by its name `my-...`."""
    names = {(one["kind"], one["metadata"]["name"]) for one in documents}
    for name, pod in pods(documents):
        spec = pod["spec"]
        wanted = [("ServiceAccount", spec.get("serviceAccountName"))]
        for volume in spec["volumes"]:
            wanted.append(("ConfigMap", volume.get("configMap", {}).get("name")))
            wanted.append(("Secret", volume.get("secret", {}).get("secretName")))
            wanted.append(("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")))
        for source in spec["containers"][0].get("envFrom", []):
            wanted.append(("Secret", source["secretRef"]["name"]))
        for kind, other in wanted:
            if other and not other.startswith("my-") and (kind, other) not in names:
                yield f"{name}: there is no {kind} {other}"
        for variable in spec["containers"][0]["env"]:
            if "PASSWORD" in variable["name"] and "value" in variable:
                yield f"{name}: {variable['name']} is readable in the Deployment"
    for scaled in of_kind(documents, "ScaledObject"):
        if ("Deployment", scaled["spec"]["scaleTargetRef"]["name"]) not in names:
            yield f"{scaled['metadata']['name']}: scales nothing"
        for trigger in scaled["spec"]["triggers"]:
            authentication = trigger.get("authenticationRef", {}).get("name", "my-")
            if not authentication.startswith("my-") and ("TriggerAuthentication", authentication) not in names:
                yield f"{scaled['metadata']['name']}: there is no TriggerAuthentication {authentication}"
    for authentication in of_kind(documents, "TriggerAuthentication"):
        for target in authentication["spec"]["secretTargetRef"]:
            if target["parameter"] not in KEDA_SECRETS:
                yield f"{authentication['metadata']['name']}: KEDA knows no parameter {target['parameter']}"
            if not target["name"].startswith("my-") and ("Secret", target["name"]) not in names:
                yield f"{authentication['metadata']['name']}: there is no Secret {target['name']}"


def _configuration(documents: Documents, folder: Path) -> Iterator[str]:
    """The worker itself must take the configuration, with the variables that each pod really has."""
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind(documents, "ConfigMap")}
    for name, pod in pods(documents):
        [mounted] = [one["configMap"]["name"] for one in pod["spec"]["volumes"] if "configMap" in one]
        if mounted not in configs:
            continue  # `_references` says so
        file = folder / "config.yaml"
        file.write_text(configs[mounted]["config.yaml"])
        try:
            config = load(file, environ=environment(documents, pod))
        except ConfigError as error:
            yield f"{name}: {error}"
            continue
        [container] = pod["spec"]["containers"]
        if any(port["containerPort"] != config.monitoring.port for port in container.get("ports", [])):
            yield f"{name}: the worker listens at another port than the one declared"
        folders = [mount["mountPath"] for mount in container["volumeMounts"]]
        path = "/" + config.registry.path.lstrip("/")
        if (
            "://" not in path
            and container["args"][0] == "run"
            and not any(path == one or path.startswith(one + "/") for one in folders)
        ):
            yield f"{name}: the models are on no volume"
