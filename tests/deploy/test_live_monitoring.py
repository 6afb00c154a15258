"""Under load, every rule and panel has data in a real Prometheus, and an alert arrives.

Run with `-s`, it prints its figures.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from factories import photo, saved
from metrics import fetch, metrics_of
from processes import command_line, descendants, free_ports, wait_for

from workers.host.parent_death import dying_with_parent

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTMANAGER = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        not (shutil.which("prometheus") and ALERTMANAGER and shutil.which("cc")),
        reason="needs prometheus, alertmanager and a C compiler",
    ),
]
#: Exports an engine's GPU metrics with the driver of tests/support/fake_nvml.c.
GPU = """
import sys, threading, torch
from prometheus_client import CollectorRegistry
from workers.contract.observability.metrics_server import MetricsServer
from workers.engine.gpu import GPUCollector
from workers.engine.telemetry import MemoryCollector
registry = CollectorRegistry()
registry.register(GPUCollector("GPU-1"))
registry.register(MemoryCollector(torch.device("cuda:0")))
MetricsServer(registry, host="127.0.0.1", port=int(sys.argv[1]))
threading.Event().wait()
"""


@contextmanager
def started(*command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Prometheus:
    """A server with the project's configuration, except for targets and shorter intervals."""

    def __init__(self, folder: Path, targets: dict[str, list[int]], *, alertmanager: int) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus/rules.yml")]
        (managers,) = config["alerting"]["alertmanagers"]
        managers["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            ports = targets[job["job_name"]]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        folder.mkdir()
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_ports(1)
        self.command = (
            "prometheus", f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}",
        )  # fmt: skip

    def ask(self, path: str, **query: str) -> Any:
        text = urllib.parse.urlencode(query)
        status, answer = fetch(f"http://127.0.0.1:{self.port}/api/v1/{path}?{text}")
        assert status == 200, answer
        return json.loads(answer)["data"]

    def has_data(self, expression: str) -> bool:
        return bool(self.ask("query", query=expression)["result"])


def disturb(url: str, done: threading.Event) -> None:
    """Send uploads that are no pictures, and truncated pictures, beside the load."""
    cut = saved(photo(200, 200), "JPEG")[:-2000]
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
        while not done.wait(1):
            try:
                http.post("/upscale", content=b"no picture")
                http.post("/upscale", content=cut)
            except httpx2.HTTPError:
                return


def test_rules_and_panels_have_data_under_load_and_an_alert_arrives(tmp_path: Path) -> None:
    worker_port = free_ports(2)
    service_port, gpu_port, manager_port = (free_ports(1) for _ in range(3))
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests/support/fake_nvml.c"], check=True
    )
    targets = {
        "service": [service_port],
        "worker": [worker_port],
        "engine": [worker_port + 1, gpu_port],
    }
    prometheus = Prometheus(tmp_path / "prometheus", targets, alertmanager=manager_port)
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
    dashboard = json.loads((DEPLOY / "grafana/dashboards/gdsr.json").read_text())
    alerts = [r for group in rules["groups"] for r in group["rules"] if "alert" in r]
    recorded = [r["record"] for group in rules["groups"] for r in group["rules"] if "record" in r]
    panels = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    # A quiet alert correctly returns nothing, so the metrics that it reads are checked instead.
    read = sorted(set().union(*(metrics_of(rule["expr"]) for rule in alerts)))
    missing = {*recorded, *panels, *read}

    with ExitStack() as stack:
        stack.enter_context(started(*prometheus.command))
        stack.enter_context(
            started(
                str(ALERTMANAGER), f"--config.file={DEPLOY / 'alertmanager/alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alertmanager'}", "--cluster.listen-address=",
                f"--web.listen-address=127.0.0.1:{manager_port}",
            )
        )  # fmt: skip
        stack.enter_context(
            started(
                sys.executable, "-c", GPU, str(gpu_port),
                LD_LIBRARY_PATH=str(tmp_path), FAKE_GPU=str(tmp_path),
            )
        )  # fmt: skip
        load = stack.enter_context(
            started(
                sys.executable, "-m", "deploy.bench", "service", "--runs", "5",
                "--json", str(tmp_path / "bench.json"),
                GDSR_METRICS_PORT=str(service_port), GDSR_WORKER_METRICS_PORT=str(worker_port),
            )
        )  # fmt: skip

        def address() -> str | None:
            lines = map(command_line, descendants(load.pid))
            found = [re.search(r"deploy\.local .*--port (\d+)", line) for line in lines]
            return next((f"http://127.0.0.1:{match[1]}" for match in found if match), None)

        url = wait_for(address, what="gdsr-up")
        wait_for(lambda: _answers(f"{url}/readyz"), seconds=120, what="a service that is ready")
        done = threading.Event()
        thread = threading.Thread(target=disturb, args=(url, done))
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)

        def all_seen() -> bool:
            missing.difference_update([e for e in missing if prometheus.has_data(e)])
            return not missing

        try:
            wait_for(all_seen, seconds=120)
        except AssertionError:
            pytest.fail(f"without data: {sorted(missing)}")
        groups = prometheus.ask("rules")["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        assert set(health.values()) == {"ok"}
        up = {t["scrapeUrl"]: t["health"] for t in prometheus.ask("targets")["activeTargets"]}
        assert set(up.values()) == {"up"}
        firing = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
        assert "GDSRServiceDown" not in firing
        done.set()
        assert load.wait(timeout=200) == 0

        def arrived() -> list[Any]:
            _, text = fetch(f"http://127.0.0.1:{manager_port}/api/v2/alerts")
            return [a for a in json.loads(text) if a["labels"]["alertname"] == "GDSRServiceDown"]

        (alert,) = wait_for(arrived, seconds=150, what="the alert in Alertmanager")
        assert alert["annotations"]["runbook"] == "deploy/RUNBOOK.md#gdsrservicedown"
        assert alert["status"]["state"] == "active"
        figures = json.loads((tmp_path / "bench.json").read_text())
        print(  # noqa: T201 - the transcript
            f"\n{len(up)} targets, {len(health)} rules, {len(panels)} panel expressions, "
            f"{len(read)} metrics of {len(alerts)} alerts; {alert['labels']['alertname']} arrived "
            f"(began {alert['startsAt']}); "
            f"{figures['seconds at trade_off 0.5']['median']:.2f} s a picture"
        )


def _answers(url: str) -> bool:
    try:
        return fetch(url)[0] == 200
    except OSError:
        return False
