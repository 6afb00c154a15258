"""Benchmark of the service as seen by a user: start `gdsr-up`, send pictures one by one."""

import io
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image
from rich.console import Console
from rich.table import Table

from deploy.bench.costs import resident
from deploy.bench.timing import machine

_SAMPLE = Path(__file__).parents[1] / "sample" / "kitten.jpg"
_SIDE = 256


def bench_service(*, model: str, runs: int) -> dict[str, Any]:
    """Seconds to readiness and for one 256x256 JPEG -> 1024x1024 PNG; memory of the service.

    Raises:
        RuntimeError: the service did not start, or rejected the picture.
    """
    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as data:
        picture = sample_picture(_SIDE)
        start = time.perf_counter()
        with running_service(Path(data)) as (url, process):
            figures["ready_seconds"] = time.perf_counter() - start
            with httpx2.Client(base_url=url, timeout=120, trust_env=False) as http:
                info = http.get("/models").json()
                figures["models"] = info
                for trade_off in (0.0, 0.5, 1.0):
                    times = _times(http, picture, model, trade_off, runs)
                    figures[f"seconds at trade_off {trade_off:g}"] = times
            figures["service_rss_bytes"] = resident(process.pid)["service"]
    _report(figures, model)
    return figures


def _times(
    http: httpx2.Client, picture: bytes, model: str, trade_off: float, runs: int
) -> dict[str, Any]:
    seconds: list[float] = []
    stages: dict[str, float] = {}
    for run in range(runs + 1):
        start = time.perf_counter()
        answer = http.post(
            "/upscale",
            params={"trade_off": trade_off, "model": model},
            content=picture,
            # Bypasses the result cache.
            headers={"Prefer": "wait=60", "Cache-Control": "no-cache"},
        )
        if answer.status_code != httpx2.codes.OK:
            raise RuntimeError(f"the service responded {answer.status_code}: {answer.text}")
        if run:  # the first one is a warm-up
            seconds.append(time.perf_counter() - start)
        job = http.get(answer.headers["Content-Location"].removesuffix("/result")).json()
        stages = job["result"]["seconds"]
    return {
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
        "stages of the last": stages,
    }


def sample_picture(side: int) -> bytes:
    """The sample photograph as a JPEG of `side` x `side` pixels."""
    file = io.BytesIO()
    with Image.open(_SAMPLE) as sample:
        sample.resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
    return file.getvalue()


@contextmanager
def running_service(data: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Address and process of a `gdsr-up` that is ready, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "GDSR_REDIS_URL"}
    command = [sys.executable, "-m", "deploy.local", "--data", str(data), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not (found := re.search(r"http://\S+", line)):
                raise RuntimeError("gdsr-up did not start; see its message above")
            yield found[0], process
        finally:
            process.terminate()


def _report(figures: dict[str, Any], model: str) -> None:
    title = f"{_SIDE}x{_SIDE} JPEG to {4 * _SIDE}x{4 * _SIDE} PNG over HTTP, {model}"
    table = Table("", "min", "median", "max", "stages of the last run", title=title)
    for name, times in figures.items():
        if name.startswith("seconds at"):
            stages = ", ".join(f"{k} {v:.2f}" for k, v in times["stages of the last"].items())
            table.add_row(
                name, *(f"{times[key]:.2f} s" for key in ("min", "median", "max")), stages
            )
    console = Console()
    console.print(table)
    console.print(
        f"ready after {figures['ready_seconds']:.1f} s; "
        f"service process {figures['service_rss_bytes'] / 1e6:.0f} MB; {figures['machine']}"
    )
