"""Benchmark of the service as seen by clients: start `gdsr-up`, send pictures.

Either one by one, or from several clients in a closed loop: send a picture, wait for the result,
send the next. With clients the engine's peak is measured in the same run: the tiles of the same
picture through the same network in this process, without HTTP, queue, codec and blob store.
"""

import http.client
import io
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from itertools import pairwise
from typing import Any, AnyStr
from urllib.parse import urlencode, urlsplit

import httpx2
import numpy as np
from PIL import Image

from deploy.bench.costs import costs, resident
from deploy.bench.timing import SAMPLE, Figures, machine, show, time_interleaved

_SIDE = 256
_WARM_UP = 2
#: Bypasses the result cache.
_HEADERS = {"Prefer": "wait=60", "Cache-Control": "no-cache"}
#: Number of jobs whose records are read: they are read sequentially, which takes a while.
_MAX_READ_JOBS = 100
#: An engine measures the next model after two seconds without work.
_IDLE_SECONDS = 5
_IDLE_MS = 50


def bench_service(
    *, model: str, runs: int, clients: int | None, trade_off: float, side: int, pictures: int
) -> dict[str, Any]:
    """Seconds to readiness and for one 256x256 JPEG -> 1024x1024 PNG; memory of the service.

    With `clients`, throughput instead: the last four arguments are for that.

    Raises:
        RuntimeError: the service did not start, or rejected the picture.
    """
    if clients:
        return _bench_load(
            model=model, trade_off=trade_off, side=side, clients=clients, pictures=pictures
        )
    figures: dict[str, Any] = {"machine": machine(), "model": model}
    picture = sample_picture(_SIDE)
    start = time.perf_counter()
    with running_service() as (url, process):
        figures["ready_seconds"] = time.perf_counter() - start
        _wait_until_idle(process.pid)
        figures["models"] = httpx2.get(f"{url}/models", timeout=120, trust_env=False).json()
        for trade_off in (0.0, 0.5, 1.0):
            parameters = {"trade_off": trade_off, "model": model}
            _, *served = closed_loop(url, picture, parameters, clients=1, pictures=runs + 1)
            figures[f"seconds at trade_off {trade_off:g}"] = {
                **Figures(tuple(latency for latency, _, _ in served)).as_json(),
                "stages of the last": median_stages(url, [served[-1][2]]),
            }
        figures["service_rss_bytes"] = resident(process.pid)["service"]
    show({**figures, "models": ", ".join(one["name"] for one in figures["models"])})
    return figures


