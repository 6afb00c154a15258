"""Throughput of many engines on one Redis, one blob store and one service.

The engines are stubs of a given speed, everything else is real: clients in a closed loop, the
service, Valkey, a folder, and two job workers per engine. All parts share the cores of this
machine, which soon become the limit. The cost of a picture is therefore measured for each part, and
a simulation with these costs shows the limits of parts that have their own machines.
"""

import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deploy.bench.costs import children_seconds, cpu_seconds
from deploy.bench.service import closed_loop, free_port, rate, sample_picture, terminated
from deploy.bench.stub_engines import MODEL
from deploy.bench.timing import machine, show
from deploy.local import is_ready
from deploy.valkey import valkey_answers, valkey_command
from workers.contract.blobs.file import FileBlobStore
from workers.contract.queue.runs import SMALL

_JOB_WORKERS = 2  # per engine: one prepares or encodes while the engine serves the other
_CLIENTS = 3  # per engine, so that no engine is idle
_STORED = 32
_ENGINES = (1, 4, 16, 64)
_READY_SECONDS = 180

#: The processes of each part, by its name in `simulate`.
Processes = Mapping[str, Sequence["subprocess.Popen[bytes]"]]


def bench_fleet(
    *, engines: Sequence[int] | None, seconds: float, side: int, pictures: int, plot: Path | None
) -> dict[str, Any]:
    """Pictures per second, measured and simulated, for each number of `engines`.

    An engine takes `seconds` per picture and gets `pictures` pictures of `side` x `side` pixels,
    `side` being at most 256. The rates are also drawn into the file `plot`.

    Raises:
        RuntimeError: a part did not start, or rejected a picture.
        ImportError: there is a `plot`, and matplotlib is not installed.
        OSError, ValueError: the plot cannot be written, or its suffix is not an image format.
    """
    engines = engines or _ENGINES
    picture = sample_picture(side)
    measured: dict[int, float] = {}
    for count in engines:
        measured[count], costs = _measure(count, seconds=seconds, picture=picture, each=pictures)
    cores = len(os.sched_getaffinity(0))
    figures = {
        "machine": machine(),
        "engine_seconds": seconds,
        "side": side,
        "seconds_of_a_picture": costs,
        "pictures_per_second": {
            count: {
                "measured": measured.get(count),
                "simulated_here": simulate(costs, engines=count, cores=cores),
                "simulated": simulate(costs, engines=count),
            }
            for count in sorted({*engines, *(2**power for power in range(11))})
        },
        "limits, pictures a second": {
            "service, one process": 1 / costs["service"],
            "Redis": 1 / costs["redis"],
            "store, one writer": 1 / costs["store"],
        },
    }
    show(figures)
    if plot:
        _draw(plot, figures)
    return figures


def simulate(costs: Mapping[str, float], *, engines: int, cores: int | None = None) -> float:
    """Pictures per second in a closed queueing network, by discrete events.

    `costs` are the seconds of a picture: of the service's only process, of the thread of `redis`
    that executes commands, of a core for a `job` (decode, encode), of an `engine`, of the `store`
    until a result is synced, and the `rest`, of a core of this machine: clients and stubs. Each
    client passes the service, Redis, a job worker, an engine and the store, and begins again.
    Each part serves one picture at a time, in the order of arrival; every engine has its own job
    workers and clients. With `cores`, the parts that compute share that many cores; otherwise each
    job worker, the service and Redis have a core of their own.
    """
    stages = ["service", "redis", "job", "engine", "store", *(["rest"] if cores else [])]
    free = {stage: [0.0] for stage in stages}
    free |= {"job": [0.0] * (_JOB_WORKERS * engines), "engine": [0.0] * engines}
    if cores:
        free |= dict.fromkeys(("service", "redis", "job", "rest"), [0.0] * cores)  # all share them
    clients = _CLIENTS * engines
    arrivals = [(0.0, client, 0) for client in range(clients)]
    ends: list[float] = []
    warm, wanted = 10 * clients, 40 * clients
    while len(ends) < wanted:
        now, client, stage = heapq.heappop(arrivals)
        servers = free[stages[stage]]
        end = max(now, heapq.heappop(servers)) + costs[stages[stage]]
        heapq.heappush(servers, end)
        following = (stage + 1) % len(stages)
        heapq.heappush(arrivals, (end, client, following))
        if not following:
            ends.append(end)
    ends.sort()
    return (wanted - warm) / (ends[-1] - ends[warm - 1])


