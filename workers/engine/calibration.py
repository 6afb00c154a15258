"""How many tiles a device does best at once: measured at warm-up, and kept for the next start.

The measurement is the same on every device. What it found holds for one checkpoint in one
precision, on one kind of card, with one version of torch, and is kept under those names.
"""

import json
import logging
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from model.inference.forward import PARTS, Forward
from workers.engine.out_of_memory import is_out_of_memory

#: Batches that are tried, and the only ones that are computed: few shapes can be compiled ahead.
BATCHES = (1, 2, 4, 8, 16)
#: A larger batch makes small jobs wait, so it has to be worth it.
_WORTH = 0.05
#: Share of the card's memory that one batch may take; graphs and other models want the rest.
_MEMORY_SHARE = 0.5
_RUNS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One batch of tiles on one device."""

    tile: int
    batch: int
    seconds: float
    """For one tile of the batch, the best of a few runs."""
    peak_bytes: int
    """Device memory at its fullest; 0 where nobody counts it."""


def calibrated(forward: Forward, *, tile: int, sha256: str, folder: Path) -> list[Measured]:
    """What `calibrate` found when this was first asked here, or finds now."""
    card = device_name(forward.device)
    name = f"{sha256[:16]}-{card}-{forward.precision}-{torch.__version__}-{tile}"
    path = folder / f"calibration-{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}.json"
    try:
        return [Measured(**one) for one in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        pass  # none, or of another version: measured anew
    measured = calibrate(forward, tile=tile)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(one) for one in measured]))
    except OSError as failure:
        log.warning("the calibration cannot be kept: %s", failure)
    return measured


def calibrate(forward: Forward, *, tile: int) -> list[Measured]:
    """Run batches of growing size until they gain nothing, or do not fit."""
    measured: list[Measured] = []
    for batch in BATCHES:
        found = _measured(forward, tile=tile, batch=batch)
        if found is None:
            break
        measured.append(found)
        if len(measured) > 1 and found.seconds > (1 - _WORTH) * measured[-2].seconds:
            break
    return measured


def best_batch(measured: list[Measured], *, memory: float = float("inf")) -> int:
    """The smallest batch that is as quick as any, but for `_WORTH`, within `memory` bytes."""
    fitting = [one for one in measured if one.peak_bytes <= _MEMORY_SHARE * memory]
    if not fitting:
        return 1
    quickest = min(one.seconds for one in fitting)
    return min(one.batch for one in fitting if one.seconds * (1 - _WORTH) <= quickest)


def device_name(device: torch.device) -> str:
    """The card's name; CPU where there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def device_memory(device: torch.device) -> float:
    """Bytes that the card has; infinity on the CPU, whose memory is not ours to plan."""
    if device.type != "cuda":
        return float("inf")
    return float(torch.cuda.get_device_properties(device).total_memory)


def _measured(forward: Forward, *, tile: int, batch: int) -> Measured | None:
    """One batch of `fused`; None when it does not fit."""
    noise = np.random.default_rng(0).integers(0, 256, (batch, tile, tile, 3), dtype=np.uint8)
    weights = np.tile(np.array([part == "fused" for part in PARTS], np.float32), (batch, 1, 1))
    cuda = forward.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(forward.device)
    try:
        forward(noise, weights)  # compiles, records, fills caches
        seconds = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            forward(noise, weights)  # ends on the host: nothing is left to wait for
            seconds.append((time.perf_counter() - start) / batch)
    except (RuntimeError, MemoryError) as failure:
        if not is_out_of_memory(failure):
            raise
        return None
    peak = torch.cuda.max_memory_allocated(forward.device) if cuda else 0
    return Measured(tile=tile, batch=batch, seconds=min(seconds), peak_bytes=peak)
