"""A worker host exports the metrics of its programs and jobs, on one port per process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from hosts import Site, noise
from metrics import fetch, value
from processes import free_ports, wait_for

pytestmark = pytest.mark.e2e


def scrape(port: int) -> str:
    status, text = fetch(f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    return text


def until(port: int, seen: Callable[[str], bool]) -> str:
    """Scrape until the condition holds, and return that scrape."""

    def look() -> str:
        text = scrape(port)
        return text if seen(text) else ""

    return wait_for(look, what="it in the metrics")


def test_jobs_tiles_and_restarts_are_counted(site: Site) -> None:
    port = free_ports(2)
    with site.worker_host(worker_metrics_port=str(port)) as host:
        done = site.ended(site.submit(noise(100, 120), trade_off=1))
        site.ended(site.submit(noise(60, 60), stored=b"no picture any more"))

        supervisor = until(port, lambda text: value(text, "gdsr_worker_jobs_total") == 2)
        engine = scrape(port + 1)
        assert value(supervisor, "gdsr_worker_jobs_total", state="succeeded", output="gan") == 1
        assert done.result is not None
        assert value(supervisor, "gdsr_job_pixels_total", direction="in") == 100 * 120
        assert value(supervisor, "gdsr_job_pixels_total", direction="out") == 16 * 100 * 120
        assert value(supervisor, "gdsr_job_blob_bytes_total", direction="out") == done.result.size
        for stage in ("queue", "decode", "infer", "encode"):
            sum_of = value(supervisor, "gdsr_job_stage_seconds_sum", stage=stage)
            assert sum_of >= 0.9 * done.result.seconds[stage]
        assert value(engine, "gdsr_tiles_total", model="tiny") == done.tiles
        assert value(engine, "gdsr_batch_tiles_sum") == done.tiles
        assert value(engine, "gdsr_model_info", model="tiny", precision="float32") == 1
        assert value(engine, "gdsr_oom_retries_total") == 0
        assert fetch(f"http://127.0.0.1:{port}/readyz")[0] == 200

        os.kill(host.engine, signal.SIGKILL)
        died = {"kind": "engine", "cause": "killed"}
        until(port, lambda text: value(text, "gdsr_program_restarts_total", **died) == 1)
        assert fetch(f"http://127.0.0.1:{port}/livez")[0] == 200
        ready = {"kind": "engine", "state": "ready"}
        until(port, lambda text: value(text, "gdsr_programs", **ready) == 1)
        assert fetch(f"http://127.0.0.1:{port + 1}/metrics")[0] == 200


def test_a_metrics_port_in_use_ends_the_worker_with_one_line(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "workers"],
            env={**os.environ, **site.environment(worker_metrics_port=str(port))},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    assert run.returncode != 0
    assert f"port {port}: Address already in use" in run.stderr
    assert "GDSR_WORKER_METRICS_PORT" in run.stderr
    assert run.stderr.count("\n") == 1
