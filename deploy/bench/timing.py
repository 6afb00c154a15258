"""Interleaved timing of several functions: a slowdown of the machine affects all of them."""

import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SAMPLE = Path(__file__).parents[1] / "sample" / "kitten.jpg"
"""The photograph of the benchmarks."""
#: Minimum duration of a measurement, so that the resolution of the clock does not matter.
_MIN_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Figures:
    """One quantity, measured in rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def __truediv__(self, other: "Figures") -> "Figures":
        """Ratio per round, which cancels common influences such as other load."""
        return Figures(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> "Figures":
        return Figures(tuple(factor * value for value in self.values))

    def shown(self, digits: int = 3) -> str:
        """Minimum, median and maximum."""
        return " / ".join(
            _rounded(value, digits) for value in (min(self.values), self.median, max(self.values))
        )

    def as_json(self) -> dict[str, float]:
        return {"min": min(self.values), "median": self.median, "max": max(self.values)}


def verdict(ratio: Figures) -> str:
    """A ratio of speeds in words; one within the noise counts as no difference."""
    if min(ratio.values) > 1:
        return f"x {_rounded(ratio.median, 3)}"
    if max(ratio.values) < 1:
        return f"x {_rounded(ratio.median, 3)}, slower"
    return "no difference beyond the noise"


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, Figures]:
    """Seconds per call of each function, in `rounds` rounds, after one call for warm-up."""
    calls: dict[str, int] = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        calls[name] = max(1, math.ceil(_MIN_SECONDS / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return {name: Figures(tuple(values)) for name, values in seconds.items()}


def show(figures: Mapping[Any, Any], indent: int = 0) -> None:
    """Print figures, one name a line: its numbers, or indented lines where these have names too."""
    for name, value in figures.items():
        if isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values()):
            print(f"{'':{indent}}{name}")
            show(value, indent + 2)
        else:
            print(f"{'':{indent}}{name:{44 - indent}} {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, int | float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, Any]:
    """The hardware and software that results depend on."""
    import numpy as np
    import torch

    cpus = Path("/proc/cpuinfo").read_text()
    return {
        "cpu": name[1] if (name := re.search(r"model name\s*: (.+)", cpus)) else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def wait(device: "torch.device") -> None:
    """Wait until the device is idle."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rounded(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"
