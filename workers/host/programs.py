"""The processes of a worker host: engines first, the others once an engine is warm."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

from model.process import available_cpus
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue.runs import LARGE, SMALL
from workers.contract.settings import WorkerSettings
from workers.host.health import is_listening
from workers.host.supervisor import Program

#: File name of the socket that receives job reports.
REPORTS = "reports.sock"
#: Of Linux, in bytes.
_MAX_SOCKET_PATH_BYTES = 107
#: How long an engine may take to finish its batch.
_ENGINE_GRACE_SECONDS = 10.0
#: Extra stop time of a job worker beyond its grace period: it checks every second.
_DRAIN_MARGIN_SECONDS = 10.0
_JANITOR_GRACE_SECONDS = 5.0
_MIN_JOB_WORKERS = 2
#: Cores per job worker on a CPU host, where the network uses the cores too.
_CORES_PER_JOB_WORKER = 4
#: Maximum job workers per GPU: 16 kept an H100 busy 75 % of the time with pictures of 256 x 256.
_MAX_JOB_WORKERS_PER_GPU = 24
#: How long nvidia-smi may take.
_PATIENCE = timedelta(seconds=30)


def check_socket_path(path: Path) -> None:
    """Check the path of a unix socket in a new folder below the one for temporary files.

    Raises:
        ConfigurationInvalid: the path is too long.
    """
    if len(bytes(path)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigurationInvalid(f"TMPDIR: {path.parent.parent} is too long for unix sockets")


def worker_programs(settings: WorkerSettings, runtime: Path) -> tuple[list[Program], list[Path]]:
    """One engine per device, and job workers, half of them (rounded up) for small pictures; and the
    sockets of the engines.

    Raises:
        ConfigurationInvalid: a GPU is configured but torch cannot use it, the GPUs cannot be
            listed, or the path of the sockets is too long.
    """
    gpus = [device for device in settings.devices if device.startswith("cuda")]
    if gpus and _torch_lacks_cuda():
        raise ConfigurationInvalid(
            f"GDSR_DEVICES asks for {gpus[0]}, but the installed torch is the CPU build; "
            "install the CUDA build, or unset GDSR_DEVICES"
        )
    port = settings.worker_metrics_port
    devices = settings.devices or cuda_devices() or ("cpu",)
    sockets = [runtime / f"engine{number}.sock" for number in range(len(devices))]
    check_socket_path(sockets[-1])
    engines = [
        Program(
            name=f"engine {device}",
            kind="engine",
            command=[
                sys.executable, "-m", "workers.engine", "--socket", str(path), "--device", device,
                *(("--metrics-port", str(port + 1 + number)) if port else ()),
            ],
            stage=0,
            ready=lambda path=path: is_listening(path),  # type: ignore[misc]
            spare=True,
            grace_seconds=_ENGINE_GRACE_SECONDS,
        )
        for number, (device, path) in enumerate(zip(devices, sockets, strict=True))
    ]  # fmt: skip
    count = settings.job_workers or default_job_workers(devices)
    small = math.ceil(count / 2)
    job_workers = [
        Program(
            name=f"job worker {number}",
            kind="job-worker",
            command=[
                sys.executable, "-m", "workers.jobs.job_worker",
                "--queue", SMALL if number < small else LARGE,
                "--reports", str(runtime / REPORTS),
                *(part for path in sockets for part in ("--engine", str(path))),
            ],
            stage=1,
            grace_seconds=settings.drain.total_seconds() + _DRAIN_MARGIN_SECONDS,
        )
        for number in range(count)
    ]  # fmt: skip
    janitor = Program(
        name="janitor",
        kind="janitor",
        command=[sys.executable, "-m", "workers.jobs.janitor"],
        stage=1,
        grace_seconds=_JANITOR_GRACE_SECONDS,
    )
    return [*engines, *job_workers, janitor], sockets


def default_job_workers(devices: Sequence[str]) -> int:
    """Number of job workers: one per core with GPUs, which they wait for; else one per four cores.

    A job of 256 x 256 takes about 30 ms of a core: a GPU that computes 150 of them per second needs
    five cores, and as many workers again that wait for it.
    """
    cores = available_cpus()
    gpus = sum(device.startswith("cuda") for device in devices)
    count = min(cores, gpus * _MAX_JOB_WORKERS_PER_GPU) if gpus else cores // _CORES_PER_JOB_WORKER
    return max(_MIN_JOB_WORKERS, count)


def cuda_devices(*, patience: timedelta = _PATIENCE) -> tuple[str, ...]:
    """The GPUs that torch will see, without importing it: that takes seconds and GPU memory.

    Raises:
        ConfigurationInvalid: nvidia-smi fails, or does not answer within `patience`.
    """
    if _torch_lacks_cuda():
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA ignores everything from the first invalid one on.
        valid = takewhile(lambda part: part.strip() not in {"", "-1"}, visible.split(","))
        count = sum(1 for _ in valid)
    elif (tool := shutil.which("nvidia-smi")) is not None:
        try:
            listed = subprocess.run(
                [tool, "-L"],
                capture_output=True,
                text=True,
                check=False,
                timeout=patience.total_seconds(),
            )
            count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
            if not count:  # as in a container that has lost its GPUs; the CPU would be far slower
                listed.check_returncode()
        except (OSError, subprocess.SubprocessError) as failure:
            raise ConfigurationInvalid(
                f"{tool} does not list the GPUs ({type(failure).__name__}): repair the driver, "
                "or name devices in GDSR_DEVICES, such as cpu"
            ) from None
    else:
        count = 0
    return tuple(f"cuda:{number}" for number in range(count))


def _torch_lacks_cuda() -> bool:
    return "+cpu" in version("torch")
