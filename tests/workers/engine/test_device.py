"""An engine whose device fails ends with a status of its own, and at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from networks import tiny_checkpoint

from workers.host.supervisor import EXIT_DEVICE

FAILS = """
import atexit, os, sys, torch
atexit.register(os.abort)  # as the destructors of a device that has failed
def fail(*_):
    raise RuntimeError({message!r})
torch.nn.Conv2d.forward = fail
sys.argv = ["engine", "--socket", {socket!r}, "--device", "cpu"]
from workers.engine.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_an_engine_whose_device_fails_ends_at_once(message: str, tmp_path: Path) -> None:
    code = FAILS.format(message=message, socket=str(tmp_path / "engine.sock"))
    settings = {
        "GDSR_CHECKPOINTS": str(tiny_checkpoint(tmp_path / "tiny.safetensors")),
        "GDSR_REDIS_URL": f"unix://{tmp_path}/none",
        "GDSR_PRECISION": "float32",
    }

    ended = subprocess.run([sys.executable, "-c", code], env=settings, check=False)

    assert ended.returncode == EXIT_DEVICE
