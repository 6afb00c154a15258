"""Benchmark of tile context: tiled compared to untiled, for one checkpoint, in float32.

"Untiled" is the whole picture with mirrored context at its own borders, as every tile has it. Tiles
of one colour are computed too. Tiles are small here, so that there are many seams.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from deploy.bench.timing import show
from model.checkpoint import load_checkpoint
from model.evaluate.pictures import find_pictures
from model.gdsr import GDSR, OUTPUTS, Output
from model.metrics.fidelity import decibels
from model.resize import to_bytes
from workers.tiles.tiling import Pixels, cut, plan_tiles, stitch

HALOS = (4, 8, 12, 16, 24)
#: Kept pixels per tile side.
_KEEP = 48
#: Context of the untiled picture; more changes nothing.
_REFERENCE_HALO = 48


def bench_halo(*, checkpoint: Path, data: Path) -> dict[int, dict[str, Any]]:
    """Per halo: largest difference in grey levels, lowest PSNR, extra work.

    Raises:
        ValueError: there is no picture in `data`, or one is broken.
        TrainingError: there is no such folder.
    """
    generator = load_checkpoint(checkpoint).generator.eval()
    generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = find_pictures(data)
    worst = {halo: dict.fromkeys(OUTPUTS, 0) for halo in HALOS}
    psnr = {halo: dict.fromkeys(OUTPUTS, math.inf) for halo in HALOS}
    for pair in track(
        pictures.read(torch.device("cpu")), "pictures", total=len(pictures.paths),
        console=Console(stderr=True),
    ):  # fmt: skip
        lr = pair.lr.permute(1, 2, 0).contiguous().numpy()
        untiled = _upscale(generator, lr, keep=max(lr.shape[:2]), halo=_REFERENCE_HALO)
        for halo in HALOS:
            tiled = _upscale(generator, lr, keep=_KEEP, halo=halo)
            for name in OUTPUTS:
                error = tiled[name].astype(np.int16) - untiled[name]
                worst[halo][name] = max(worst[halo][name], int(np.abs(error).max()))
                psnr[halo][name] = min(
                    psnr[halo][name], decibels(float(np.mean(np.square(error.astype(np.float64)))))
                )
    rows = {
        halo: {
            "worst difference": worst[halo],
            "lowest PSNR, dB": psnr[halo],
            "work at tile": {side: (side / (side - 2 * halo)) ** 2 for side in (160, 256)},
        }
        for halo in HALOS
    }
    show(rows)
    return rows


def _upscale(generator: GDSR, picture: Pixels, *, keep: int, halo: int) -> dict[Output, Pixels]:
    height, width, _ = picture.shape
    side, feather = keep + 2 * halo, halo // 4 * 2
    plan = plan_tiles(height=height, width=width, tile=side, halo=halo, feather=feather)
    results: dict[Output, list[Pixels]] = {name: [] for name in OUTPUTS}
    for tile in cut(picture, plan):
        lr = torch.from_numpy(tile.astype(np.float32) / 255).permute(2, 0, 1)[None]
        lr = lr.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            images = generator(lr, OUTPUTS)
        for name in OUTPUTS:
            image = to_bytes(getattr(images, name)[0])
            results[name].append(image.permute(1, 2, 0).numpy())
    return {name: stitch(tiles, plan) for name, tiles in results.items()}
