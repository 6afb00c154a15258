"""Validation: PSNR-Y of each output on held-out pictures, and a sample strip.

Pictures are upscaled whole, with mirrored context around them.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from model.gdsr import GDSR, OUTPUTS, SCALE, Output
from model.metrics.fidelity import psnr_y
from model.resize import bicubic_down, inner, mirrored, to_bytes
from model.trainer.config import Validation
from model.trainer.data.photographs import usable_pictures
from model.trainer.degradations.jpeg import jpeg_round_trip

CONTEXT = 16
"""Mirrored pixels around a small picture; zero padding instead would darken the border."""
_STRIP_SIDE = 192  # pixels of each picture in the strip
MIN_SIDE = SCALE * CONTEXT
"""Minimum side of a picture, as long as the context of the enlarged one."""


class Pair(NamedTuple):
    """A small picture and its true picture: (3, H, W) and (3, 4H, 4W) bytes, on the device."""

    lr: Tensor
    hr: Tensor


def read_pairs(
    paths: Sequence[Path], settings: Validation, *, folder: Path, device: torch.device
) -> list[Pair]:
    """The first usable pictures.

    Raises:
        TrainingError: no picture is usable.
    """
    pairs: list[Pair] = []
    for pixels in islice(usable_pictures(paths, folder=folder, side=MIN_SIDE), settings.pictures):
        picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        hr = _centre(picture, settings.crop or max(picture.shape[1:])).to(device)
        lr = bicubic_down(hr)
        if settings.jpeg_quality:
            quality = torch.tensor([float(settings.jpeg_quality)], device=device)
            lr = jpeg_round_trip(lr[None], quality)[0]
        pairs.append(Pair(hr=hr, lr=lr))
    return pairs


def validate(
    generator: GDSR, pairs: Sequence[Pair], *, samples: int
) -> tuple[dict[str, float], Image.Image | None]:
    """Upscale all pictures; returns the mean PSNR-Y of each output, in dB, and the strip of the
    first `samples`, if any.
    """
    side = min(_STRIP_SIDE, *(min(pair.hr.shape[1:]) for pair in pairs)) // SCALE * SCALE
    decibels: dict[Output, list[float]] = {output: [] for output in OUTPUTS}
    rows: list[Tensor] = []
    for index, pair in enumerate(pairs):
        images = _upscaled(generator, pair.lr)
        for output in OUTPUTS:
            decibels[output].append(psnr_y(images[output], pair.hr))
        if index < samples:
            lr = pair.lr.repeat_interleave(SCALE, dim=1).repeat_interleave(SCALE, dim=2)
            strip = (lr, images["psnr"], images["fused"], images["gan"], pair.hr)
            rows.append(torch.cat([_centre(image, side) for image in strip], dim=2))
    scores: dict[str, float] = {output: fmean(values) for output, values in decibels.items()}
    if not rows:
        return scores, None
    return scores, Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).cpu().numpy().copy())


def with_context(lr: Tensor) -> Tensor:
    """(3, H, W) bytes -> (1, 3, H + 32, W + 32) in [0, 1], channels-last."""
    padded = mirrored(lr[None].float().div(255), CONTEXT)
    return padded.contiguous(memory_format=torch.channels_last)


def _upscaled(generator: GDSR, lr: Tensor) -> dict[Output, Tensor]:
    """(3, H, W) bytes -> (3, 4H, 4W) bytes for each output."""
    # Sizes vary, so benchmarking cuDNN algorithms for each would be wasted.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False):
        images = generator(with_context(lr))
        return {
            output: to_bytes(inner(getattr(images, output)[0], SCALE * CONTEXT))
            for output in OUTPUTS
        }


def _centre(image: Tensor, side: int) -> Tensor:
    """The centre, at most `side` pixels, with size and offset a multiple of 4."""
    height, width = (min(side, length) // SCALE * SCALE for length in image.shape[1:])
    top, left = (
        (length - kept) // 2 // SCALE * SCALE
        for length, kept in zip(image.shape[1:], (height, width), strict=True)
    )
    return image[:, top : top + height, left : left + width]