def _bench_load(
    *, model: str, trade_off: float, side: int, clients: int, pictures: int
) -> dict[str, Any]:
    """Throughput and latencies of `clients`, and the share of the bare engine's speed."""
    picture = sample_picture(side)
    parameters = {"model": model, "trade_off": trade_off}
    with running_service() as (url, process):
        closed_loop(url, picture, parameters, clients=clients, pictures=_WARM_UP * clients)
        _wait_until_idle(process.pid)
        before = costs(process.pid)
        served = closed_loop(url, picture, parameters, clients=clients, pictures=pictures)
        after = costs(process.pid)
        stages = median_stages(url, [job for _, _, job in served])
    bare = _bare(picture, model, trade_off)
    latencies = sorted(latency for latency, _, _ in served)
    per_second = rate(served)
    figures: dict[str, Any] = {
        "machine": machine(),
        "clients": clients,
        "side": side,
        "model": model,
        "trade_off": trade_off,
        "pictures_per_second": per_second,
        "latency_seconds": {
            f"p{share}": latencies[min(len(latencies) - 1, len(latencies) * share // 100)]
            for share in (50, 95, 99)
        },
        "bare_pictures_per_second": bare.as_json(),
        "share_of_bare": per_second / bare.median,
        "stage_seconds": stages,
        "cost_of_a_picture": {
            name: (value - before[name]) / pictures for name, value in after.items()
        },
    }
    show(figures)
    return figures


def sample_picture(side: int) -> bytes:
    """The sample photograph as a JPEG of `side` x `side` pixels."""
    file = io.BytesIO()
    with Image.open(SAMPLE) as sample:
        sample.resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
    return file.getvalue()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_service() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Address and process of a `gdsr-up` that is ready, on a free port, with temporary data.

    Raises:
        RuntimeError: it did not start.
    """
    environment = {k: v for k, v in os.environ.items() if k != "GDSR_REDIS_URL"}
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "deploy.local", "--data", data, "--port", str(free_port())]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        with terminated(started) as process:
            line = process.stdout.readline() if process.stdout else ""
            if not (found := re.search(r"http://\S+", line)):
                raise RuntimeError("gdsr-up did not start; see its message above")
            yield found[0], process


@contextmanager
def terminated(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """The process, which is terminated on leaving."""
    with process:
        try:
            yield process
        finally:
            process.terminate()


def _wait_until_idle(process: int) -> None:
    """Wait until the engine below `gdsr-up` has measured its models, which it does while idle.

    Otherwise these measurements would run between the pictures of the benchmark.
    """
    spent = 0.0
    while (now := costs(process)["engine"]) - spent > _IDLE_MS:
        spent = now
        time.sleep(_IDLE_SECONDS)


def closed_loop(
    url: str, picture: bytes, parameters: dict[str, Any], *, clients: int, pictures: int
) -> list[tuple[float, float, str]]:
    """(latency, end time, path of the job) of each picture.

    The threads share one interpreter: a more convenient client takes 5 ms per picture, most of what
    is available at 150 pictures per second.
    """
    address, path = urlsplit(url), f"/upscale?{urlencode(parameters)}"
    local = threading.local()
    with ExitStack() as stack:

        def connect() -> None:
            connection = http.client.HTTPConnection(address.netloc, timeout=300)
            local.connection = stack.enter_context(closing(connection))

        def send(_: int) -> tuple[float, float, str]:
            start = time.perf_counter()
            local.connection.request("POST", path, picture, _HEADERS)
            answer = local.connection.getresponse()
            body = answer.read()
            end = time.perf_counter()
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(f"the service responded {answer.status}: {body.decode()}")
            return end - start, end, answer.headers["Content-Location"].removesuffix("/result")

        pool = stack.enter_context(ThreadPoolExecutor(clients, initializer=connect))
        return list(pool.map(send, range(pictures)))


def median_stages(url: str, jobs: Sequence[str]) -> dict[str, float]:
    """Median time of each stage, from the records of the jobs."""
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        found = [client.get(job).json()["result"]["seconds"] for job in jobs[-_MAX_READ_JOBS:]]
    return {stage: statistics.median(one[stage] for one in found) for stage in found[0]}


def rate(served: Sequence[tuple[float, float, str]]) -> float:
    """Pictures per second while all clients were busy: from the first completion to the last."""
    ends = sorted(end for _, end, _ in served)
    return 1 / statistics.fmean(after - before for before, after in pairwise(ends))


def _bare(picture: bytes, model: str, trade_off: float) -> Figures:
    """Pictures per second of the engine alone, with its own tiles and batches."""
    import torch

    from workers.contract.settings import WorkerSettings
    from workers.engine.loading import load_engine
    from workers.engine.local import InProcessEngine
    from workers.engine.protocol import FEATHER, HALO
    from workers.tiles.tiling import cheapest_plan, cut
    from workers.tiles.trade_off import output_weights

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    engine = InProcessEngine(load_engine(WorkerSettings.load(), device))
    with Image.open(io.BytesIO(picture)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width, _ = pixels.shape
    together = 8 if device != "cpu" else 1  # so that batches are full
    plan = cheapest_plan(engine.tiles, height=height, width=width, halo=HALO, feather=FEATHER)
    tiles = [tile for _ in range(together) for tile in cut(pixels, plan)]
    weights = [output_weights(trade_off)]

    def pictures() -> None:
        for _ in engine.run(tiles, model=model, weights=weights):
            pass

    (seconds,) = time_interleaved({"bare": pictures}, rounds=9).values()
    return Figures(tuple(together / value for value in seconds.values))
