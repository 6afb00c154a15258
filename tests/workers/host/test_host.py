"""A worker host runs job workers according to cores and devices."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from model.process import available_cpus
from workers.contract.errors import ConfigurationInvalid
from workers.host.programs import cuda_devices, default_job_workers


@pytest.mark.parametrize(
    ("devices", "share"), [(["cuda:0"], 1), (["cuda:0", "cuda:1"], 1), (["cpu"], 4)]
)
def test_job_workers_follow_the_cores_and_are_two_at_least(
    devices: Sequence[str], share: int
) -> None:
    assert default_job_workers(devices) == max(2, available_cpus() // share)


def test_a_gpu_is_not_given_more_than_it_can_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(256)))
    cores = available_cpus()  # as limited by a quota

    assert default_job_workers(["cuda:0"]) == max(2, min(cores, 24))
    assert default_job_workers(["cuda:0", "cuda:1"]) == max(2, min(cores, 48))


@pytest.fixture
def cuda_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the installed torch look like a build that may use GPUs."""
    torch = tmp_path / "torch-2.0.0.dist-info" / "METADATA"
    torch.parent.mkdir()
    torch.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0.0\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("visible", "count"), [("0,1", 2), ("GPU-8932f937", 1), ("", 0), ("-1", 0), ("1,-1,0", 1)]
)
def test_the_gpus_that_cuda_sees_get_an_engine_each(
    visible: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert cuda_devices() == tuple(f"cuda:{number}" for number in range(count))


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexec sleep 1000\n", "TimeoutExpired"),
        ("#!/nowhere\n", "FileNotFoundError"),
        ("#!/bin/sh\necho Failed to initialize NVML; exit 255\n", "CalledProcessError"),
    ],
)
def test_gpus_that_cannot_be_listed_end_the_start_with_one_line(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(script)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    with pytest.raises(ConfigurationInvalid, match=f"nvidia-smi .*{reason}.*GDSR_DEVICES"):
        cuda_devices(patience=timedelta(seconds=0.1))
