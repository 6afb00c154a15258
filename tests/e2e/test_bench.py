"""`gdsr-bench` reports the noise of its measurements, and does not call noise a gain."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.bench.timing import Figures, time_interleaved, verdict


def bench(*arguments: str, out: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "deploy.bench", *arguments, "--json", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    figures: dict[str, object] = json.loads(out.read_text())
    return figures


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.9, 2.0, 2.2), "x 2.00"),
        ((0.4, 0.5, 0.6), "x 0.500, slower"),
        ((0.98, 1.3, 1.4), "no difference beyond the noise"),
    ],
)
def test_only_what_every_round_shows_is_called_a_difference(
    ratios: tuple[float, ...], said: str
) -> None:
    assert verdict(Figures(ratios)) == said


def test_ratios_are_taken_round_by_round() -> None:
    ratio = Figures((2.0, 6.0)) / Figures((1.0, 2.0))

    assert ratio.values == (2.0, 3.0)
    assert ratio.as_json() == {"min": 2.0, "median": 2.5, "max": 3.0}


def test_every_contestant_takes_a_turn_in_every_round() -> None:
    order: list[str] = []
    seconds = time_interleaved(
        {"first": lambda: order.append("first"), "second": lambda: order.append("second")},
        rounds=3,
    )

    assert {name: len(figures.values) for name, figures in seconds.items()} == {
        "first": 3,
        "second": 3,
    }
    assert order[-1] == "second"


@pytest.mark.slow
def test_the_engine_is_measured_against_the_reference_in_the_same_run(tmp_path: Path) -> None:
    figures = bench(
        "engine", "--preset", "lite", "--side", "16", "--rounds", "2", "--device", "cpu",
        "--precision", "float32",
        out=tmp_path / "figures.json",
    )  # fmt: skip

    (run,) = figures["runs"]  # type: ignore[misc]
    fused = run["contestants"]["service: fused, float32"]
    reference = run["contestants"]["reference, NCHW float32, three outputs"]
    assert 0 < fused["seconds"]["min"] <= fused["seconds"]["median"] <= fused["seconds"]["max"]
    assert reference["seconds"]["median"] > 0
    assert set(fused["against reference, NCHW float32, three outputs"]) == {"min", "median", "max"}
    assert figures["machine"]["torch"]  # type: ignore[index]


@pytest.mark.slow
def test_our_png_is_measured_against_pillows(tmp_path: Path) -> None:
    figures = bench("codec", "--side", "128", "--rounds", "2", out=tmp_path / "figures.json")

    png = figures["contestants"]["our png"]  # type: ignore[index]
    assert png["bytes"] > 0
    assert png["speed"]["median"] > 0
