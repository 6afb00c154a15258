"""Calibration: finds the best batch size of a device at warm-up, and caches it.

The measurement is the same on every device. The result is cached by checkpoint, precision, GPU
model and torch version, unless a lack of memory cut it short.
"""

import json
import re
import timeit
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from model.files import write_cache
from model.gdsr import PARTS
from model.inference.forward import Forward
from model.memory import is_out_of_memory

#: Batch sizes to measure, and the only ones ever computed: few shapes can be compiled ahead.
BATCHES = (1, 2, 4, 8, 16)
#: Minimum gain of a larger batch, since it makes small jobs wait.
_MIN_GAIN = 0.05
#: Share of GPU memory for one batch; graphs and other models need the rest.
_MEMORY_SHARE = 0.5
_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurement of one batch size."""

    tile: int
    batch: int
    seconds: float
    """Seconds per tile, the best of a few runs."""
    peak_bytes: int
    """Peak device memory in bytes; 0 if it is not counted."""


def calibrated(forward: Forward, *, tile: int, sha256: str, folder: Path) -> list[Measured]:
    """The cached calibration, or a new one."""
    card = device_name(forward.device)
    name = f"{sha256[:16]}-{card}-{forward.precision}-{torch.__version__}-{tile}"
    path = folder / f"calibration-{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}.json"
    try:
        return [Measured(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        pass  # missing, or of another version: measured again
    measured, fitted = calibrate(forward, tile=tile)
    if fitted:
        write_cache(path, json.dumps([asdict(one) for one in measured]).encode())
    return measured


def calibrate(forward: Forward, *, tile: int) -> tuple[list[Measured], bool]:
    """Measure growing batch sizes until they gain nothing or do not fit.

    The second value is whether all that were tried fitted. If not, another program may have used
    the memory.
    """
    measured: list[Measured] = []
    for batch in BATCHES:
        found = _measured(forward, tile=tile, batch=batch)
        if found is None:
            return measured, False
        measured.append(found)
        if len(measured) > 1 and found.seconds > (1 - _MIN_GAIN) * measured[-2].seconds:
            break
    return measured, True


def best_batch(measured: list[Measured], *, memory: float = float("inf")) -> int:
    """The smallest batch within `memory` bytes that is as fast as any, up to `_MIN_GAIN`."""
    fitting = [one for one in measured if one.peak_bytes <= _MEMORY_SHARE * memory]
    if not fitting:
        return 1
    quickest = min(one.seconds for one in fitting)
    return min(one.batch for one in fitting if one.seconds * (1 - _MIN_GAIN) <= quickest)


def device_name(device: torch.device) -> str:
    """Name of the GPU; CPU if there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _measured(forward: Forward, *, tile: int, batch: int) -> Measured | None:
    """Measure one batch of `fused`; None if it does not fit."""
    noise = np.random.default_rng(0).integers(0, 256, (batch, tile, tile, 3), dtype=np.uint8)
    weights = np.tile(np.array([part == "fused" for part in PARTS], np.float32), (batch, 1, 1))
    cuda = forward.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(forward.device)
    try:
        forward(noise, weights)  # compiles, records graphs, fills caches
        # the result is on the host, so the computation is complete
        seconds = min(timeit.repeat(lambda: forward(noise, weights), number=1, repeat=_RUNS))
    except (RuntimeError, MemoryError) as failure:
        if not is_out_of_memory(failure):
            raise
        return None
    peak = torch.cuda.max_memory_allocated(forward.device) if cuda else 0
    return Measured(tile=tile, batch=batch, seconds=seconds / batch, peak_bytes=peak)