def _measure(
    count: int, *, seconds: float, picture: bytes, each: int
) -> tuple[float, dict[str, float]]:
    total, clients = each * count, _CLIENTS * count
    parameters = {"model": MODEL, "trade_off": 0.5}
    with tempfile.TemporaryDirectory(prefix="gdsr-") as temporary:
        folder = Path(temporary)
        with _running(folder, count, seconds) as (url, processes):
            closed_loop(url, picture, parameters, clients=clients, pictures=2 * clients)
            before = _spent(processes)
            served = closed_loop(url, picture, parameters, clients=clients, pictures=total)
            after = _spent(processes)
            store = _store_seconds(folder)
    # The kernel counts whole ticks: assume at least one.
    tick = 1 / os.sysconf("SC_CLK_TCK")
    spent = {name: max(tick, after[name] - before[name]) / total for name in after}
    return rate(served), {**spent, "store": store, "engine": seconds}


def _spent(processes: Processes) -> dict[str, float]:
    """CPU seconds of each part, children included; the clients are threads of this process."""
    spent = {
        name: sum(cpu_seconds(one.pid) + children_seconds(one.pid) for one in group)
        for name, group in processes.items()
    }
    return spent | {"rest": spent["rest"] + sum(os.times()[:2])}


@contextmanager
def _running(folder: Path, count: int, seconds: float) -> Iterator[tuple[str, Processes]]:
    """Start all parts with data in `folder`; yield the service's address once they are ready."""
    sockets = [str(folder / f"engine{number}.sock") for number in range(count)]
    environment = {
        **os.environ,
        "GDSR_REDIS_URL": f"unix://{folder / 'valkey.sock'}",
        "GDSR_BLOB_DIR": str(folder / "blobs"),
        "GDSR_LOG_LEVEL": "warning",
        "GDSR_MAX_QUEUED_JOBS": str(100 * _CLIENTS * count),
    }
    port = free_port()
    python = (sys.executable, "-m")
    with ExitStack() as stack:

        def start(*command: str) -> "subprocess.Popen[bytes]":
            return stack.enter_context(terminated(subprocess.Popen(command, env=environment)))

        processes = {"redis": [stack.enter_context(running_valkey(folder))]}
        processes["rest"] = [
            start(*python, "deploy.bench.stub_engines", "--seconds", str(seconds), *sockets)
        ]
        processes["service"] = [start(*python, "service", "--port", str(port))]
        _wait_for(lambda: all(Path(path).exists() for path in sockets), "the stub engines")
        processes["job"] = [
            start(*python, "workers.jobs.job_worker", "--queue", SMALL, "--engine", path)
            for path in sockets
            for _ in range(_JOB_WORKERS)
        ]
        _wait_for(lambda: is_ready("127.0.0.1", port), "the service")
        yield f"http://127.0.0.1:{port}", processes


@contextmanager
def running_valkey(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Valkey, configured as by `gdsr-up`, at `folder`/valkey.sock with its data in `folder`."""
    listening = folder / "valkey.sock"
    with terminated(subprocess.Popen(valkey_command(folder / "valkey", listening))) as server:
        _wait_for(lambda: valkey_answers(listening), "Valkey")
        yield server


def _wait_for(is_there: Callable[[], bool], what: str) -> None:
    """Wait until a part has started; RuntimeError after three minutes."""
    deadline = time.monotonic() + _READY_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start within {_READY_SECONDS} s")
        time.sleep(0.1)


def _store_seconds(folder: Path) -> float:
    """Seconds to write a result of the size of those that the run stored."""
    results = sorted((folder / "blobs" / "results").rglob("*.png"))
    data = results[0].read_bytes()
    store = FileBlobStore(folder / "more")
    start = time.perf_counter()
    for number in range(_STORED):
        store.write(f"results/{number}.png", [data])
    return (time.perf_counter() - start) / _STORED


def _draw(path: Path, figures: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    rows: Mapping[int, Mapping[str, float | None]] = figures["pictures_per_second"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, style in (("simulated", "-"), ("simulated_here", "--"), ("measured", "o")):
        points = [(count, found) for count, row in rows.items() if (found := row[name]) is not None]
        axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel(f"engines of {figures['engine_seconds']:g} s a picture")
    axes.set_ylabel("pictures a second")
    axes.legend()
    figure.savefig(path)
