"""A JPEG round trip in batch, on any device, without the file.

Follows libjpeg step by step, with its rounding: YCbCr, chroma subsampled 2 x 2 and upsampled by a
triangle filter, the 8 x 8 cosine transform, the standard tables (ITU-T T.81, annex K) scaled by
quality. Entropy coding is left out, as it is lossless.

Shapes: N batch, H x W pixels; C, D the rows and columns of 8 x 8 blocks. Images are in levels.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


def jpeg_round_trip(images: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress: (N, 3, H, W) levels, (N,) qualities of 1 to 100 -> (N, 3, H, W).

    The result has whole levels, in the dtype of the input.
    """
    height, width = images.shape[-2:]
    levels = images.float().round().clamp(0, 255)
    padded = F.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    forward, scaling = _constants(images.device)
    quality = quality.floor()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = (
        ((scaling * percent.view(-1, 1, 1, 1) + 50) / 100).floor().clamp(1, 255)
    )  # (N, 2, 8, 8)

    colours = torch.einsum("kc,nchw->nkhw", forward, padded)
    luma, chroma = colours[:, :1].round(), (colours[:, 1:] + 128).round()
    luma = _quantised(luma, tables[:, :1])
    chroma = _quantised(_halved(chroma), tables[:, 1:])
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    red_from, blue_from = 1.402, 1.772
    blue, red = chroma.round().sub_(128).unbind(1)
    green = luma[:, 0] - 0.344136286 * blue - 0.714136286 * red
    rgb = torch.stack((luma[:, 0] + red_from * red, green, luma[:, 0] + blue_from * blue), dim=1)
    return rgb.round().clamp(0, 255)[..., :height, :width].to(images.dtype)


def _halved(chroma: Tensor) -> Tensor:
    """The mean of 2 x 2, with libjpeg's bias that alternates by column instead of rounding."""
    mean: Tensor = F.avg_pool2d(chroma, 2)
    bias = 1 + torch.arange(mean.shape[-1], device=chroma.device) % 2
    return (mean + bias / 4).floor()


def _quantised(planes: Tensor, tables: Tensor) -> Tensor:
    """Quantise in the cosine domain: (N, K, H, W) planes, (N, 1, 8, 8) tables."""
    count, kinds, height, width = planes.shape
    blocks = planes.sub(128).view(count, kinds, height // 8, 8, width // 8, 8)
    blocks = blocks.transpose(3, 4).flatten(4)  # (N, K, C, D, 64)
    cosines = _cosines(planes.device)
    steps = tables.flatten(2)[:, :, None, None]  # (N, 1, 1, 1, 64)
    # In units of 1/8, as in libjpeg, so that ties are exact: halves are rounded away from zero.
    eighths = (8 * (blocks @ cosines.T)).round()
    counts = ((eighths.abs() + 4 * steps) / (8 * steps)).floor()
    coefficients = counts.copysign(eighths) * steps
    restored: Tensor = coefficients @ cosines
    restored = restored.view(count, kinds, height // 8, width // 8, 8, 8).transpose(3, 4)
    return restored.reshape(count, kinds, height, width).add(128).round().clamp(0, 255)


@lru_cache(maxsize=8)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal 8 x 8 cosine transform as one matrix: (64, 64)."""
    frequency, position = torch.arange(8.0).view(-1, 1), torch.arange(8.0)
    cosines = torch.cos((2 * position + 1) * frequency * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    return torch.kron(cosines, cosines).to(device)


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """RGB to YCbCr, (3, 3), and the two tables at quality 50, (1, 2, 8, 8)."""
    tables = torch.tensor([_LUMA, _CHROMA], dtype=torch.float32).unsqueeze(0)
    return torch.tensor(_TO_YCBCR).to(device), tables.to(device)
