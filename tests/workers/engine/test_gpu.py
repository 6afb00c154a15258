"""An engine reports its GPU as the driver does, or not at all, but never fails."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from metrics import samples, value

from workers.engine.telemetry import MemoryCollector

DEPLOY = Path(__file__).parents[3] / "deploy"
SOURCE = Path(__file__).parents[2] / "support" / "fake_nvml.c"
#: Prints a scrape; with `xid`, waits until an Xid error is counted.
SCRAPES = """
import sys, time
from prometheus_client import CollectorRegistry, generate_latest
from workers.engine.gpu import GPUCollector

collector = GPUCollector("GPU-1")
registry = CollectorRegistry()
registry.register(collector)
while sys.argv[1:] == ["xid"] and not collector.xid_errors:
    time.sleep(0.01)
print(generate_latest(registry).decode())
"""


def scrape(*arguments: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", SCRAPES, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler for a driver that can fail")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return folder


def test_metrics_of_a_gpu_come_from_the_driver(driver: Path, tmp_path: Path) -> None:
    told = scrape(LD_LIBRARY_PATH=str(driver), FAKE_GPU=str(tmp_path))

    gpu = {"gpu": "2", "uuid": "GPU-1"}
    assert value(told, "gdsr_gpu_up", **gpu) == 1
    assert value(told, "gdsr_gpu_utilization_ratio", **gpu) == 0.75
    assert value(told, "gdsr_gpu_memory_used_bytes", **gpu) == 10e9
    assert value(told, "gdsr_gpu_memory_total_bytes", **gpu) == 80e9
    assert value(told, "gdsr_gpu_temperature_celsius", **gpu) == 61
    assert value(told, "gdsr_gpu_power_watts", **gpu) == 350.5


def test_a_sensor_that_a_gpu_lacks_is_left_out(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "no-power-sensor").touch()
    told = scrape(LD_LIBRARY_PATH=str(driver), FAKE_GPU=str(tmp_path))

    assert "gdsr_gpu_power_watts" not in told
    assert value(told, "gdsr_gpu_temperature_celsius") == 61


def test_a_gpu_that_is_lost_is_down(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "lost").touch()
    told = scrape(LD_LIBRARY_PATH=str(driver), FAKE_GPU=str(tmp_path))

    assert [(s.name, s.value) for s in samples(told)] == [("gdsr_gpu_up", 0)]


def test_a_critical_error_is_counted(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "xid").touch()
    told = scrape("xid", LD_LIBRARY_PATH=str(driver), FAKE_GPU=str(tmp_path))

    assert value(told, "gdsr_gpu_xid_errors_total", uuid="GPU-1") == 1


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpu_metrics() -> None:
    assert samples(scrape()) == []


def test_dashboard_and_alerts_ask_for_no_other_metric_of_a_gpu(
    driver: Path, tmp_path: Path
) -> None:
    told = {s.name for s in samples(scrape(LD_LIBRARY_PATH=str(driver), FAKE_GPU=str(tmp_path)))}
    memory = MemoryCollector(torch.device("cuda:0")).collect()  # the allocator's counts need no GPU
    told |= {sample.name for family in memory for sample in family.samples}

    files = ("prometheus/rules.yml", "grafana/dashboards/gdsr.json")
    asked = "".join((DEPLOY / name).read_text() for name in files)
    assert set(re.findall(r"gdsr_(?:gpu|cuda)_\w+", asked)) <= told
