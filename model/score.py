"""Scores of a checkpoint on folders of photographs: `python -m model.score CHECKPOINT --data DIR`.

Every image is made smaller by the protocol's bicubic, and larger again by the network in float32,
whole, with the mirrored context around it that the service gives a picture too. With `--write`
the scores go into the checkpoint's card: a card never holds a score that came from elsewhere.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.checkpoint import load_checkpoint, replace_card
from model.gdsr import GDSR, OUTPUTS, SCALE, Output
from model.metrics import mse_y, psnr_y, ssim_y
from model.resize import bicubic_down

CONTEXT = 16
"""Mirrored pixels around the small image; without them zero padding darkens the border."""


def score(generator: GDSR, folder: Path, *, context: int = CONTEXT) -> dict[str, dict[str, float]]:
    """PSNR-Y, SSIM-Y (means) and RMSE-Y of each output on the PNG images of a folder.

    Raises:
        ValueError: there are none.
    """
    images = [_read(path) for path in sorted(folder.glob("*.png"))]
    if not images:
        raise ValueError(f"{folder} holds no PNG image")
    pairs = [(hr, super_resolve(generator, bicubic_down(hr), context=context)) for hr in images]
    return {
        output: {
            "psnr_y": round(fmean(psnr_y(sr[output], hr) for hr, sr in pairs), 3),
            "ssim_y": round(fmean(ssim_y(sr[output], hr) for hr, sr in pairs), 4),
            "rmse_y": round(math.sqrt(fmean(mse_y(sr[output], hr) for hr, sr in pairs)), 3),
        }
        for output in OUTPUTS
    }


def super_resolve(generator: GDSR, lr: Tensor, *, context: int) -> dict[Output, Tensor]:
    """All outputs for one image of bytes: (3, H, W) -> (3, 4H, 4W) each."""
    around = ((0, 0), (context, context), (context, context))
    padded = torch.from_numpy(np.pad(lr.numpy(), around, mode="symmetric"))  # (3, H + 2c, W + 2c)
    batch = padded[None].float().div(255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        images = generator(batch)
    edge = SCALE * context
    height, width = SCALE * lr.shape[1], SCALE * lr.shape[2]
    return {
        output: getattr(images, output)[0, :, edge : edge + height, edge : edge + width]
        .mul(255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        for output in OUTPUTS
    }


def main() -> int:
    """Print the scores as JSON; exit status 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m model.score", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="a folder of PNG images"
    )
    parser.add_argument("--write", action="store_true", help="put the scores into the card")
    options = parser.parse_args()
    try:
        checkpoint = load_checkpoint(options.checkpoint)
        scores = {
            folder.resolve().name: score(checkpoint.generator, folder) for folder in options.data
        }
        if options.write:
            replace_card(options.checkpoint, replace(checkpoint.card, scores=scores))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"model.score: {error}\n")
        return 1
    sys.stdout.write(json.dumps(scores, indent=2) + "\n")
    return 0


def _read(path: Path) -> Tensor:
    """An RGB image cropped to a multiple of 4: (3, H, W) bytes."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    return pixels[:, : height - height % SCALE, : width - width % SCALE]


if __name__ == "__main__":
    sys.exit(main())
