"""Rules, dashboard and runbook use only metrics that the processes export."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import Site, noise
from metrics import fetch, metrics_of, samples
from metrics import value as total
from networks import tiny_checkpoint
from processes import free_ports, running_valkey, wait_for
from serving import served

from service.settings import ServiceSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
TESTS = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/gdsr.json").read_text())
RUNBOOK = (DEPLOY / "RUNBOOK.md").read_text()

ALL_RULES: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in ALL_RULES] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
#: Metrics that only a GPU machine exports; tests/workers/engine/test_gpu.py checks those of NVML.
GPU_ONLY = {
    "gdsr_cuda_memory_bytes",
    "gdsr_gpu_memory_used_bytes",
    "gdsr_gpu_power_watts",
    "gdsr_gpu_temperature_celsius",
    "gdsr_gpu_up",
    "gdsr_gpu_utilization_ratio",
    "gdsr_gpu_xid_errors_total",
}


def selectors_of(expression: str) -> Iterator[tuple[str, str, str]]:
    """Yield metric, label and value of every `label="value"` in an expression."""
    for metric, inside in re.findall(r"\b(gdsr_[a-z0-9_]+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)="([^"]*)"', inside):
            yield metric, label, value


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of service, supervisor and engine after a success, a failure and a refusal."""
    folder = tmp_path_factory.mktemp("site")
    port = free_ports(2)
    with running_valkey(folder / "valkey") as valkey:
        site = Site(valkey.url, folder / "blobs", tiny_checkpoint(folder / "tiny.safetensors"))
        settings = ServiceSettings(redis_url=valkey.url, blob_dir=site.blobs.root)
        with served(settings) as service, site.worker_host(worker_metrics_port=str(port)):
            site.ended(site.submit(noise(80, 80)))
            site.ended(site.submit(noise(60, 60), stored=b"no picture any more"))
            assert service.http.post("/upscale", content=b"no picture").status_code == 415
            places = [f"http://127.0.0.1:{port + number}/metrics" for number in range(2)]

            def scrape() -> str:
                texts = [fetch(place)[1] for place in places]
                both = total(texts[0], "gdsr_worker_jobs_total") == 2
                texts.append(service.http.get("/metrics").text)
                text = "".join(texts)
                return text if both and "gdsr_blob_bytes " in text else ""

            return wait_for(scrape, what="all that happened in the metrics")


def test_every_metric_that_rules_and_panels_use_is_exported(exported: str) -> None:
    used = set().union(*map(metrics_of, EXPRESSIONS))
    recorded = {name for name in used if ":" in name}
    names = {sample.name for sample in samples(exported)}

    assert recorded <= RECORDED
    assert used - recorded - names == GPU_ONLY
    assert not GPU_ONLY & names


def test_every_label_that_rules_and_panels_ask_for_is_exported(exported: str) -> None:
    known = {
        (sample.name, label, value)
        for sample in samples(exported)
        for label, value in sample.labels.items()
    }
    asked = {found for expression in EXPRESSIONS for found in selectors_of(expression)}
    known |= {("gdsr_worker_jobs_total", "fault", "service")}  # no job failed by our fault

    assert asked - known == set()


def test_no_label_has_a_value_of_its_own_for_each_job(exported: str) -> None:
    for sample in samples(exported):
        for label, value in sample.labels.items():
            assert not re.fullmatch(r"[0-9a-f]{16,}", value), (sample.name, label)


def test_the_runbook_lists_every_metric(exported: str) -> None:
    families = {
        re.sub(r"_(bucket|count|sum)$", "", sample.name)
        for sample in samples(exported)
        if sample.name.startswith("gdsr_") and not sample.name.endswith("_created")
    }
    listed = set(re.findall(r"`(gdsr_\w+)`", RUNBOOK.split("## Metrics")[1]))

    assert families | GPU_ONLY | {"gdsr_gpu_memory_total_bytes"} == listed


def test_every_alert_leads_to_its_section_of_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE))

    assert headings == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{name.lower()}"
        assert rule["annotations"]["summary"]
        section = RUNBOOK.split(f"### {name}\n")[1].split("\n###")[0]
        for part in ("**Means:**", "**Look:**", "**Do:**"):
            assert part in section, name


def test_alerts_name_the_jobs_of_prometheus_and_alertmanager_names_alerts() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    named = re.findall(r'\bjob=~?"([^"]+)"', " ".join(rule["expr"] for rule in ALL_RULES))
    inhibited = re.findall(r"GDSR\w+", (DEPLOY / "alertmanager/alertmanager.yml").read_text())

    assert set("|".join(named).split("|")) == {job["job_name"] for job in config["scrape_configs"]}
    assert inhibited
    assert set(inhibited) <= set(ALERTS)


def test_every_panel_that_the_runbook_names_is_there() -> None:
    titles = {panel["title"] for panel in PANELS}
    quoted = set(re.findall(r'"([A-Z][^"]+)"', RUNBOOK))
    named = quoted - {"GDSR"}

    assert named
    assert named <= titles


def test_every_alert_is_tested_to_fire_and_to_clear() -> None:
    cases = [case for test in TESTS["tests"] for case in test.get("alert_rule_test", [])]

    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    clears = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == clears == set(ALERTS)


def test_our_metrics_follow_the_conventions_of_prometheus(exported: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool on the PATH")
    ours = "".join(f"{line}\n" for line in exported.splitlines() if "process_" not in line)
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_panels_have_a_source_and_no_two_the_same_place() -> None:
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )
    uids = {entry["uid"] for entry in source["datasources"]}

    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert {target["datasource"]["uid"] for p in PANELS for target in p["targets"]} <= uids
