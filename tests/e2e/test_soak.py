"""The memory of service, job workers and engine stays flat over many jobs."""

from pathlib import Path

import pytest
from networks import tiny_checkpoint

from deploy.bench.soak import FLAT, bench_soak

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.mark.timeout(600)
def test_memory_stays_flat_over_300_mixed_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tiny_checkpoint(tmp_path / "one.safetensors")
    other = tiny_checkpoint(tmp_path / "other.safetensors", seed=1)
    for name, value in {"CHECKPOINTS": f"{one}:{other}", "TILE": "64", "DEVICES": "cpu"}.items():
        monkeypatch.setenv(f"GDSR_{name}", value)

    figures = bench_soak(jobs=300, largest_side=160)

    for kind in ("engine", "job workers", "service"):
        assert figures[kind]["growth"] <= FLAT, figures[kind]
