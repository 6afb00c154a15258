"""Benchmark of tile context: tiled compared to untiled, for one checkpoint, in float32.

"Untiled" is the whole picture with mirrored context at its own borders, as every tile has it. Tiles
of one colour are computed too. Tiles are small here, so that there are many seams.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.evaluate.pictures import find_pictures
from model.gdsr import GDSR, OUTPUTS, Output
from model.metrics.fidelity import decibels
from model.resize import to_bytes
from workers.tiles.tiling import cut, plan_tiles, stitch

HALOS = (4, 8, 12, 16, 24)
#: Kept pixels per tile side.
_KEEP = 48
#: Context of the untiled picture; more changes nothing.
_REFERENCE_HALO = 48

Pixels = NDArray[np.unsignedinteger]


def bench_halo(*, checkpoint: Path, data: Path) -> list[dict[str, Any]]:
    """One row per halo: largest difference in grey levels, lowest PSNR, extra work.

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
    return _report(checkpoint, worst, psnr)


def _upscale(generator: GDSR, picture: Pixels, *, keep: int, halo: int) -> dict[Output, Pixels]:
    height, width, _ = picture.shape
    plan = plan_tiles(
        height=height, width=width, tile=keep + 2 * halo, halo=halo, feather=_feather(halo)
    )
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


def _feather(halo: int) -> int:
    return halo // 4 * 2


def _report(
    path: Path,
    worst: Mapping[int, Mapping[Output, int]],
    psnr: Mapping[int, Mapping[Output, float]],
) -> list[dict[str, Any]]:
    table = Table(
        "halo", "feather", "worst difference (psnr / fused / gan)", "lowest PSNR, dB",
        *(f"work at tile {side}" for side in (160, 256)),
        title=f"{path.stem}: tiled against untiled, worst picture",
    )  # fmt: skip
    rows = []
    for halo in HALOS:
        work = {side: (side / (side - 2 * halo)) ** 2 for side in (160, 256)}
        table.add_row(
            str(halo),
            str(_feather(halo)),
            " / ".join(str(worst[halo][name]) for name in OUTPUTS),
            " / ".join(f"{psnr[halo][name]:.1f}" for name in OUTPUTS),
            *(f"x {factor:.2f}" for factor in work.values()),
        )
        rows.append({"halo": halo, "worst": worst[halo], "psnr": psnr[halo], "work": work})
    Console().print(table)
    return rows
