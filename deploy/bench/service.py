"""Benchmark of the service as seen by a user: start `gdsr-up`, send pictures one by one."""

import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from deploy.bench.costs import resident
from deploy.bench.load import (
    bench_load,
    closed_loop,
    median_stages,
    running_service,
    sample_picture,
)
from deploy.bench.timing import Figures, machine

_SIDE = 256


def bench_service(
    *, model: str, runs: int, clients: int | None, trade_off: float, side: int, pictures: int
) -> dict[str, Any]:
    """Seconds to readiness and for one 256x256 JPEG -> 1024x1024 PNG; memory of the service.

    With `clients`, throughput instead: see `bench_load`, which the last four arguments are for.

    Raises:
        RuntimeError: the service did not start, or rejected the picture.
    """
    if clients:
        return bench_load(
            model=model, trade_off=trade_off, side=side, clients=clients, pictures=pictures
        )
    figures: dict[str, Any] = {"machine": machine()}
    picture = sample_picture(_SIDE)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as data, running_service(Path(data)) as (url, process):
        figures["ready_seconds"] = time.perf_counter() - start
        figures["models"] = httpx2.get(f"{url}/models", timeout=120, trust_env=False).json()
        for place in (0.0, 0.5, 1.0):
            parameters = {"trade_off": place, "model": model}
            _, *served = closed_loop(url, picture, parameters, clients=1, pictures=runs + 1)
            figures[f"seconds at trade_off {place:g}"] = {
                **Figures(tuple(latency for latency, _, _ in served)).as_json(),
                "stages of the last": median_stages(url, [served[-1][2]]),
            }
        figures["service_rss_bytes"] = resident(process.pid)["service"]
    _report(figures, model)
    return figures


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
