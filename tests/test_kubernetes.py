"""The Helm chart, rendered by the real Helm for many values and held against Kubernetes' and its operators' schemas."""

from __future__ import annotations

import base64
import copy
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_ad.config.watching import LIVE
from tests import helm, manifests
from tests.manifest_checks import Document, Documents, configuration, of_kind, problems
from tests.manifests import CHART

ROOT = Path(__file__).parent.parent
SASL = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "${KAFKA_USERNAME}",
    "sasl_password": "${KAFKA_PASSWORD}",
    "ssl_cafile": "/etc/stream-ad-tls/ca.crt",
}
MUTUAL_TLS = {
    "bootstrap_servers": "one.example.com:9094,two.example.com:9095",
    "security_protocol": "SSL",
    "ssl_cafile": "/etc/stream-ad-tls/ca.crt",
    "ssl_certfile": "/etc/stream-ad-tls/tls.crt",
    "ssl_keyfile": "/etc/stream-ad-tls/tls.key",
}
SWITCHES = ("podMonitor", "prometheusRule", "dashboards", "podDisruptionBudget", "networkPolicy")
EVERYTHING = {name: {"enabled": True} for name in SWITCHES}
NOTHING = {name: {"enabled": False} for name in SWITCHES} | {"serviceAccount": {"create": False, "name": "my-account"}}
CREDENTIALS = {"KAFKA_USERNAME": "worker", "KAFKA_PASSWORD": "pass: 'word'"}

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "all-in-one": {"roles": "all"},
    "object-store": {
        "config": {"registry": {"path": "s3://models/plant"}},
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/stream-ad"}},
    },
    "keda": {"keda": {"enabled": True}, "config": {"source": {"topics": ["a", "b"]}}},
    "keda-with-sasl": {
        "keda": {"enabled": True},
        "config": {"source": SASL},
        "secret": {"values": CREDENTIALS, "tls": "my-tls"},
    },
    "keda-with-mutual-tls": {"keda": {"enabled": True}, "config": {"source": MUTUAL_TLS}, "secret": {"tls": "my-tls"}},
    "existing-secret": {"config": {"source": SASL}, "secret": {"existing": "my-secret", "tls": "my-tls"}},
    "sasl-and-operators": EVERYTHING
    | {
        "keda": {"enabled": True},
        "config": {"source": SASL},
        "secret": {"values": CREDENTIALS, "tls": "my-tls"},
    },
    "everything": EVERYTHING
    | {
        "keda": {"enabled": True, "existingTriggerAuthentication": "my-authentication"},
        "config": {"shutdown_timeout": 90.5, "training": {"every_rows": None, "window_rows": 2_000_000}},
        "persistence": {"existingClaim": "my-claim"},
        "image": {"repository": "registry.example.com/stream-ad", "tag": "edge", "pullSecrets": ["my-registry"]},
        "podAnnotations": {"example.com/team": "plant"},
        "podLabels": {"team": "plant"},
        "scorer": {"affinity": {"nodeAffinity": {}}, "priorityClassName": "high"},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "extraEgress": [{"to": [{"podSelector": {}}]}]},
    },
    "nothing": NOTHING,
    "gpu": yaml.safe_load((CHART / "values-gpu.yaml").read_text()),
}


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with the pod of `helm test` among its other objects, which the library does not render as a hook."""
    folder = tmp_path_factory.mktemp("chart") / "stream-ad"
    shutil.copytree(CHART, folder)
    hook = folder / "templates" / "tests" / "connection.yaml"
    hook.write_text(re.sub(r"(?m)^ +(helm.sh/hook.*|annotations:)\n", "", hook.read_text()))
    return folder


@cache
def documents(chart: Path, name: str) -> Documents:
    return parsed(helm.template(chart, VALUES[name]))


def parsed(text: str) -> Documents:
    return [document for document in yaml.safe_load_all(text) if document]


def one(found: Documents, kind: str, component: str = "") -> Document:
    [document] = [x for x in of_kind(found, kind) if x["metadata"]["name"].endswith(component)]
    return document


def test_helm_lint_has_nothing_to_say() -> None:
    assert "[WARNING]" not in helm.lint(CHART)


@pytest.mark.parametrize(
    ("file", "more", "says"),
    [
        ("values.yaml", "scorers: {}", "additional properties 'scorers' not allowed"),
        ("templates/NOTES.txt", "{{ .Values.no.such.value }}", "nil pointer"),
        ("templates/configmap.yaml", "  - x: [", "unable to parse YAML"),
    ],
)
def test_helm_lint_finds_what_is_broken(file: str, more: str, says: str, tmp_path: Path) -> None:
    broken = tmp_path / "stream-ad"
    shutil.copytree(CHART, broken)
    with (broken / file).open("a") as end:
        end.write(f"\n{more}\n")
    with pytest.raises(helm.HelmError, match=says):
        helm.lint(broken)


@pytest.mark.parametrize("name", VALUES)
def test_what_the_chart_renders_is_valid_and_safe(chart: Path, name: str, tmp_path: Path) -> None:
    assert problems(documents(chart, name), tmp_path) == []


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (
            "default",
            "ConfigMap Deployment Deployment NetworkPolicy PersistentVolumeClaim Pod PodDisruptionBudget "
            "ServiceAccount",
        ),
        ("all-in-one", "ConfigMap Deployment NetworkPolicy PersistentVolumeClaim Pod ServiceAccount"),
        ("object-store", "ConfigMap Deployment Deployment NetworkPolicy Pod PodDisruptionBudget ServiceAccount"),
        ("nothing", "ConfigMap Deployment Deployment PersistentVolumeClaim Pod"),
    ],
)
def test_only_what_was_asked_for_is_made(chart: Path, name: str, kinds: str) -> None:
    assert sorted(document["kind"] for document in documents(chart, name)) == kinds.split()


def test_each_pod_knows_its_role(chart: Path) -> None:
    def roles(name: str) -> dict[str, str]:
        deployments = of_kind(documents(chart, name), "Deployment")
        return {
            x["metadata"]["name"]: x["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
            for x in deployments
        }

    assert roles("default") == {"stream-ad-scorer": "scorer", "stream-ad-trainer": "trainer"}
    assert roles("all-in-one") == {"stream-ad-all": "all"}


def test_the_volume_is_shared_by_many_or_owned_by_one(chart: Path) -> None:
    modes = {
        name: one(documents(chart, name), "PersistentVolumeClaim")["spec"]["accessModes"]
        for name in ("default", "all-in-one")
    }
    assert modes == {"default": ["ReadWriteMany"], "all-in-one": ["ReadWriteOnce"]}


def test_only_the_trainer_may_write_the_models(chart: Path) -> None:
    def read_only(component: str) -> bool:
        [container] = one(documents(chart, "default"), "Deployment", component)["spec"]["template"]["spec"][
            "containers"
        ]
        return any(mount["name"] == "models" and mount.get("readOnly", False) for mount in container["volumeMounts"])

    assert read_only("scorer") and not read_only("trainer")


def test_only_the_trainer_gets_the_gpu_and_its_image(chart: Path) -> None:
    def spec(component: str) -> Document:
        return dict(one(documents(chart, "gpu"), "Deployment", component)["spec"]["template"]["spec"])

    [trainer], [scorer] = spec("trainer")["containers"], spec("scorer")["containers"]
    assert trainer["image"] == scorer["image"] + "-cuda"
    assert trainer["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in scorer["resources"]["limits"]
    assert spec("trainer")["tolerations"] and "tolerations" not in spec("scorer")


def test_keda_scales_the_scorers_by_the_lag_of_their_group_on_every_topic(chart: Path) -> None:
    scaled = one(documents(chart, "keda"), "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"] == {"name": "stream-ad-scorer"}
    assert [trigger["metadata"] for trigger in scaled["triggers"]] == [
        {
            "bootstrapServers": "kafka.kafka.svc:9092",
            "consumerGroup": "stream-ad",
            "topic": topic,
            "lagThreshold": "10000",
            "offsetResetPolicy": "earliest",
        }
        for topic in ("a", "b")
    ]


def test_keda_logs_in_as_the_worker_does(chart: Path) -> None:
    found = documents(chart, "keda-with-sasl")
    [trigger] = one(found, "ScaledObject")["spec"]["triggers"]
    assert (trigger["metadata"]["sasl"], trigger["metadata"]["tls"]) == ("scram_sha512", "enable")
    targets = one(found, "TriggerAuthentication")["spec"]["secretTargetRef"]
    assert sorted((x["parameter"], x["name"], x["key"]) for x in targets) == [
        ("ca", "my-tls", "ca.crt"),
        ("password", "stream-ad", "KAFKA_PASSWORD"),
        ("username", "stream-ad", "KAFKA_USERNAME"),
    ]


def test_a_password_arrives_as_it_was_given_and_in_the_secret_only(chart: Path) -> None:
    found = documents(chart, "keda-with-sasl")
    secret = one(found, "Secret")["data"]
    assert {name: base64.b64decode(value).decode() for name, value in secret.items()} == CREDENTIALS
    assert "pass:" not in yaml.safe_dump([x for x in found if x["kind"] != "Secret"])


def test_the_config_arrives_as_it_was_given(chart: Path) -> None:
    """Helm drops nulls that stand in place of a default, and shortens large numbers where it prints them."""
    config = configuration(documents(chart, "everything"))
    assert config["training"] == {"every_rows": None, "window_rows": 2_000_000}
    assert config["shutdown_timeout"] == 90.5


def test_the_config_yaml_of_the_project_does_as_values(chart: Path, tmp_path: Path) -> None:
    """By the one line of shell that docs/kubernetes.md gives."""
    [line] = re.findall(r"^\{ echo .*$", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE)
    values = tmp_path / "plant-values.yaml"
    subprocess.run(["sh", "-c", line.replace(values.name, str(values))], cwd=ROOT, check=True)
    assert problems(parsed(helm.template(chart, files=[values])), tmp_path) == []


def test_the_values_in_the_guide_are_ones_that_the_chart_takes() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert "kind: Deployment" in helm.template(CHART, yaml.safe_load(block))


def restart_marks(chart: Path, values: dict[str, Any]) -> set[str]:
    found = of_kind(parsed(helm.template(chart, values)), "Deployment")
    return {x["spec"]["template"]["metadata"]["annotations"]["checksum/restart"] for x in found}


def test_a_change_that_workers_take_up_live_restarts_none(chart: Path) -> None:
    live: dict[str, Any] = {}
    for path in LIVE:
        section, key = path.split(".")
        live.setdefault(section, {})[key] = 1
    assert restart_marks(chart, {"config": live}) == restart_marks(chart, {"config": {section: {} for section in live}})


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"source": {"group": "other"}}},
        {"config": {"training": {"window_rows": 30000}}},
        {"secret": {"values": {"KAFKA_PASSWORD": "new"}}},
    ],
)
def test_a_change_that_takes_a_restart_restarts_all(chart: Path, values: dict[str, Any]) -> None:
    assert not restart_marks(chart, values) & restart_marks(chart, {})


def test_prometheus_rules_keep_their_own_braces(chart: Path) -> None:
    groups = one(documents(chart, "everything"), "PrometheusRule")["spec"]["groups"]
    originals = [
        yaml.safe_load((manifests.DEPLOY / "prometheus" / name).read_text())
        for name in ("alerts.yaml", "recording.yaml")
    ]
    assert groups == [group for original in originals for group in original["groups"]]
    assert "{{ " in yaml.safe_dump(groups)


def test_dashboards_arrive_byte_for_byte_under_the_sidecars_label(tmp_path: Path) -> None:
    """Grafana's braces are not Helm's either."""
    folder = tmp_path / "stream-ad"
    shutil.copytree(CHART, folder)
    dashboard = '{"title": "Überblick", "legendFormat": "{{instance}}",\n "expr": "a{b=\\"$c\\"}"}\n'
    (folder / "files" / "dashboards").mkdir(exist_ok=True)
    (folder / "files" / "dashboards" / "a-plant.json").write_text(dashboard)
    found = parsed(helm.template(folder, {"dashboards": {"enabled": True, "annotations": {"folder": "plants"}}}))
    config_map = one(found, "ConfigMap", "-dashboard-a-plant")
    assert config_map["data"] == {"a-plant.json": dashboard}
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["annotations"] == {"folder": "plants"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"scorers": {"replicas": 3}}, "additional properties 'scorers' not allowed"),
        ({"keda": {"maxReplica": 3}}, "at '/keda': additional properties 'maxReplica' not allowed"),
        ({"scorer": {"replicas": "two"}}, "at '/scorer/replicas': got string, want integer"),
        ({"scorer": {"resources": {"limits": {"cpu": None}}}}, "at '/scorer/resources/limits': missing property 'cpu'"),
        ({"roles": "trainer"}, "at '/roles': value must be one of 'split', 'all'"),
        ({"config": {"schema": {"features": ["x", True]}}}, "at '/config/schema/features/1': got boolean, want string"),
        ({"config": {"source": {"topics": [83]}}}, "at '/config/source/topics/0': got number, want string"),
        ({"secret": {"existing": "my-secret", "values": CREDENTIALS}}, "exclude each other"),
        ({"config": {"source": {"type": "file"}}}, "at '/config/source/type'"),
        ({"config": {"monitoring": {"port": 0}}}, "at '/config/monitoring/port': minimum"),
        ({"secret": {"values": {"kafka.password": "x"}}}, "invalid propertyName 'kafka.password'"),
        ({"config": {"registry": {"path": "/data"}}}, "not on the volume, which is mounted at /models"),
        ({"config": {"source": {"sasl_password": "hunter2"}}}, "would be readable in a ConfigMap"),
        ({"config": {"sink": {"ssl_password": "hunter2"}}}, "would be readable in a ConfigMap"),
        ({"config": {"source": {"bootstrap_servers": "${BROKERS}"}}}, "networkPolicy.kafkaPorts"),
        ({"keda": {"enabled": True}, "roles": "all"}, "set roles: split"),
        ({"keda": {"enabled": True, "minReplicas": 9}}, "keda.minReplicas is above"),
        ({"keda": {"enabled": True}, "config": {"source": {"topics": ["${TOPIC}"]}}}, "KEDA cannot see"),
        ({"keda": {"enabled": True}, "config": {"source": SASL}}, "set secret.existing or secret.values"),
        (
            {
                "keda": {"enabled": True},
                "config": {"source": SASL | {"sasl_mechanism": "OAUTHBEARER"}},
                "secret": {"existing": "my-secret"},
            },
            "not with OAUTHBEARER",
        ),
    ],
)
def test_wrong_values_are_refused_with_a_reason(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        helm.template(CHART, values)
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


REMOVED = object()
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
SCORER, TRAINER = "Deployment/stream-ad-scorer", "Deployment/stream-ad-trainer"
SCALED, LOGIN = "ScaledObject/stream-ad-scorer", "TriggerAuthentication/stream-ad-scorer"

BROKEN: list[tuple[str, str, Any, str]] = [
    (SCORER, f"{CONTAINER}.imagee", "x", "'imagee' was unexpected"),
    (SCORER, "spec.minReadySeconds", "ten", "'ten' is not of type 'integer'"),
    (SCORER, f"{CONTAINER}.name", REMOVED, "'name' is a required property"),
    (SCORER, "apiVersion", "apps/v1beta1", "Couldn't find schema"),
    (SCALED, "spec.maxReplicas", 3, "spec.maxReplicas: Extra inputs"),
    (SCALED, "spec.maxReplicaCount", "3", "spec.maxReplicaCount"),
    (SCALED, "spec.max_replica_count", 3, "spec.max_replica_count: Extra inputs"),
    (SCALED, "spec.triggers.0.metadata.lagThreshold", 100, "lagThreshold"),
    (SCALED, "spec.scaleTargetRef.name", "other", "scales nothing"),
    (SCALED, "spec.triggers.0.authenticationRef.name", "other", "there is no TriggerAuthentication other"),
    (LOGIN, "spec.secretTargetRef.0.parameter", "user", "KEDA knows no parameter user"),
    (LOGIN, "spec.secretTargetRef.0.name", "other", "there is no Secret other"),
    ("PodMonitor/stream-ad", "spec.podMetricsEndpoints.0.prot", "metrics", "Extra inputs"),
    ("PodMonitor/stream-ad", "spec.podMetricsEndpoints.0.port", "http", "no pod has a port http"),
    ("PodMonitor/stream-ad", "spec.selector.matchLabels", {"app": "other"}, "its selector matches no pod"),
    ("PrometheusRule/stream-ad", "spec.groups.0.rules.0.expr", REMOVED, "expr"),
    (SCORER, f"{POD}.securityContext.runAsNonRoot", False, "may run as root"),
    (SCORER, f"{POD}.securityContext.seccompProfile", REMOVED, "no seccomp profile"),
    (SCORER, f"{POD}.automountServiceAccountToken", True, "mounts a token"),
    (SCORER, f"{POD}.serviceAccountName", "other", "there is no ServiceAccount other"),
    (SCORER, f"{POD}.volumes.1.emptyDir.sizeLimit", REMOVED, "a temporary volume without a limit"),
    (SCORER, f"{POD}.terminationGracePeriodSeconds", 30, "is killed before shutdown_timeout"),
    (TRAINER, f"{POD}.volumes.0.configMap.name", "stream-ad-other", "there is no ConfigMap stream-ad-other"),
    (TRAINER, "spec.replicas", 2, "two pods could publish"),
    (TRAINER, "spec.strategy.type", "RollingUpdate", "two pods could publish"),
    (TRAINER, "spec.selector.matchLabels", {"app.kubernetes.io/name": "stream-ad"}, "matches another's pods"),
    (SCORER, "spec.replicas", 2, "replicas are set by exactly one"),
    (SCORER, f"{CONTAINER}.securityContext.readOnlyRootFilesystem", False, "can write to its root file system"),
    (SCORER, f"{CONTAINER}.securityContext.capabilities", REMOVED, "keeps rights that it does not need"),
    (SCORER, f"{CONTAINER}.resources.limits.memory", REMOVED, "no limits of CPU and memory"),
    (SCORER, f"{CONTAINER}.volumeMounts.0.subPath", "config.yaml", "a subPath mount never sees an update"),
    (SCORER, f"{CONTAINER}.volumeMounts.1.mountPath", "/temporary", "nowhere to write temporary files"),
    (SCORER, f"{CONTAINER}.volumeMounts.2", REMOVED, "volumes and mounts differ"),
    (SCORER, f"{CONTAINER}.volumeMounts.2.mountPath", "/other", "the models are on no volume"),
    (SCORER, f"{CONTAINER}.startupProbe", REMOVED, "the startup probe does not ask /livez"),
    (SCORER, f"{CONTAINER}.readinessProbe.httpGet.path", "/livez", "the readiness probe does not ask /readyz"),
    (SCORER, f"{CONTAINER}.ports.0.containerPort", 9999, "listens at another port"),
    (SCORER, f"{CONTAINER}.envFrom.0.secretRef.name", "other", "there is no Secret other"),
    (SCORER, f"{CONTAINER}.envFrom", REMOVED, "the environment variable KAFKA_PASSWORD is not set"),
    (SCORER, f"{CONTAINER}.env.0", {"name": "KAFKA_PASSWORD", "value": "x"}, "is readable in the Deployment"),
    (
        "ConfigMap/stream-ad",
        "data.config.yaml",
        "source: {bootstrap_servers: 'kafka:9092', topics: [a]}",
        "is needed and not there",
    ),
    ("PodDisruptionBudget/stream-ad-scorer", "spec.maxUnavailable", 0, "blocks the drain of a node"),
    ("NetworkPolicy/stream-ad", "spec.ingress.0.ports", REMOVED, "lets in something else"),
    ("NetworkPolicy/stream-ad", "spec.egress.1.ports", REMOVED, "lets everything out"),
    ("NetworkPolicy/stream-ad", "spec.egress.1.ports.0.port", 9099, "DNS or a broker cannot be reached"),
]


@pytest.mark.parametrize(("which", "path", "value", "says"), BROKEN, ids=[f"{b[0]} {b[1]}" for b in BROKEN])
def test_the_checks_find_what_is_broken(
    chart: Path, which: str, path: str, value: Any, says: str, tmp_path: Path
) -> None:
    broken = copy.deepcopy(documents(chart, "sasl-and-operators"))
    [document] = [x for x in broken if which == f"{x['kind']}/{x['metadata']['name']}"]
    # The one key with a dot in its name is a file's.
    *above, last = [part.replace("%", ".") for part in path.replace("config.yaml", "config%yaml").split(".")]
    place: Any = document
    for part in above:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    if value is REMOVED:
        del place[key]
    else:
        place[key] = value
    assert any(says in finding for finding in problems(broken, tmp_path))


def test_copies_and_plain_manifests_are_what_make_manifests_writes() -> None:
    wanted = manifests.copies() | manifests.manifests()
    there = {path for folder in {path.parent for path in wanted} for path in folder.iterdir()}
    stale = sorted(
        str(path) for path in there ^ wanted.keys() | {x for x in wanted if x.is_file() and x.read_text() != wanted[x]}
    )
    assert not stale, "run `make manifests`"


def test_stale_and_strange_files_are_rewritten(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("old")
    (tmp_path / "kept.yaml").write_text("old")
    manifests.write({tmp_path / "kept.yaml": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept.yaml": "new"}


@pytest.mark.parametrize("name", ["scorers-and-trainer", "all-in-one"])
def test_the_plain_manifests_are_valid_and_safe(name: str, tmp_path: Path) -> None:
    plain = parsed((manifests.PLAIN / f"{name}.yaml").read_text())
    assert problems(plain, tmp_path) == []
