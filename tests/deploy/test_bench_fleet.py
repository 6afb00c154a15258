"""`gdsr-bench fleet` simulates and measures the throughput of many engines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.bench.fleet import simulate

COSTS = {
    "service": 0.01, "redis": 0.001, "store": 0.002, "job": 0.03, "engine": 1.0, "rest": 0.005
}  # fmt: skip


@pytest.mark.parametrize("engines", [1, 2, 16, 64])
def test_engines_are_the_limit_where_they_are_few(engines: int) -> None:
    assert simulate(COSTS, engines=engines) == pytest.approx(engines, rel=0.02)


@pytest.mark.parametrize("part", ["service", "redis", "store"])
def test_the_slowest_part_is_the_limit_where_engines_are_many(part: str) -> None:
    costs = COSTS | {part: 0.02}

    assert simulate(costs, engines=256) == pytest.approx(50, rel=0.02)


def test_parts_that_share_cores_reach_their_limit_together() -> None:
    whole = sum(COSTS[part] for part in ("service", "redis", "job", "rest"))

    assert simulate(COSTS, engines=256, cores=2) == pytest.approx(2 / whole, rel=0.02)


@pytest.mark.slow
def test_a_fleet_is_measured_simulated_and_drawn(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "deploy.bench", "fleet", "--engines", "2", "--seconds", "0.5",
        "--side", "64", "--pictures", "4", "--json", str(tmp_path / "figures.json"),
        "--plot", str(tmp_path / "figures.svg"),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())

    found, costs = figures["pictures_per_second"]["2"], figures["seconds_of_a_picture"]
    assert all(value > 0 for value in costs.values())
    assert costs["engine"] == 0.5
    assert 0 < found["measured"] < 40  # of 8 pictures, seen late on a busy machine
    assert found["simulated"] == pytest.approx(simulate(costs, engines=2))
    assert "<svg" in (tmp_path / "figures.svg").read_text()
